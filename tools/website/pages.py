"""Pages that are generated: chapters, claims, figures with their provenance, the catalogue, what did not reproduce, the reference's contents.

Everything in them is read from the notebooks, the catalogue and the shipped records; nothing is typed here twice.
"""
from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dgnb.catalogue import Item, load_catalogue
from dgnb.results import shipped_records

from . import api
from . import notebooks as nb
from .settings import ROOT, settings

VERDICTS = ("holds", "fails", "within noise", "not run")
FIGURES = ROOT / "figures"


def cell(value) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def table(head: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(list(head)), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def toctree(pages: Iterable[str], caption: str = "", depth: int = 1) -> str:
    """A hidden table of contents, which gives the side bar and the order of reading."""
    head = f":caption: {caption}\n" if caption else ""
    return f"```{{toctree}}\n:hidden:\n:maxdepth: {depth}\n{head}\n" + "\n".join(pages) + "\n```"


def verdict(word: str) -> str:
    """A verdict with its mark and colour."""
    return f'<span class="verdict {word.replace(" ", "-")}">{word}</span>'


def effect(claim: dict) -> str:
    """Difference with its interval, and the spread over seeds where there is one."""
    if claim.get("effect") is None:
        return ""
    interval, spread = claim.get("interval"), claim.get("spread")
    more = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
    return f"{claim['effect']:+.3f}{more}" + (f", sd over seeds {spread:.3f}" if spread else "")


def short(item: Item) -> str:
    """The paper's short name."""
    return "Ours" if item.paper == "ours" else load_catalogue().papers[item.paper]["source"].split(",")[0]


def title(item: Item) -> str:
    return f"{short(item)}: {item.place}"


def label(item: Item) -> str:
    """The item in the side bar."""
    return f"{short(item)}: {item.place}" if item.paper == "ours" else f"{short(item)}, {item.place.split(',')[0]}"


def claims_of(item: Item, record: dict) -> list[dict]:
    """The item's claims in the catalogue's order, as recorded; those that were never checked as *not run*."""
    found = record.get("claims", [])
    return [one for claim in item.claims for one in [c for c in found if c["id"] == claim.id] or [{"id": claim.id, "text": claim.text, "verdict": "not run"}]]


def claim_table(claims: Iterable[dict]) -> str:
    """Claims as a table; a column that would be empty is left out."""
    head = ("claim", "data", "verdict", "difference (95 % interval)", "note")
    columns = zip(*[[c["text"], c.get("data", ""), verdict(c["verdict"]), effect(c), c.get("note", "")] for c in claims])
    kept = [(name, column) for name, column in zip(head, columns) if any(column)]
    return table([name for name, _ in kept], zip(*[column for _, column in kept]))


# ------------------------------------------------------------------------------------------------------------ items

def has_dark(drawing: Path) -> bool:
    """Whether a drawing looks different on a dark page; a sheet of photographs does not."""
    return b"data:image" not in drawing.read_bytes()


def picture(item: str, name: str, alt: str, up: str = "../") -> str:
    """A shipped figure in its light and dark renderings."""
    base = f"{up}figures/{item}/{name}"
    dark = f"{base}-dark.svg" if has_dark(FIGURES / item / f"{name}.svg") else f"{base}.svg"
    said = html.escape(" ".join(alt.split()), quote=True)
    return f'<img class="drawing only-light" src="{base}.svg" alt="{said}" loading="lazy"><img class="drawing only-dark" src="{dark}" alt="{said}" loading="lazy">'


def files(item: str, names: Iterable[str]) -> str:
    """Links to files of an item's folder."""
    return " · ".join(f'<a href="../figures/{item}/{name}">{name}</a>' for name in names)


def provenance(record: dict) -> str:
    """How an item was made, from its record."""
    versions = record.get("versions") or record.get("packages") or {}
    facts = {
        "command": f"<code>{nb.escape(record['command'])}</code>", "scale": record["scale"], "date": record["date"],
        "commit": f'<a href="{settings["git_url"]}/commit/{record["commit"]}">{record["commit"][:12]}</a>' if record.get("commit") else "",
        "data": ", ".join(f"{name} ({mark})" for name, mark in record["data"].items()), "seeds": ", ".join(map(str, record["seeds"])),
        "parameters": nb.escape(", ".join(f"{k}={json.dumps(v)}" for k, v in record["parameters"].items() if k not in ("item", "scale"))),
        "drawn in": f"{record['seconds']:.0f} s on {record.get('device', '')} ({record.get('cpu', '')}), {record['peak_memory']['host'] / 1e6:.0f} MB",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else str(versions),
        "runs": ", ".join(run["name"] for run in record["runs"]), "missing runs": ", ".join(run["name"] for run in record["missing"]),
        "record": f'<a href="../figures/{record["item"]}/record.json">record.json</a>',
    }
    return '<dl class="provenance">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value) + "</dl>"


def drawings(item: str, record: dict) -> list[str]:
    """The item's figures, each with links to its files."""
    parts = []
    for name, entry in record["figures"].items():
        parts += [picture(item, name, entry["alt"]), files(item, [f for f in record["files"] if f.startswith(name) and f.removeprefix(name)[:1] in ".-" and not f.endswith(".txt")])]
    return parts


def tables(item: str, record: dict) -> list[str]:
    """The item's tables as stored, with links to their forms."""
    parts = []
    for name in sorted(file.removesuffix(".md") for file in record["files"] if file.endswith(".md")):
        parts += [(FIGURES / item / f"{name}.md").read_text(encoding="utf-8").strip(), files(item, (f"{name}.csv", f"{name}.tex", f"{name}.md"))]
    return parts


def published(item: Item) -> str:
    """The paper's own numbers; withdrawn sets greyed."""
    sets, parts = load_catalogue().sets, []
    for name in dict.fromkeys(value.table for value in item.expected):
        values = [value for value in item.expected if value.table == name]
        columns = list(dict.fromkeys((value.data, value.metric) for value in values))
        head = [" ".join(filter(None, (sets.get(data, {}).get("title", data), metric))) for data, metric in columns]
        found = {(v.row, v.data, v.metric): v for v in values}
        said = lambda v: "" if v is None else f'<span class="withdrawn" title="set withdrawn in 2019">{v.value}</span>' if v.withdrawn else str(v.value)
        rows = [[nb.escape(row).replace("*", "\\*").replace("_", "\\_"), *[said(found.get((row, *column))) for column in columns]] for row in dict.fromkeys(v.row for v in values)]
        unit = f", in {values[0].unit}" if values[0].unit else ""
        off = f" Read off a plot, within {values[0].read_off}." if values[0].read_off else ""
        parts.append(f"**{name[:1].upper()}{name[1:]}**{unit} ({values[0].source}).{off}\n\n{table(['', *head], rows)}")
    return "\n\n".join(parts)


def item_page(item: Item, record: dict) -> str:
    """Everything about one table or figure."""
    lesson = f"Notebook: [{item.notebook}](../{item.notebook.removeprefix('nbs/')})." if item.notebook else "*Planned*: there is no notebook for it yet."
    parts = [f"# {title(item)}", f"> {item.caption}", f"`{item.id}`. {lesson}"]
    parts += ["## Claims", claim_table(claims_of(item, record))] if item.claims else []
    if record:
        parts += ["## Ours", *drawings(item.id, record), *tables(item.id, record)]
    parts += ["## What the paper reports", published(item)] if item.expected else []
    parts += ["## How it was made", provenance(record)] if record else []
    return "\n\n".join(parts) + "\n"


def gallery(records: dict) -> str:
    """All shipped items with their first figure."""
    parts = ["# Figures and tables", "> What the catalogue's items produced, each with the record of how."]
    for item in load_catalogue():
        if not (record := records.get(item.id)):
            continue
        first = next(iter(sorted(record["figures"], key=lambda name: name != "figure")), None)
        parts += [f"## [{title(item)}]({item.id}.md)", item.caption, picture(item.id, first, record["figures"][first]["alt"]) if first else ""]
    entries = [f"{label(item)} <{item.id}>" for item in load_catalogue()]
    return "\n\n".join(filter(None, [*parts, toctree(["catalogue", *entries])])) + "\n"


def catalogue_page(records: dict) -> str:
    """Every item of both papers and ours, with its state."""
    parts = ["# The catalogue", "> Every table and figure of both papers exactly once, and ours.",
             "`dgnb list` prints it, `dgnb run ITEM` makes an item, `dgnb status --cost` says what that would take."]
    for paper, entry in load_catalogue().papers.items():
        items = [item for item in load_catalogue() if item.paper == paper]
        state = lambda item: "shipped" if item.id in records else "built" if item.built else "planned"
        rows = [[f"[{item.id}]({item.id}.md)", item.place, item.caption, state(item)] for item in items]
        parts += [f"## {entry['title']}", entry["source"] + ".", table(("item", "place", "what it shows", "state"), rows)]
    return "\n\n".join(parts) + "\n"


# ----------------------------------------------------------------------------------------------------------- claims

def counted(claims: Iterable[dict]) -> str:
    """How many claims of each verdict."""
    counts = Counter(claim["verdict"] for claim in claims)
    return ", ".join(f"{counts[word]} {verdict(word)}" for word in VERDICTS if counts[word])


def claims_page(records: dict) -> str:
    """Every claim with its verdict, effect and interval, and links to figure and record."""
    built = [item for item in load_catalogue() if item.built]
    every = [claim for item in built for claim in claims_of(item, records.get(item.id, {}))]
    rule = ("A claim about a difference is decided by one rule: the difference for each query, averaged over seeds, with a 95 % interval from paired resamples over queries. Above zero it "
            "*holds*, below it *fails*, else it is *within noise*. Other claims say in their notebook how they are decided. *Not run* waits for a run, or says in its note why no run here can decide it; a failed claim is a result and stays.")
    parts = ["# Claims", "> What each paper says, what we say, and what came out.", rule, f"In all: {counted(every)}."]
    for paper in load_catalogue().papers:
        items = [item for item in built if item.paper == paper]
        parts += [f"## {short(items[0])}"] if items else []
        for item in items:
            record = records.get(item.id, {})
            scale = f", scale {record['scale']}, {record['date'][:10]}" if record else ""
            links = f"[Figure, table and provenance](results/{item.id}.md) · [notebook]({item.notebook.removeprefix('nbs/')})"
            links += f' · <a href="figures/{item.id}/record.json">record</a>' if record else ""
            parts += [f"### {item.place[:1].upper()}{item.place[1:]}", f"`{item.id}`{scale}. {links}", claim_table(claims_of(item, record))]
    return "\n\n".join(parts) + "\n"


def meaning(notebook: str, page: str) -> str:
    """What a result notebook says under "What it means": its prose and its Markdown outputs, as stored."""
    cells, inside, parts = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"], False, []
    for one in cells:
        text = nb.source(one) if one["cell_type"] == "markdown" else ""
        if found := re.search(r"^## (.+)$", text, re.M):
            inside = found[1].startswith("What it means")
            text = text.replace(found[0], "")
        said = [text] + ["".join(out["data"]["text/markdown"]) for out in one.get("outputs", []) if "text/markdown" in out.get("data", {})]
        parts += [nb.markdown(t, notebook, page=page) for t in said if inside and t.strip()]
    return "\n\n".join(part.strip() for part in parts)


def command(item: Item) -> str:
    """The command by which a result's notebook says that what it did not run is trained, as code; "" where it names none."""
    cells = json.loads((ROOT / item.notebook).read_text(encoding="utf-8"))["cells"]
    said = "".join("".join(out.get("data", {}).get("text/markdown", "")) for one in cells for out in one.get("outputs", []))
    return next((f"`{line}`" for line in re.findall(r"`(dgnb run [^`]+ --train)`", said) if line.split()[2] == item.id), "")


def not_reproduced(records: dict) -> str:
    """Claims that failed or drowned in noise, with what their notebooks say of it; then what waits."""
    items = [item for item in load_catalogue() if item.built]
    parts = ["# What did not reproduce, and what we think", "> Claims that fail or stay within noise, each with its explanation; then what was not run.",
             "The verdicts are those of the [claims page](claims.md). What we think is what the result's notebook says under *What it means*; the world was never tuned to please a claim."]
    for item in items:
        bad = [c for c in claims_of(item, records.get(item.id, {})) if c["verdict"] in ("fails", "within noise")]
        if bad:
            thought = meaning(item.notebook, "not_reproduced.md") or "Its notebook does not say yet."
            parts += [f"## {title(item)}", claim_table(bad), "**What we think.**", thought, f"More: [{item.id}](results/{item.id}.md)."]
    waiting = [[f"[{item.id}](results/{item.id}.md)", c["text"], c.get("data", ""), c.get("note", ""), command(item)] for item in items
               for c in claims_of(item, records.get(item.id, {})) if c["verdict"] == "not run"]
    planned = ", ".join(f"[{item.id}](results/{item.id}.md)" for item in load_catalogue() if not item.built)
    parts += ["## Not run", table(("item", "claim", "data", "note", "trained by"), waiting)] if waiting else []
    parts += ["## Planned", f"These have no notebook yet: {planned}."] if planned else []
    return "\n\n".join(parts) + "\n"


# --------------------------------------------------------------------------------------------- chapters and contents

def chapters() -> list[Path]:
    """Folders of notebooks in reading order."""
    return sorted(folder for folder in nb.NBS.iterdir() if re.match(r"\d_", folder.name) and any(folder.glob("*.ipynb")))


def chapter_title(folder: Path) -> str:
    number, name = folder.name.split("_", 1)
    return f"{number}. " + {"dgnet": "DG-Net", "vrstc": "VRSTC"}.get(name, name.replace("_", " ").capitalize())


def chapter_page(folder: Path) -> str:
    """A chapter: what the front page says of it, and its notebooks."""
    index = (nb.NBS / "index.ipynb").read_text(encoding="utf-8")
    said = re.search(rf"\[{folder.name}\]\([^)]*\) \| (.+?) \|", index)
    lessons = [(path.name, *nb.title_of(path)) for path in sorted(folder.glob("*.ipynb"))]
    intro = [json.loads(f'"{said[1]}"').strip().rstrip(".")] if said else []
    intro = [f"> {words[:1].upper()}{words[1:]}." for words in intro]
    rows = table(("", "notebook", "what it is about"), [(n + 1, f"[{name}]({file})", words) for n, (file, name, words) in enumerate(lessons)])
    return "\n\n".join([f"# {chapter_title(folder)}", *intro, rows, toctree(path.removesuffix(".ipynb") for path, *_ in lessons)]) + "\n"


def api_index() -> str:
    """All modules with the first line of what they say of themselves."""
    import importlib
    parts = ["# Reference", "> Every module, from its docstrings; what an argument means stands beside it in the source, and here."]
    groups = {"Foundations": lambda n, made: n.count(".") == 1 and made, "DG-Net": lambda n, made: n.startswith("dgnb.dgnet."), "VRSTC": lambda n, made: n.startswith("dgnb.vrstc."),
              "Plumbing, written by hand": lambda n, made: not made and n.count(".") == 1}
    found = api.modules()
    for group, belongs in groups.items():
        names = [name for name in found if belongs(name, found[name])]
        rows = [[f"[`{name}`]({name}.rst)", ((importlib.import_module(name).__doc__ or "").strip().splitlines() or [""])[0]] for name in names]
        parts += [f"## {group}", table(("module", "what it is for"), rows)] if rows else []
    return "\n\n".join([*parts, toctree(found)]) + "\n"


def contents() -> str:
    """The tables of contents at the end of the front page."""
    return "\n\n".join([
        toctree([f"{folder.name}/index" for folder in chapters()], "Read"),
        toctree(["claims", "not_reproduced", "results/index"], "Results"),
        toctree(["api/index", "pages/notation", "pages/glossary", "1_foundations/data_cards"], "Look up"),
        toctree(["pages/questions", "pages/notes_questions", "pages/notes_questions_zh", "pages/faq", "pages/teaching", "pages/responsible_use", "project/benchmarks", "project/contributing", "project/changes"], "More")])


def everything() -> dict[str, str]:
    """Every generated page: its path from the site's root -> its text."""
    records = shipped_records()
    made = {"claims.md": claims_page(records), "not_reproduced.md": not_reproduced(records), "results/index.md": gallery(records),
            "results/catalogue.md": catalogue_page(records), "api/index.md": api_index()}
    made |= {f"results/{item.id}.md": item_page(item, records.get(item.id, {})) for item in load_catalogue()}
    made |= {f"{folder.name}/index.md": chapter_page(folder) for folder in chapters()}
    made |= {f"api/{name}.rst": api.page(name, notebook) for name, notebook in api.modules().items()}
    return made
