"""Training shipped runs again from nothing and comparing what comes out with what was shipped."""
from __future__ import annotations

import importlib
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgnb.catalogue import Item
from dgnb.freshness import modules_of
from dgnb.parameters import RunnerError
from dgnb.paths import figures_dir
from dgnb.results import read_record

SPREADS = 3.0  # seed spreads that a metric may differ by
FLOOR = 0.02  # allowed difference, as a share of the metric, where an item has one seed only and so no spread is known


@dataclass(frozen=True)
class Difference:
    """One metric of one run, shipped and trained again."""
    run: str  # folder name of the run
    metric: str
    shipped: float
    again: float
    allowed: float  # largest difference that counts as the same
    why: str  # where `allowed` comes from

    @property
    def ok(self) -> bool:
        """Whether the two agree."""
        return math.isclose(self.shipped, self.again, rel_tol=1e-12) or abs(self.shipped - self.again) <= self.allowed


def flat_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers of nested metrics, by dotted name; times and counts of bytes are no results and are left out."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat_metrics(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and not name.endswith(("seconds", "per_second", "bytes")):
            found[prefix + name] = float(value)
    return found


def seed_spreads(runs: Sequence[Mapping[str, Any]], metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metric -> its largest standard deviation over seeds, among groups of runs that differ in nothing but the seed."""
    groups: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        groups[repr((run["recipe"], run["version"], run["settings"], run["data"]))].append(run["key"])
    spreads: dict[str, float] = {}
    for keys in groups.values():
        for name in set.intersection(*(set(metrics[key]) for key in keys)) if len(keys) > 1 else ():
            spreads[name] = max(spreads.get(name, 0.0), statistics.stdev(metrics[key][name] for key in keys))
    return spreads


def compare(run: str, shipped: Mapping[str, float], again: Mapping[str, float], spreads: Mapping[str, float]) -> list[Difference]:
    """Every shipped metric beside its new value; one that is gone counts as different."""
    rows = []
    for name, value in sorted(shipped.items()):
        known = spreads.get(name)
        allowed, why = (SPREADS * known, f"{SPREADS:g} seed spreads") if known is not None else (FLOOR * abs(value), f"{FLOOR:.0%}, no spread known")
        rows.append(Difference(run, name, value, again.get(name, math.nan), allowed, why))
    return rows


def chosen(runs: Sequence[Mapping[str, Any]], only: str) -> list[Mapping[str, Any]]:
    """The runs to train again; RunnerError lists them when none begins with `only`."""
    found = [run for run in runs if run["name"].startswith(only) or run["key"].startswith(only)]
    if not found:
        raise RunnerError(f"no run begins with {only!r}; there are {', '.join(run['name'] for run in runs) or 'none'}")
    return found


@dataclass(frozen=True)
class Shipped:
    """A shipped run and what it may differ by."""
    run: Mapping[str, Any]  # as the item's record names it
    kept: Any  # the Run in the store
    metrics: Mapping[str, float]
    spreads: Mapping[str, float]


def shipped_runs_of(item: Item) -> list[Shipped]:
    """The runs of an item's shipped record; RunnerError when there is no record or a run is gone."""
    from dgnb.run_store import MissingRun, RunStore
    record = read_record(figures_dir(ship=True) / item.id)
    if record is None:
        raise RunnerError(f"{item.id} was not shipped, so there is nothing to compare with: dgnb run {item.id} --scale laptop --train --ship")
    for module in modules_of_item(item):
        importlib.import_module(f"dgnb.{module}")
    store = RunStore()
    try:
        kept = {run["key"]: store.get(spec_of(run)) for run in record["runs"]}
    except MissingRun as error:
        raise RunnerError(f"{item.id}: {error}") from None
    metrics = {key: flat_metrics(run.metrics) for key, run in kept.items()}
    spreads = seed_spreads(record["runs"], metrics)
    return [Shipped(run, kept[run["key"]], metrics[run["key"]], spreads) for run in record["runs"]]


def verify(
    items: Sequence[Item],  # whose shipped runs to train again
    only: str = "",  # only runs whose name or key begins so
    quick: bool = False,  # only the one that took least time
    say: Callable[[str], None] = print,  # where lines go
) -> bool:  # whether everything agrees
    """Train shipped runs into a store that is thrown away and compare; RunnerError when nothing was shipped or a run is gone."""
    from dgnb.run_store import RunStore
    shipped = {one.run["name"]: one for item in items for one in shipped_runs_of(item)}
    if not shipped:
        raise RunnerError("nothing was shipped, so there is nothing to verify: dgnb run ITEM --scale laptop --train --ship")
    todo = [shipped[run["name"]] for run in chosen([one.run for one in shipped.values()], only)]
    todo = [min(todo, key=lambda one: one.kept.record["seconds"])] if quick else todo
    good = True
    with tempfile.TemporaryDirectory(prefix="dgnb-verify-") as folder:
        for one in todo:
            say(f"{one.run['name']}: training again from nothing (took {one.kept.record['seconds']:.0f} s when it was shipped)")
            again = RunStore(local=f"{folder}/runs", shipped=f"{folder}/none").get(spec_of(one.run), train=True)
            good &= _told(compare(one.run["name"], one.metrics, flat_metrics(again.metrics), one.spreads), say)
    return good


def modules_of_item(item: Item) -> list[str]:
    """The package's modules that the item's notebook imports: they register its recipes."""
    from dgnb.catalogue import load_catalogue
    return modules_of(load_catalogue().notebook(item)) if item.built else []


def spec_of(run: Mapping[str, Any]):
    """The RunSpec of a run named in a record."""
    from dgnb.run_store import RunSpec
    return RunSpec(*(run[name] for name in ("recipe", "version", "settings", "data", "seed")))


def _told(rows: Sequence[Difference], say: Callable[[str], None]) -> bool:
    """Say what differs, or that nothing does; whether all agree."""
    bad = [row for row in rows if not row.ok]
    for row in bad:
        say(f"  DIFFERS {row.metric}: shipped {row.shipped:.6g}, again {row.again:.6g}, allowed {row.allowed:.2g} ({row.why})")
    same = sum(row.shipped == row.again for row in rows)
    if rows and not bad:
        say(f"  agrees: {len(rows)} metrics, {same} of them to the last bit, largest difference {max(abs(r.shipped - r.again) for r in rows):.2g}")
    return bool(rows) and not bad
