"""What making results again from nothing costs: the time that the shipped runs took, from their own records, each run counted once."""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dgnb.catalogue import Item
from dgnb.freshness import run_folder
from dgnb.paths import figures_dir
from dgnb.results import Line, read_record, shipped_records

__all__ = ["run_minutes", "minutes_of", "minutes_together", "readme_cost"]


def run_minutes(record: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Minutes of training and testing of each run of a record, by name; None without a record, or when a run's own record cannot be read."""
    folders = {run["name"]: run_folder(run) for run in record["runs"]} if record else {"": None}
    try:
        return {name: json.loads(Path(folder, "record.json").read_text(encoding="utf-8"))["seconds"] / 60 for name, folder in folders.items()}
    except (OSError, TypeError, ValueError, KeyError):
        return None


def _parts(item: Item, scale: str) -> dict[str, float] | None:
    """Minutes of the runs behind what was shipped of an item at a scale, and of drawing it; None where nothing was, or at another scale."""
    record = read_record(figures_dir(ship=True) / item.id)
    runs = run_minutes(record) if record and record["scale"] == scale else None
    return None if runs is None else runs | {f"drawing {item.id}": record.get("seconds", 0) / 60}


def minutes_of(item: Item, scale: str) -> float | None:
    """Minutes of an item's own runs and of drawing it: measured where it was shipped, else what the catalogue says; None where neither is known."""
    found = _parts(item, scale)
    return item.scales[scale].minutes if found is None else sum(found.values())


def minutes_together(items: Iterable[Item], scale: str) -> float | None:
    """Minutes of several items, a run that many of them use counted once; None where no item's are known."""
    found = {item.id: _parts(item, scale) or {"": item.scales[scale].minutes} for item in items if item.scales.get(scale)}
    each = {f"{name or item}": minutes for item, parts in found.items() for name, minutes in parts.items() if minutes is not None}
    return sum(each.values()) if each else None


def readme_cost() -> Line:
    """For the README: the hours of retraining all that was shipped, and how to do it in pieces or on many machines."""
    runs = {name: minutes for record in shipped_records().values() for name, minutes in (run_minutes(record) or {}).items()}
    return Line(f"To train everything shipped again takes {sum(runs.values()) / 60:.0f} hours of one CPU core ({len(runs)} runs; the sum of the times in their records): `dgnb run all --scale laptop --fresh`. "
                "It may be interrupted: it prints the command that goes on from there. Several cores share the work by themselves; several machines by `--dask tcp://HOST:8786`, "
                "with `dask scheduler` on one of them and `dask worker tcp://HOST:8786 --nthreads 1` on each (`pip install 'dgnb[cluster]'`; they should share the folder that `DGNB_RUNS` names, or each trains for itself).")
