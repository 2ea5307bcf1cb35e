"""The result notebook that `dgnb new ITEM` writes: the parts every one has, to be filled in."""
from __future__ import annotations

import os
from pathlib import Path

from dgnb.catalogue import Item, load_catalogue
from dgnb.parameters import RunnerError, need_checkout

PARAMETERS = """item = "{id}"  # id in the catalogue
scale = "smoke"  # smoke, laptop, gpu or paper
seeds = [0]  # one run for each
world = "mannequin-market"  # the set to train and test on
data = ""  # folder of a real set; empty: the synthetic world"""
IMPORTS = "import pandas as pd"
IMPORTS_OWN = "from dgnb.image_sets import open_set\nfrom dgnb.results import start"
START = """result = start(item, scale, seeds=seeds, world=world, data=data)
people = open_set(data or world, scale=scale)
result.header(people)"""
TABLE = """expected = pd.DataFrame([vars(value) for value in result.row.expected if value.table == result.row.expected[0].table])
result.table(expected.pivot_table(index="row", columns=["data", "metric"], values="value", aggfunc="first", sort=False).reset_index(), "paper")"""
CAPTION = "result.row.caption"
NOT_RUN = "result.check({}, data=people.name)\nresult.not_run()"
SAVE = "result.save();"


def cells_of(item: Item) -> list[tuple[str, str, list[str]]]:
    """(kind, source, tags) of each cell."""
    title = f"# {item.place.split(',')[0]} of {load_catalogue().papers[item.paper].get('source', item.paper).split(',')[0]}\n\n> {item.caption}"
    claims = "\n".join(f"- `{claim.id}`: {claim.text}" for claim in item.claims) or "- (none in the catalogue yet)"
    shown = ("code", TABLE, []) if item.expected else ("code", CAPTION, [])
    return [("markdown", title, []), ("code", PARAMETERS.format(id=item.id), ["parameters"]), ("code", IMPORTS, []), ("code", IMPORTS_OWN, []),
            ("code", START, []), ("markdown", f"## What is claimed\n\n{claims}", []),
            ("markdown", "## What the paper gives", []), shown,
            ("markdown", "## Ours\n\nAsk for runs with `result.run(spec)`: each is found in the store, or is `None` and listed below as not run. Give per-query "
             "results to `result.check`, which decides the claims.", []), ("code", NOT_RUN, []),
            ("markdown", "## What it means\n\nSay what agrees, what does not, and why.", []), ("code", SAVE, [])]


def new_notebook(item: Item) -> Path:
    """Write the notebook `nbs/4_results/<item>.ipynb` beside the catalogue; RunnerError when it is there already."""
    try:
        import nbformat
    except ImportError:
        raise RunnerError("dgnb new needs the notebooks extra: pip install 'dgnb[notebooks]'") from None
    need_checkout("dgnb new")
    catalogue = load_catalogue()
    path = catalogue.notebook(item) or catalogue.file.parent / "4_results" / f"{item.id.replace('-', '_')}.ipynb"
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    cells = [make[kind](source, id=f"{item.id}-{number}", metadata={"tags": tags} if tags else {}) for number, (kind, source, tags) in enumerate(cells_of(item))]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text + ("" if text.endswith("\n") else "\n"))
    except FileExistsError:
        raise RunnerError(f"{os.path.relpath(path)} is there already and is never overwritten; move it away first") from None
    return path
