"""Notebooks as the site reads them: nbdev's directives taken out, alt texts and Markdown outputs put where Sphinx looks, links made to fit.

`page(notebook)` gives the site's form, `copy(notebook)` what a reader downloads or opens in Colab: the notebook as it is, after a setup cell.
"""
from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

from .settings import ROOT, binder_url, colab_url, setup_cell, source_url

NBS, FRONT = ROOT / "nbs", "nbs/index.ipynb"  # the front page shows what its cells give, not the cells
CODE = re.compile(r"(^ {0,3}```.*?^ {0,3}```[ \t]*$|``.+?``|`[^`\n]+`)", re.M | re.S)
LINK = re.compile(r"(\]\()([^()\s]+)(\))")
CALLOUT = re.compile(r"^:::+ *\{\.callout-(\w+)[^}]*\} *$", re.M)
VERDICT = re.compile(r"(?<=\| )\*(holds|fails|within noise|not run)\*(?= \|)")  # in a table
DEAD: list[str] = []  # links that lead nowhere, as they are found
OWN_PAGES = {"CONTRIBUTING.md": "project/contributing.md", "CHANGELOG.md": "project/changes.md", "benchmarks": "project/benchmarks.md",
             "benchmarks/results.md": "project/benchmarks.md", "figures": "results/index.md", "nbs/experiments.yaml": "results/catalogue.md",
             "README.md": "index.ipynb", "nbs/index.ipynb": "index.ipynb"}


def site_path(path: str) -> str | None:
    """Where the site has a file or folder of the repository (path from the site's root), or None where it does not."""
    if path in OWN_PAGES:
        return OWN_PAGES[path]
    if re.fullmatch(r"nbs/\d_\w+", path):
        return f"{path[4:]}/index.md"
    if path.startswith("nbs/") and path.endswith((".ipynb", ".md")):
        return path[4:]
    if re.fullmatch(r"figures/[\w-]+", path):
        return f"results/{path[8:]}.md"
    if path.startswith("figures/"):
        return f"_extra/{path}"
    if re.fullmatch(r"dgnb/[\w/]+\.py", path):
        return f"api/{path[:-3].replace('/', '.')}.rst"
    return None


def relink(target: str, here: str, page: str = "") -> str:
    """A link of a file (its path from the repository's root) as the site's page (its own, or another) needs it; dead ones are noted in `DEAD`."""
    if re.match(r"[a-z]+:|#", target):
        return target
    path, mark, anchor = target.partition("#")
    full = os.path.normpath(os.path.join(os.path.dirname(here), path))
    if not (ROOT / full).exists():
        DEAD.append(f"{here}: the link to {target} leads nowhere")
        return "#"
    there = site_path(full)
    if there is None:
        return source_url(full) + mark + anchor
    own = page or site_path(here) or here
    return os.path.relpath(there, os.path.dirname(own) or ".") + mark + anchor


def markdown(text: str, here: str, names: dict[str, str] = {}, page: str = "") -> str:
    """Markdown of the repository as the site's: links that fit, Quarto's callouts as MyST's, code words linked to the reference."""
    kept: list[str] = []

    def hide(match: re.Match) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    def show(match: re.Match) -> str:
        word = kept[int(match[1])]
        inside = text_now.count("[", 0, match.start()) > text_now.count("]", 0, match.start())
        line = text_now[text_now.rfind("\n", 0, match.start()) + 1:match.start()]
        said = word.strip("`")
        full = names.get(said.removesuffix("()"))
        if not full or inside or line.startswith("#") or "<" in line:
            return word
        short = re.sub(r"^dgnb\.([a-z]\w*\.)*(?=\w)", "", said)
        return f"{{py:obj}}`{short} <{full}>`"

    text_now = CODE.sub(hide, text)
    text_now = LINK.sub(lambda m: m[1] + relink(m[2], here, page) + m[3], text_now)
    text_now = CALLOUT.sub(r":::{\1}", text_now)
    return re.sub(r"\0(\d+)\0", show, text_now)


def source(cell: dict) -> str:
    return "".join(cell["source"])


def text_cell(text: str, number: int = 0) -> dict:
    return {"cell_type": "markdown", "id": f"site-{number}", "metadata": {}, "source": text}


def actions(here: str, module: str | None) -> str:
    """The line under a title: download, open elsewhere, reference."""
    path = here.removeprefix("nbs/")
    up = "../" * path.count("/")
    links = [f'<a href="{up}notebooks/{path}" download>Download notebook</a>', f'<a href="{colab_url(path)}">Open in Colab</a>',
             f'<a href="{binder_url(path)}">Open in Binder</a>']
    links += [f'<a href="{up}api/{module}.html">Reference: {module}</a>'] if module else []
    said = " <span>Code with a bar at its left is the module.</span>" if module else ""
    return f'<p class="actions">{" ".join(links)}{said}</p>'


def plain_html(text: str) -> str:
    """A table as pandas writes it, without its style sheet."""
    return re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.S).replace(' border="1"', "")


def marked(text: str) -> str:
    """Tables with the verdicts' marks and colours."""
    return VERDICT.sub(lambda m: f'<span class="verdict {m[1].replace(" ", "-")}">{m[1]}</span>', text)


def shown(output: dict, here: str) -> dict:
    """An output with one form, the best that the site can show."""
    data = output.get("data")
    if data is None:
        return output
    kind = next(kind for kind in ("text/markdown", "image/png", "image/svg+xml", "text/html", "text/plain", *data) if kind in data)
    value = "".join(data[kind])
    value = plain_html(value) if kind == "text/html" else marked(markdown(value, here)) if kind == "text/markdown" else value
    return {**output, "data": {kind: value}}


def code_cells(cell: dict, here: str) -> list[dict]:
    """A code cell as one or more: each picture has a cell of its own that carries its alt text, Markdown outputs become text."""
    lines = source(cell).splitlines()
    code = "\n".join(line for line in lines if not line.startswith("#|")).strip("\n")
    tags = [*cell["metadata"].get("tags", []), *(["exported"] if any(line.startswith("#| export") for line in lines) else []), *(["remove-input"] if here == FRONT else [])]
    made = [{**cell, "source": code, "outputs": [], "metadata": {"tags": tags}}]
    for number, output in enumerate(shown(o, here) for o in cell.get("outputs", [])):
        picture = output.get("data", {}).get("image/png")
        if (said := output.get("data", {}).get("text/markdown")) is not None:
            made += [{**text_cell(said), "id": f"{cell['id']}-{number}"}] if said.strip() else []
            continue
        if made[-1]["cell_type"] != "code" or picture and made[-1]["outputs"]:
            made.append({**cell, "id": f"{cell['id']}-{number}", "source": "", "outputs": [], "metadata": {"tags": ["remove-input"]}})
        if picture:
            made[-1]["metadata"]["mystnb"] = {"image": {"alt": " ".join(output["metadata"]["image/png"]["alt"].split())}}
        made[-1]["outputs"].append(output)
    return [one for one in made if one["cell_type"] != "code" or one["source"] or one["outputs"]]


def shown_with(cell: dict) -> list[dict]:
    """After a parameters cell: what the results below were made with, from the record, where it differs from the defaults."""
    found = re.search(r'^item = "([\w-]+)"', source(cell), re.M) if "parameters" in cell["metadata"].get("tags", []) else None
    record = ROOT / "figures" / found[1] / "record.json" if found else None
    if record is None or not record.exists():
        return []
    used = {name: value for name, value in json.loads(record.read_text(encoding="utf-8"))["parameters"].items() if name != "item"}
    said = ", ".join(f"`{name} = {json.dumps(value)}`" for name, value in used.items())
    return [text_cell(f"*These are the defaults. What follows was made with* {said}.", 2)]


def page(path: Path, names: dict[str, str] = {}, more: str = "") -> str:
    """The site's form of a notebook, as JSON text; `more` is text for its end, such as a table of contents."""
    here, notebook = path.relative_to(ROOT).as_posix(), json.loads(path.read_text(encoding="utf-8"))
    made: list[dict] = []
    module = re.search(r"#\| default_exp (\S+)", "\n".join(source(cell) for cell in notebook["cells"][:2]))
    for cell in notebook["cells"]:
        if re.search(r"^#\| *(hide|default_exp)", source(cell), re.M) or not source(cell).strip():
            continue
        if cell["cell_type"] == "code":
            made += code_cells(cell, here) + shown_with(cell)
            continue
        first = not made
        made.append({**cell, "source": markdown(source(cell), here, names)})
        made += [text_cell(actions(here, f"dgnb.{module[1]}" if module else None))] if first else []
    made += [text_cell(more, 1)] if more else []
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return json.dumps({**notebook, "metadata": {**notebook["metadata"], **language}, "cells": made}, indent=1)


def copy(path: Path) -> str:
    """What a reader downloads: the notebook with a setup cell, after its title, that does nothing where the package is there."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = {"cell_type": "code", "execution_count": None, "id": "setup", "metadata": {}, "outputs": [], "source": setup_cell().splitlines(keepends=True)}
    title = next(n for n, one in enumerate(notebook["cells"]) if one["cell_type"] == "markdown")
    return json.dumps({**notebook, "cells": [*notebook["cells"][:title + 1], cell, *notebook["cells"][title + 1:]]}, indent=1) + "\n"


def title_of(path: Path) -> tuple[str, str]:
    """(title, subtitle) of a notebook or page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = next(source(cell) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    found = re.match(r"# (.+)(?:\s*\n> (.+))?", text)
    return found[1].strip(), (found[2] or "").strip()


def all_notebooks() -> list[Path]:
    """Every notebook in reading order."""
    return sorted(path for path in NBS.rglob("*.ipynb") if "checkpoints" not in str(path))


def escape(text) -> str:
    return html.escape(str(text), quote=False)
