"""One page of many results: every claim with its verdict, effect and interval, and links to figure and record; what `dgnb run all` prints and writes."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dgnb.catalogue import load_catalogue
from dgnb.results import VERDICTS, _effect, read_record

__all__ = ["claims_in", "claim_lines", "overview_page", "write_overview"]


def claims_in(folders: Iterable[Path]) -> Iterator[tuple[str, Path, dict, dict]]:
    """Item, folder, record and claim, for every claim of the records in some folders, in the catalogue's order."""
    found = {record["item"]: (Path(folder), record) for folder in folders if (record := read_record(folder))}
    for item in load_catalogue():
        if item.id in found:
            folder, record = found[item.id]
            yield from ((item.id, folder, record, claim) for claim in record["claims"])


def counts(rows: list) -> str:
    """How many claims of each verdict, in words."""
    how_many = Counter(claim["verdict"] for *_, claim in rows)
    return ", ".join(f"{how_many[word]} {word}" for word in VERDICTS if how_many[word]) or "no claim was checked"


def claim_lines(folders: Iterable[Path]) -> list[list[str]]:
    """A table for the terminal: verdict, effect, item, claim."""
    rows = list(claims_in(folders))
    lines = [[claim["verdict"], _effect(claim), item, claim["text"] + (f" [{claim['data']}]" if claim["data"] else "")] for item, _, _, claim in rows]
    return [["verdict", "effect (95 % interval)", "item", "claim"], *lines] if rows else []


def overview_page(folders: Iterable[Path], beside: Path) -> str:
    """The same as Markdown, with links from the folder `beside` to each figure (or, without one, table) and record, and the day on which each was made."""
    rows, parts = list(claims_in(folders)), []
    for item, folder, record, claim in rows:
        where = folder.relative_to(beside).as_posix()
        shown = next((name for name in (*(f"{name}.png" for name in sorted(record["figures"], key=lambda name: (name != "figure", name))), "table.md") if name in record["files"]), "")
        links = " · ".join(f"[{word}]({where}/{name})" for word, name in (("figure" if shown.endswith("png") else "table", shown), ("record", "record.json")) if name)
        cells = (item, claim["text"], claim["data"], f"*{claim['verdict']}*", _effect(claim), claim.get("note", ""), record["date"][:10], links)
        parts.append("| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |")
    names = ("item", "claim", "data", "verdict", "effect (95 % interval)", "note", "made", "see")
    items = len({item for item, *_ in rows})
    total = f", of {items} item" + "s" * (items > 1) if items else ""
    head = [f"# Claims\n\n> {counts(rows)[:1].upper()}{counts(rows)[1:]}{total}. Nothing here is typed by hand: it is what the records say.", "",
            "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*head, *parts]) + "\n"


def write_overview(
    folders: Iterable[Path],  # of results just made, each with its record
    scale: str,  # names the page
) -> Path | None:
    """Write `claims-SCALE.md` above the items' folders: what was just made, and what was made of other items before, at that scale.

    None where no record has a claim, and where all results have changed parameters: the page is of the catalogue's own.
    """
    folders = [folder for folder in map(Path, folders) if folder.name == scale]
    if not any(claims_in(folders)):
        return None
    beside = folders[0].parents[1]
    page = beside / f"claims-{scale}.md"
    draft = page.with_name(f".{page.name}.part")
    draft.write_text(overview_page(sorted(beside.glob(f"*/{scale}")), beside), encoding="utf-8")
    draft.replace(page)
    return page
