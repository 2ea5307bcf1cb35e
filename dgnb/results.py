"""What result notebooks need: ask for runs, collect tables, figures and verdicts, and write them with the record of how they came about.

A result notebook's parameters cell says *what* is computed (`item`, `scale`, `seeds`, `data`, ... as plain `name = value  # help` lines).
*How* it is computed never changes a result and comes from the environment, which `dgnb run` sets from its options:
`DGNB_OUT` (folder to write to), `DGNB_TRAIN=1` (train missing runs), `DGNB_FRESH` (1, or a Unix time: train again every run older
than it), and for training itself `DGNB_DEVICES`, `DGNB_NODES`, `DGNB_PRECISION`, `DGNB_THREADS` (see the training loop's lesson).
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dgnb.catalogue import SCALE_NAMES, Item, load_catalogue, one_of
from dgnb.freshness import inputs_of
from dgnb.paths import figures_dir, project_root

VERDICTS = ("holds", "fails", "within noise", "not run")
SCHEMA = 1


@dataclass(frozen=True)
class How:
    """How to compute, from the environment; none of it changes a result."""
    out: str = ""  # folder to write to; "" = the ignored figures folder
    train: bool = False  # train runs that are missing
    fresh: float = 0.0  # train again every run older than this Unix time; 0 = none


def how() -> How:
    """Read `How` from the DGNB_* variables; a ValueError names one that cannot be read."""
    env = os.environ
    fresh = env.get("DGNB_FRESH") or "0"
    try:
        since = time.time() if fresh == "1" else float(fresh)
    except ValueError:
        raise ValueError(f"DGNB_FRESH must be 1 or a Unix time, found {fresh!r}") from None
    return How(env.get("DGNB_OUT", ""), env.get("DGNB_TRAIN", "") not in ("", "0"), since)


class Line(str):
    """Markdown that a notebook shows as such; `data` is its text."""
    data = property(str)

    def _repr_markdown_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)


class Result:
    """One item at one scale, being made: ask it for runs, give it tables, figures and verdicts, then `save()`."""

    def __init__(self, item: str, scale: str, parameters: Mapping[str, Any]):
        self.row: Item = load_catalogue()[item]
        self.scale = one_of(scale, SCALE_NAMES, "scale")
        self.parameters = {"item": item, "scale": scale, **parameters}
        self.how, self.started = how(), time.perf_counter()
        self.date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.folder = Path(self.how.out) if self.how.out else self._by_hand()
        self.runs, self.missing, self.data, self.with_weights, self.with_lists = {}, {}, {}, set(), set()
        self.tables, self.figures, self.claims = {}, {}, []

    def header(self, *data) -> Line:
        """The provenance line for under the title; `data` are the sets used (see `uses`)."""
        for one in data:
            self.uses(one)
        sets = ", ".join(self.data) or str(self.parameters.get("data") or "synthetic data")
        return Line(f"`{self.row.id}` at scale **{self.scale}** on {sets}, made {self.date[:10]}.{self._made_by()}")

    def _made_by(self) -> str:
        """Whose parameters these are: the command's, or the first cell's where a reader executes the notebook, who is told where files go."""
        if self.how.out:
            command = self.command.removesuffix(" --train")
            return "" if self.scale == "smoke" else f" By `{command}`: its parameters take the place of those in the first cell, which are for a quick look."
        root, place = project_root(), self.folder.absolute()
        place = place.relative_to(root) if root and place.is_relative_to(root) else place
        return f" Executed by hand, with the parameters of the first cell: `result.save()` writes to `{place}`."

    def uses(self, data) -> None:
        """Record a data set (anything with a `name` and a `fingerprint`)."""
        self.data[data.name] = str(data.fingerprint)

    def run(self, spec, weights: bool = False, lists: bool = False):
        """The run of that spec from the store, or None where it was never trained (it is then listed as not run, with its command).

        `weights=True` asks for its weights too, and makes them part of what is shipped; `lists=True` ships its ranking lists (`nearest`),
        which runs that came with the project have only where a result shows them.
        """
        from dgnb.run_store import MissingRun, RunStore
        try:
            run = RunStore(command=self.command).get(spec, train=self.how.train, fresh=self.how.fresh, weights=weights)
        except MissingRun:
            self.missing[spec.key] = spec
            return None
        self.runs[spec.key] = run
        self.with_weights |= {spec.key} if weights else set()
        self.with_lists |= {spec.key} if lists else set()
        return run

    @property
    def command(self) -> str:
        """The command that trains what is missing and draws again."""
        changed = "".join(f" -p {shlex.quote(f'{name}={value}')}" for name, value in self._changed().items())
        return f"dgnb run {self.row.id} --scale {self.scale}{changed} --train"

    def _changed(self) -> dict[str, Any]:
        """Parameters that are not what the notebook and the catalogue say for this scale."""
        from dgnb.parameters import changed_parameters
        notebook = load_catalogue().notebook(self.row)
        return changed_parameters(self.row, self.scale, notebook, self.parameters) if notebook else {}

    def _by_hand(self) -> Path:
        """Where a notebook executed without `dgnb run` writes: where it would, or beside that if a result of other parameters is there.

        The second is for a parameters cell that was edited and saved, so that the notebook itself calls its values usual.
        """
        from dgnb.parameters import folder_name
        changed, home = self._changed(), figures_dir() / self.row.id
        there = (read_record(home / folder_name(self.scale, changed)) or {}).get("parameters")
        other = {name: value for name, value in self.parameters.items() if there and there.get(name) != _plain(value)}
        return home / folder_name(self.scale, changed | other)

    def not_run(self) -> Line:
        """What was not run and how to run it; an empty line when nothing is missing."""
        if not self.missing:
            return Line("")
        names = ", ".join(sorted({spec.recipe for spec in self.missing.values()}))
        return Line(f"*Not run*: {len(self.missing)} run{'s' if len(self.missing) > 1 else ''} ({names}). Train with `{self.command}`.")

    def table(self, frame, name: str = "table"):
        """Keep a table (a pandas frame) for `NAME.csv` and `NAME.md`, and give it back to be shown."""
        self.tables[_new(name, self.tables, "table")] = frame
        return frame

    def verdicts(self) -> Line:
        """The claims checked so far as a table: text, data, verdict, effect with interval and spread over seeds, note; empty columns are left out."""
        rows = [{"claim": one["text"], "data": one["data"], "verdict": f"*{one['verdict']}*", "effect (95 % interval)": _effect(one, spread=False),
                 "sd over seeds": "" if one.get("spread") is None else f"{one['spread']:.3f}", "note": one.get("note", "")} for one in self.claims]
        names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *("| " + " | ".join(row[name] for name in names) + " |" for row in rows)]
        return Line("\n".join(lines) if rows else "*No claim was checked.*")

    def figure(self, fig, alt: str, name: str = "figure", colours: int | None = None):
        """Keep a Matplotlib figure for `NAME.png` and `.svg`, and show it (in `colours` colours, which keeps sheets of photographs small)."""
        from dgnb.figures import show
        self.figures[_new(name, self.figures, "figure")] = (fig, alt, colours)
        return show(fig, alt=alt, colours=colours)

    def claim(
        self,
        name: str,  # id of one of the item's claims in the catalogue
        verdict: str,  # one of VERDICTS
        effect: float | None = None,  # mean difference, in the unit of the metric
        interval: Sequence[float] | None = None,  # 95 % interval of the difference (low, high)
        spread: float | None = None,  # standard deviation of the effect over seeds
        data: str = "",  # data set it was checked on
        note: str = "",  # what a reader must know, one sentence
    ) -> dict[str, Any]:
        """Record a verdict on one of the item's claims; ValueError for an unknown claim or verdict, or a verdict its interval contradicts."""
        claim = self.row.claim(name)
        one_of(verdict, VERDICTS, "verdict")
        interval = None if interval is None else [_number(interval[0]), _number(interval[1])]
        found = dict(id=name, text=claim.text, verdict=verdict, effect=_number(effect), interval=interval, spread=_number(spread), data=data, note=note)
        self.claims = [c for c in self.claims if (c["id"], c["data"]) != (name, data)] + [found]
        return found

    def check(
        self,
        scores: Mapping[str, Mapping[str, Any]],  # row -> metric -> per-query values, seeds x queries (or queries); rows not run are left out
        data: str = "",  # data set the scores are from
    ) -> list[dict[str, Any]]:
        """Decide every claim of the item that has a `check`, by paired bootstrap over queries; rows that are not there give *not run*."""
        decided = []
        for claim in self.row.claims:
            if claim.check is None:
                continue
            rows = [scores.get(row, {}).get(claim.check.metric) for row in claim.check.rows]
            outcome = {"verdict": "not run"} if any(row is None for row in rows) else decide(rows)
            decided.append(self.claim(claim.id, data=data, **outcome))
        return decided

    def record(self, files: Mapping[str, str]) -> dict[str, Any]:
        """How everything was made; what a reader needs to judge it and a machine to know whether it is fresh."""
        from dgnb.run_store import environment, peak_memory
        runs = [{"key": key, "name": spec.name, "weights": key in self.with_weights, "lists": key in self.with_lists, **spec.as_dict()} for key, spec in sorted((k, r.spec) for k, r in self.runs.items())]
        missing = [{"key": key, "name": spec.name, **spec.as_dict()} for key, spec in sorted(self.missing.items())]
        seeds = sorted({run["seed"] for run in runs})
        return {"schema": SCHEMA, "item": self.row.id, "scale": self.scale, "parameters": self.parameters, "runs": runs, "missing": missing,
                "data": self.data, "seeds": seeds, "claims": self.claims, "figures": {name: {"alt": alt} for name, (_, alt, _) in self.figures.items()},
                "files": dict(files), "seconds": round(time.perf_counter() - self.started, 1), "command": self.command, **environment(),
                "date": self.date, "peak_memory": peak_memory(), "inputs": inputs_of(self.row)}

    def save(self) -> Path:
        """Write figures, tables and, last of all, record.json; every file is complete or not there. Returns the folder."""
        from dgnb.figures import save_figure, save_table
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-") as new:
            for name, (fig, alt, colours) in self.figures.items():
                save_figure(fig, new, alt=alt, record={}, name=name, colours=colours)
            for name, frame in self.tables.items():
                save_table(frame, new, name)
            made = [path for path in sorted(Path(new).iterdir()) if path.name != "record.json"]
            files = {path.name: digest(path) for path in made}
            record = Path(new, "record.json")
            record.write_text(_lines(_plain(self.record(files))), encoding="utf-8")
            for path in [*made, record]:
                path.replace(self.folder / path.name)
        return self.folder


def start(
    item: str,  # id in the catalogue
    scale: str = "smoke",  # smoke, laptop, gpu or paper
    **parameters,  # everything else in the parameters cell
) -> Result:
    """Begin a result; a CatalogueError lists the valid names for an unknown item or scale."""
    return Result(item, scale, parameters)


def decide(
    rows: Sequence,  # per-query values, [queries] or [seeds, queries], of each row claimed to be above the next; the same queries in each
) -> dict[str, Any]:  # verdict; effect, interval and spread of the weakest link
    """The one rule for verdicts: all intervals of paired differences above 0 holds, any below 0 fails, else within noise."""
    from dgnb.retrieval import paired_bootstrap, verdict
    links = [paired_bootstrap(a, b) for a, b in zip(rows, rows[1:])]
    weakest = min(links, key=lambda link: link.low)
    return dict(verdict=verdict(*links), effect=weakest.mean, interval=(weakest.low, weakest.high), spread=weakest.spread)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_record(folder: Path | str) -> dict[str, Any] | None:
    """The record in a folder, or None where there is none or it cannot be read."""
    try:
        record = json.loads(Path(folder, "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def shipped_records() -> dict[str, dict[str, Any]]:
    """Item id -> record of everything that was shipped, in the catalogue's order."""
    records = {item.id: read_record(figures_dir(ship=True) / item.id) for item in load_catalogue()}
    return {name: record for name, record in records.items() if record}


def summary_table():
    """Every claim of the built items with its verdict, from the shipped records, as a pandas frame; unchecked claims are *not run*."""
    import pandas as pd
    records, rows = shipped_records(), []
    for item in load_catalogue():
        record = records.get(item.id, {})
        for claim in item.claims if item.built else ():
            found = [c for c in record.get("claims", []) if c["id"] == claim.id] or [{"verdict": "not run"}]
            rows += [{"item": item.id, "claim": claim.text, "data": c.get("data", ""), "verdict": c["verdict"], "effect": c.get("effect"),
                      "interval": c.get("interval"), "spread": c.get("spread"), "scale": record.get("scale", "")} for c in found]
    return pd.DataFrame(rows, columns=["item", "claim", "data", "verdict", "effect", "interval", "spread", "scale"])


def readme_results(
    *items: str,  # ids of items; none: all with claims
) -> Line:
    """`summary_table()` as a Markdown table for the README: claim, where it was checked, verdict, difference with its interval.

    A claim that was not run on several sets takes one line.
    """
    lines = ["| item | claim | data | verdict | difference (95 % interval) |", "|---|---|---|---|---|"]
    table = summary_table()
    table = table[table["item"].isin(items or set(table["item"]))]
    waiting = table[table.verdict == "not run"].groupby(["item", "claim"], sort=False).data.agg(lambda names: ", ".join(filter(None, names)))
    table = table.assign(data=[waiting[item, claim] if verdict == "not run" else data
                               for item, claim, data, verdict in zip(table["item"], table.claim, table.data, table.verdict)])
    for row in table[~table.duplicated(["item", "claim", "data"])].to_dict("records"):
        lines.append(f"| {_linked(row['item'])} | {row['claim']} | {row['data']} | *{row['verdict']}* | {_effect(row)} |")
    return Line("\n".join(lines))


_ORDER = ("holds", "within noise", "fails", "not run")


def readme_counts() -> Line:
    """How many claims of each built item hold, fail, ... as a Markdown table for the README; the last line counts all."""
    table = summary_table()
    counts = table.groupby("item", sort=False).verdict.value_counts().unstack(fill_value=0).reindex(columns=list(_ORDER), fill_value=0)
    rows = [(_linked(item.id), item.place.split(",")[0] if item.paper != "ours" else "ours", item.id) for item in load_catalogue() if item.id in counts.index]
    lines = ["| item | where | " + " | ".join(_ORDER) + " |", "|---|---|" + "---|" * len(_ORDER)]
    lines += [f"| {name} | {place} | " + " | ".join(str(n or "") for n in counts.loc[item]) + " |" for name, place, item in rows]
    return Line("\n".join([*lines, "| **all** |  | " + " | ".join(f"**{n}**" for n in counts.sum()) + " |"]))


def _effect(claim: Mapping, spread: bool = True) -> str:
    """A claim's effect with its interval and, where it is known and wanted, its standard deviation over seeds, as text; "" where it has none."""
    effect, interval, deviation = (claim.get(name) for name in ("effect", "interval", "spread"))
    effect = "" if effect is None or effect != effect else f"{effect:+.3f}"
    effect += f" ({interval[0]:+.3f}, {interval[1]:+.3f})" if isinstance(interval, (list, tuple)) else ""
    return effect + (f", sd over seeds {deviation:.3f}" if effect and spread and deviation and deviation == deviation else "")


def _linked(item: str) -> str:
    """An item's name, linked to what was shipped of it, as seen from nbs/."""
    return f"[{item}](../figures/{item})" if (figures_dir(ship=True) / item).is_dir() else item


def readme_figure(
    item: str,  # folder under figures/
    name: str = "figure",  # file name without ending
) -> Line:
    """A shipped figure with its alt text as Markdown, seen from nbs/; FileNotFoundError when it is not there."""
    folder = figures_dir(ship=True) / item
    alt = " ".join((folder / f"{name}.txt").read_text(encoding="utf-8").split())
    return Line(f"![{alt}](../figures/{item}/{name}.png)")


def _new(name: str, taken: Mapping, what: str) -> str:
    if name in taken or name == "record" or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{what} name {name!r} is taken or not a plain word: give another name=")
    return name


def _lines(record: Mapping) -> str:
    """JSON with a line for each entry, and for each element of a list: a quarter less than indenting everything takes, and as easy to compare."""
    text = lambda value: json.dumps(value, sort_keys=True, allow_nan=False)
    lines = lambda value: "[\n  " + ",\n  ".join(map(text, value)) + "\n ]" if isinstance(value, list) and value else text(value)
    return "{\n " + ",\n ".join(f"{text(key)}: {lines(record[key])}" for key in sorted(record)) + "\n}\n"


def _number(value) -> float | None:
    """A finite number, else None."""
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(value):
    """Records as JSON can hold them: NumPy numbers as numbers, NaN as null, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value.as_posix() if isinstance(value, Path) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
