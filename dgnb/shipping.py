"""Storing a result where it is tracked: `figures/<item>/`, and the outputs in the result notebook itself."""
from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from dgnb.catalogue import load_catalogue
from dgnb.parameters import RunnerError, need_checkout, parameters_of
from dgnb.paths import figures_dir
from dgnb.results import read_record
from dgnb.runner import NOTEBOOK, Job

SHIPPED_SCALES = ("laptop", "gpu", "paper")  # never smoke: it shows that things are connected, not what comes out


def refuse_unshippable(scale: str) -> None:
    """RunnerError for a scale whose results are not worth keeping, and outside a checkout."""
    need_checkout("--ship")
    if scale not in SHIPPED_SCALES:
        raise RunnerError(f"--ship keeps results of {', '.join(SHIPPED_SCALES)}; {scale} only shows that things are connected")


def ship_files(source: Path, target: Path) -> list[Path]:
    """Copy what a record names, the record last, each file complete or not there; files that only the old record named are removed."""
    old, new = read_record(target) or {"files": {}}, read_record(source)
    if new is None:
        raise RunnerError(f"{source} holds no record: run the item first")
    target.mkdir(parents=True, exist_ok=True)
    for name in [*sorted(new["files"]), "record.json"]:
        part = target / f".{name}.new"
        shutil.copyfile(source / name, part)
        os.replace(part, target / name)
    for name in old["files"].keys() - new["files"].keys():
        (target / name).unlink(missing_ok=True)
    return [target / name for name in [*sorted(new["files"]), "record.json"]]


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs with neighbouring pieces of one stream put together, and without stderr (progress of training, warnings)."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("output_type") == "stream" and last["name"] == output["name"]:
            last["text"] = [*last["text"], *output["text"]]
        else:
            joined.append(dict(output))
    for output in joined:
        if output["output_type"] == "stream":
            output["text"] = "".join(output["text"]).splitlines(keepends=True)
    return joined


def ship_notebook(source: Path, executed: Path) -> None:
    """Put the outputs of an executed copy into its source, cell by cell (by id), cleaned as nbdev_clean does; the source's code stays as it is."""
    try:
        from execnb.nbio import read_nb, write_nb
        from nbdev.clean import clean_nb
        from nbdev.config import get_config
    except ImportError:
        raise RunnerError("storing outputs in notebooks needs nbdev: pip install 'dgnb[dev]'") from None
    notebook, copy = read_nb(source), read_nb(executed)
    outputs = {cell.get("id"): cell.get("outputs", []) for cell in copy.cells}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if cell.get("id") not in outputs:
                raise RunnerError(f"{source.name} changed while it ran: cell {cell.get('id')} is not in the executed copy; run again")
            cell["outputs"] = _joined(outputs[cell["id"]])
    config = get_config(path=source.parent)
    clean_nb(notebook, False, config.get("allowed_metadata_keys", "").split(), config.get("allowed_cell_metadata_keys", "tags").split(), True)
    part = source.with_name(f".{source.name}.new")
    write_nb(notebook, part)
    os.replace(part, source)


def ship_runs(record: dict[str, Any]) -> list[Path]:
    """Copy the runs that a record was made from to the shipped store, weights and ranking lists only where the notebook asked for them."""
    from dgnb.run_store import RunSpec, RunStore
    store, parts = RunStore(), RunSpec.__dataclass_fields__
    return [store.ship(RunSpec(**{name: run[name] for name in parts}), weights=run.get("weights", False), lists=run.get("lists", False)) for run in record.get("runs", [])]


def ship(job: Job) -> Path:
    """Ship one executed job: files always, outputs where the notebook's own `item` is this item. Returns the folder shipped to."""
    source, target = Path(job.folder), figures_dir(ship=True) / job.item
    refuse_unshippable(job.scale)
    ship_runs(read_record(source) or {})
    ship_files(source, target)
    if parameters_of(Path(job.notebook)).get("item") == job.item:
        ship_notebook(Path(job.notebook), source / NOTEBOOK)
    return target


def shipped_items() -> list[str]:
    """Ids of the items that have a shipped record."""
    return [item.id for item in load_catalogue() if read_record(figures_dir(ship=True) / item.id)]
