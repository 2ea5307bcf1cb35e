"""Slides from a lesson's own cells, as one HTML file that needs nothing else: `slides(notebook)`.

Cells are chosen by tags: `slide` begins a slide, `slide-more` goes on with it, `slide-code` also shows a code cell's code. A heading always begins a
slide, text before it belongs to the one before, and a slide that is full is followed by another. Of a paragraph the slide has the first sentence (and
the last where an equation follows); the whole text is the speaker's, under the key n.
"""
from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from exercises import source, tags
from website.notebooks import CODE, plain_html
from website.settings import vendored

HERE = Path(__file__).resolve().parent
LOOK = HERE / "website" / "slides"
MATHS = re.compile(r"(\$\$.+?\$\$|\$[^$\n]+\$)", re.S)
KEPT = re.compile(r"[#>|<]|\s*[-*+] |\s*\d+\. |```|\$\$|:::|\*\*Exercise")  # blocks that stand on a slide as they are
LINKED = re.compile(r"\[([^\]]+)\]\([^)]+\)")


@dataclass
class Slide:
    """One slide, still in Markdown and HTML."""
    title: str
    body: list[str] = field(default_factory=list)  # Markdown
    shown: list[str] = field(default_factory=list)  # HTML of pictures, tables, code
    after: list[str] = field(default_factory=list)  # Markdown below what is shown
    notes: list[str] = field(default_factory=list)  # Markdown
    wide: bool = True  # whether its pictures are much wider than high, so that text has no place beside them
    drawn: bool = False  # whether it has a picture

    def add(self, block: str) -> None:
        """Put a block of Markdown on the slide, and the whole of it into the notes where the slide has less."""
        (self.after if self.shown else self.body).append(brief(block))
        self.notes += [block] if brief(block) != block else []

    def full(self, block: str) -> bool:
        """Whether the slide has no room for one more block."""
        return sum(map(room, [*self.body, *self.after])) + 3 * len(self.shown) + room(brief(block)) > 10


def sentences(paragraph: str) -> list[str]:
    """A paragraph's sentences; code and maths are not cut."""
    kept: list[str] = []
    hide = lambda match: kept.append(match[0]) or f"\0{len(kept) - 1}\0"
    text = MATHS.sub(hide, CODE.sub(hide, " ".join(paragraph.split())))
    parts = re.split(r"(?<=[.!?])(?<!\bvs\.)(?<!e\.g\.)(?<!i\.e\.) +(?=[*\"(]*[A-Z\0])", text)
    back = lambda part: re.sub(r"\0(\d+)\0", lambda m: back(kept[int(m[1])]), part)
    return [back(part) for part in parts]


def blocks(text: str) -> list[str]:
    """Markdown cut at empty lines; fences, callouts and display maths stay whole."""
    whole = re.findall(r"^```.*?^```$|^:::.*?^:::$|^\$\$.*?\$\$ *\.?$|(?:^(?!```|:::|\$\$)[^\n]*\S[^\n]*\n?)+", text, re.M | re.S)
    return [block.strip() for block in whole if block.strip()]


def brief(block: str) -> str:
    """What a slide shows of a block."""
    if callout := re.match(r"(:::[^\n]*\n)(.*)(\n:::)$", block, re.S):
        return callout[1] + " ".join(sentences(callout[2])[:2]) + callout[3]
    if KEPT.match(block):
        return block
    parts = sentences(block)
    return " ".join([parts[0], *([parts[-1]] if len(parts) > 1 and block.endswith(":") else [])])


def room(block: str) -> float:
    """How much of a slide a block takes; 10 is all of it, if set smaller."""
    lines = block.count("\n") + 1
    return 5 if block.startswith("```") else 1.5 if block.startswith("$$") else max(1.0, 0.6 * lines) if KEPT.match(block) else 0.7 + len(block) / 250


def picture(output: dict) -> tuple[str, bool]:
    """(HTML of a stored picture, whether it is much wider than high)."""
    import base64
    data = "".join(output["data"]["image/png"]).strip()
    head = base64.b64decode(data[:64])
    said = html.escape(" ".join(output["metadata"]["image/png"]["alt"].split()), quote=True)
    return f'<img src="data:image/png;base64,{data}" alt="{said}">', int.from_bytes(head[16:20], "big") > 2.2 * int.from_bytes(head[20:24], "big")


def add_code(slide: Slide, cell: dict) -> None:
    """Put a code cell's outputs, and its code where asked, on a slide."""
    if "slide-code" in tags(cell):
        code = "\n".join(line for line in source(cell).splitlines() if not line.startswith("#|"))
        slide.shown.append(f'<pre class="code"><code>{html.escape(code)}</code></pre>')
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            text, wide = picture(output)
            slide.wide, slide.drawn = slide.wide and wide, True
            slide.shown.append(text)
        elif "text/html" in data:
            slide.shown.append(plain_html("".join(data["text/html"])))
        elif "text/markdown" in data:
            slide.body.append("".join(data["text/markdown"]))
        else:
            text = "".join(data.get("text/plain", output.get("text", ""))).rstrip()
            text = re.sub(r"\n(?:Name: (.+), )?dtype: \w+$", lambda m: f"\n({m[1]})" if m[1] else "", text)  # pandas
            slide.shown.append(f"<pre>{html.escape(text)}</pre>")


def add_text(made: list[Slide], text: str, fresh: bool) -> None:
    """Put a Markdown cell on the last slide and, from its headings on, on new ones."""
    for n, block in enumerate(blocks(text)):
        heading = re.match(r"#+ (.+)", block)
        if heading or fresh and n == 0 and not re.search(r"^#+ ", text, re.M):
            made.append(Slide(heading[1] if heading else made[-1].title))
        elif made[-1].full(block):
            said = made[-1].after or made[-1].body
            made.append(Slide(made[-1].title, [said.pop()] if said and said[-1].endswith(":") else []))  # what introduces the block comes along
        if block := block[heading.end():].strip() if heading else block:
            made[-1].add(block)


def choose(cells: list[dict]) -> list[Slide]:
    """Slides of the cells that are tagged; a ValueError for a notebook that has none."""
    made = [Slide("")]
    for cell in cells:
        chosen = tags(cell) & {"slide", "slide-more"}
        if chosen and cell["cell_type"] == "markdown":
            add_text(made, source(cell), "slide" in chosen)
        elif chosen:
            drawn = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
            made += [Slide(made[-1].title)] if "slide" in chosen or drawn and made[-1].drawn else []
            if drawn:  # a small table stands with the text, the picture beside them
                made[-1].body, made[-1].shown, made[-1].after = [*made[-1].body, *made[-1].shown, *made[-1].after], [], []
            add_code(made[-1], cell)
    made = [slide for slide in made if slide.body or slide.shown]
    if not made:
        raise ValueError("no cell has the tag slide: tag those that begin one")
    return made


def renderer():
    """Markdown to HTML, with maths left to MathJax and diagrams to Mermaid."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    maths = lambda text, options: f"\\[{html.escape(text)}\\]" if options["display_mode"] else f"\\({html.escape(text)}\\)"
    made = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, renderer=maths, double_inline=True)
    fence = made.renderer.rules["fence"]
    drawn = lambda tokens, n, options, env: f'<div class="mermaid">{html.escape(tokens[n].content)}</div>' if tokens[n].info == "mermaid" else fence(tokens, n, options, env)
    made.renderer.rules["fence"] = drawn

    def render(text: str) -> str:
        text = re.sub(r"^::: *\{[^}]*\} *$", '<aside class="callout">\n', text, flags=re.M)
        return made.render(LINKED.sub(r"\1", re.sub(r"^::: *$", "\n</aside>", text, flags=re.M)))
    return render


def coloured(text: str) -> str:
    """HTML with its code in colours."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer
    look = HtmlFormatter(nowrap=True, noclasses=True, style="default")
    return re.sub(r'(<pre class="code"><code>)(.*?)(</code>)', lambda m: m[1] + highlight(html.unescape(m[2]), PythonLexer(), look).rstrip() + m[3], text, flags=re.S)


def section(slide: Slide, number: int, render) -> str:
    """A slide as HTML."""
    shape = "title" if number == 1 else "plain" if not slide.shown or not (slide.body or slide.after) else "stacked" if slide.wide else "beside"
    title = render(f"{'#' if number == 1 else '##'} {slide.title}")
    parts = ("said", render("\n\n".join(slide.body))), ("shown", coloured("".join(slide.shown))), ("said", render("\n\n".join(slide.after)))
    notes = f'<aside class="notes" hidden>{render(chr(10).join(n + chr(10) for n in slide.notes))}</aside>' if slide.notes else ""
    inner = "".join(f'<div class="{name}">{text}</div>' for name, text in parts if text)
    return f'<section id="s{number}" class="{shape}" aria-label="slide {number}"><div class="fit">{title}<div class="inner">{inner}</div></div>{notes}</section>'


def script(path: Path) -> str:
    """A JavaScript file inside a page."""
    return "<script>" + path.read_text(encoding="utf-8").replace("</script", "<\\/script") + "</script>"


def slides(path: Path) -> str:
    """A lesson's slides as the text of one HTML file."""
    made, render = choose(json.loads(path.read_text(encoding="utf-8"))["cells"]), renderer()
    body = "\n".join(section(slide, n, render) for n, slide in enumerate(made, 1))
    scripts = [script(vendored() / "mermaid" / "mermaid.min.js")] if 'class="mermaid"' in body else []
    config = "<script>window.MathJax = { options: { enableMenu: false }, svg: { fontCache: 'local' }, startup: { typeset: false } };</script>"
    scripts += [config, script(vendored() / "mathjax" / "tex-svg.js"), script(LOOK / "slides.js")]
    style = (LOOK / "slides.css").read_text(encoding="utf-8")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(made[0].title)}</title><style>{style}</style>'
    bar = '<nav><button id="back" aria-label="previous slide">‹</button><output id="count"></output><button id="on" aria-label="next slide">›</button></nav>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>{body}</main>{bar}{"".join(scripts)}</body></html>\n'
