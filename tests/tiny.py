"""A tiny project for tests: a catalogue of a few items with notebooks that take a moment, and folders of their own."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """item = "tiny-a"  # id in the catalogue
scale = "smoke"  # smoke, laptop, gpu or paper
seeds = [0]  # one run each
rate = 0.5  # learning rate
name = "x"  # any text
flag = False  # a switch"""
START = """from dgnb.results import start
result = start(item, scale, seeds=seeds, rate=rate, name=name, flag=flag)
result.header()"""
SAVE = "result.save();"


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    """A notebook with a title, a parameters cell, and code cells; cell ids are stable."""
    cells = [new_markdown_cell("# Tiny\n\n> a test"), new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
    for number, cell in enumerate(cells):
        cell["id"] = f"{path.stem}-{number}".replace("_", "-")
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def row(notebook: str | None, **more) -> dict:
    """A catalogue row."""
    at = {"parameters": {"seeds": [0]}, "minutes": 0.1}
    return {"paper": "tiny", "kind": "table", "place": "Table 1, here", "caption": "A tiny thing.", "notebook": notebook,
            "status": "built" if notebook else "planned", "requires": ["nothing"],
            "claims": [{"id": "up", "text": "A is above B.", "check": "greater(mAP, a, b)"}, {"id": "said", "text": "It is so."}],
            "scales": {name: at for name in ("smoke", "laptop", "gpu", "paper")}, **more}


def make_project(root: Path, monkeypatch, **notebooks: tuple[str, ...]) -> Path:
    """Items `tiny-NAME` whose notebooks have the given code between `start` and `save`, and DGNB_* variables that point into `root`."""
    items = {}
    for name, sources in notebooks.items():
        text = PARAMETERS.replace("tiny-a", f"tiny-{name}")
        write_notebook(root / "nbs" / f"{name}.ipynb", START, *sources, SAVE, parameters=text)
        items[f"tiny-{name}"] = row(f"nbs/{name}.ipynb")
    write_catalogue(root, items)
    for variable, value in {"CATALOGUE": root / "nbs" / "experiments.yaml", "FIGURES": root / "figures", "RUNS": root / "runs",
                            "SHIPPED_RUNS": root / "shipped"}.items():
        monkeypatch.setenv(f"DGNB_{variable}", str(value))
    return root


def write_catalogue(root: Path, items: dict) -> Path:
    """The catalogue of such items."""
    raw = {"version": 1, "sets": {"real": {"title": "Real", "withdrawn": True}}, "items": items,
           "papers": {"tiny": {"title": "Tiny", "source": "a test", "scales": row(None)["scales"]}}}
    file = root / "nbs" / "experiments.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(json.loads(json.dumps(raw)), sort_keys=False))
    return file


def nbdev_clean(notebook: Path) -> None:
    """Clean a notebook under the project's own settings."""
    (notebook.parent / "settings.ini").write_text((Path(__file__).parents[1] / "settings.ini").read_text())
    code = f"from nbdev.clean import nbdev_clean; nbdev_clean({str(notebook)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=notebook.parent, check=True, capture_output=True)


def executed(root: Path, item: str, scale: str = "smoke"):
    """The executed copy of an item's notebook."""
    return nbformat.read(root / "figures" / item / scale / "notebook.ipynb", as_version=4)
