"""The catalogue of every table and figure, read from `nbs/experiments.yaml` and checked on the way in."""
from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dgnb.paths import catalogue_file

SCALE_NAMES = ("smoke", "laptop", "gpu", "paper")  # as in dgnb.scales, which imports torch: too slow for `dgnb list`
KINDS = ("table", "figure", "diagram")
STATUSES = ("built", "planned")
CHECKS = ("greater",)
CHECK = re.compile(r"(?P<kind>\w+)\((?P<arguments>[^()]*)\)")
PARAMETER_TYPES = (bool, int, float, str, list, dict, type(None))


class CatalogueError(ValueError):
    """The catalogue, or a name looked up in it, is wrong; the message is one line and says how to mend it."""


@dataclass(frozen=True)
class Expected:
    """One number (or word) that a paper gives."""
    table: str  # name of the group within the item
    row: str  # method or setting
    metric: str  # e.g. "mAP"
    value: float | str  # as printed; percentages as 0..100
    data: str = ""  # data set, a key of `Catalogue.sets`; "" where the column names none
    unit: str = ""  # "%" or ""
    source: str = ""  # table, figure or text it was read in
    note: str = ""  # what the row is
    read_off: float = 0.0  # uncertainty of a value read from a plotted curve; 0 where it is printed
    withdrawn: bool = False  # the data set was withdrawn by its owners: grey it


@dataclass(frozen=True)
class Check:
    """The machine-checkable form of a claim."""
    kind: str  # one of `CHECKS`
    metric: str  # per-query metric compared, e.g. "mAP"
    rows: tuple[str, ...]  # two or more, each claimed to be above the next


@dataclass(frozen=True)
class Claim:
    """A statement whose verdict is holds, fails, within noise or not run."""
    id: str  # unique within its item
    text: str  # one sentence
    check: Check | None = None  # None where only the notebook can decide


@dataclass(frozen=True)
class AtScale:
    """How an item is run at one scale."""
    parameters: Mapping[str, Any] = field(default_factory=dict)  # given to the notebook, beside `item` and `scale`
    minutes: float | None = None  # from nothing, training included; None = not measured


@dataclass(frozen=True)
class Item:
    """One table or figure."""
    id: str  # e.g. "dgnet-table3"
    paper: str  # a key of `Catalogue.papers`
    kind: str  # one of `KINDS`
    place: str  # where in the paper
    caption: str  # what it shows, in our words
    notebook: str | None  # path from the project's root; None until built
    status: str  # one of `STATUSES`
    requires: tuple[str, ...] = ()  # what must exist first
    expected: tuple[Expected, ...] = ()
    claims: tuple[Claim, ...] = ()
    scales: Mapping[str, AtScale] = field(default_factory=dict)  # a scale it cannot have is absent
    choices: Mapping[str, tuple] = field(default_factory=dict)  # parameter -> values it may take

    @property
    def built(self) -> bool:
        """Whether there is a notebook to run."""
        return self.status == "built"

    def claim(self, name: str) -> Claim:
        """The claim of that id; CatalogueError with the valid ones."""
        claims = {claim.id: claim for claim in self.claims}
        return claims[one_of(name, claims, f"claim of {self.id}")]


@dataclass(frozen=True)
class Catalogue:
    """All items, in the papers' order."""
    papers: Mapping[str, Mapping[str, Any]]
    sets: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, Item]
    file: Path

    def __getitem__(self, name: str) -> Item:
        return self.items[one_of(name, self.items, "item", "dgnb list")]

    def __iter__(self):
        return iter(self.items.values())

    def notebook(self, item: Item) -> Path | None:
        """The item's notebook file (its path is from the folder above the catalogue's), or None until it is built."""
        return self.file.parent.parent / item.notebook if item.notebook else None

    def select(self, name: str, scale: str) -> list[Item]:
        """The item of that id, or for "all" or a paper's id every built item that the scale applies to; CatalogueError for an unknown or unbuilt one."""
        one_of(scale, SCALE_NAMES, "scale")
        if name == "all" or name in self.papers:
            return [item for item in self if item.built and scale in item.scales and name in ("all", item.paper)]
        item = self[name]
        if not item.built:
            built = ", ".join(i.id for i in self if i.built)
            raise CatalogueError(f"{name} is planned and has no notebook yet (needs {', '.join(item.requires)}). Built: {built}")
        return [item]


def one_of(
    name: str,  # what was asked for
    options: Iterable[str],  # what there is
    what: str,  # the kind of thing, for the message
    listed_by: str = "",  # the command that shows all options, where they are too many for a message
) -> str:
    """`name` if it is an option; else a CatalogueError with the nearest and the valid ones (dgnb.scales.choose without torch)."""
    options = [str(option) for option in options]
    if name in options:
        return name
    near = difflib.get_close_matches(str(name), options, n=4 if listed_by else 2, cutoff=0.5)
    hint = f" Did you mean {', '.join(near[:-1])}{' or ' if near[:-1] else ''}{near[-1]}?" if near else ""
    valid = f"`{listed_by}` shows all {len(options)}" if listed_by and len(options) > 12 else f"Valid: {', '.join(options) or 'none'}"
    raise CatalogueError(f"unknown {what} {str(name)!r}.{hint} {valid}")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML's safe loader (in C where there is one) that refuses a key given twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    loader.flatten_mapping(node)
    result: dict = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in result:
            raise CatalogueError(f"line {key_node.start_mark.line + 1}: {key!r} stands there twice; keep one")
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _checked(raw: Any, where: str, required: Mapping[str, type | tuple], optional: Mapping[str, type | tuple] = {}) -> dict:
    """`raw` as a dict with the required keys, no unknown ones, and values of the right types."""
    if not isinstance(raw, dict):
        raise CatalogueError(f"{where} must be a mapping, found {type(raw).__name__}")
    missing = [key for key in required if key not in raw]
    if missing:
        raise CatalogueError(f"{where} lacks {', '.join(missing)}")
    types = {**required, **optional}
    for key, value in raw.items():
        one_of(key, types, f"key in {where}:")
        if not isinstance(value, types[key]):
            names = " or ".join(t.__name__ for t in (types[key] if isinstance(types[key], tuple) else (types[key],)))
            raise CatalogueError(f"{where}.{key} must be {names}, found {type(value).__name__}: {value!r}")
    return raw


def _column(name: str, sets: Mapping[str, Mapping]) -> tuple[str, str]:
    """(set, metric) of a column heading."""
    first, _, rest = str(name).partition(" ")
    return (first, rest) if first in sets and rest else ("", str(name))


def _expected(raw: Any, where: str, sets: Mapping[str, Mapping]) -> list[Expected]:
    """All values of one table."""
    raw = _checked(raw, where, {"name": str, "source": str, "columns": list, "rows": dict}, {"unit": str, "read_off": (int, float)})
    values = []
    for name, row in raw["rows"].items():
        row = row if isinstance(row, dict) else {"values": row}
        row = _checked(row, f"{where} row {name!r}", {"values": list}, {"note": str, "sets": list})
        if len(row["values"]) != len(raw["columns"]):
            raise CatalogueError(f"{where} row {name!r} has {len(row['values'])} values for {len(raw['columns'])} columns; write null for a gap")
        row_sets = [one_of(s, sets, f"set in {where} row {name!r}") for s in row.get("sets", [])]
        for column, value in zip(raw["columns"], row["values"]):
            if value is None:
                continue
            data, metric = _column(column, sets)
            withdrawn = any(sets[s].get("withdrawn", False) for s in [*row_sets, *([data] if data else [])])
            values.append(Expected(raw["name"], str(name), metric, value, data or " to ".join(row_sets), raw.get("unit", ""), raw["source"],
                                   row.get("note", ""), float(raw.get("read_off", 0)), withdrawn))
    return values


def parse_check(text: str, where: str = "check") -> Check:
    """`greater(mAP, f_prim, baseline)` as a Check; CatalogueError with the valid forms."""
    match = CHECK.fullmatch(str(text).strip())
    if not match:
        raise CatalogueError(f"{where}: {text!r} is not of the form {CHECKS[0]}(METRIC, ROW, ROW)")
    arguments = [argument.strip() for argument in match["arguments"].split(",")]
    if len(arguments) < 3 or not all(arguments):
        raise CatalogueError(f"{where}: {match['kind']} takes a metric and two or more rows, found {len(arguments)} arguments")
    return Check(one_of(match["kind"], CHECKS, f"check in {where}:"), arguments[0], tuple(arguments[1:]))


def _claim(raw: Any, where: str) -> Claim:
    raw = _checked(raw, where, {"id": str, "text": str}, {"check": str})
    return Claim(raw["id"], raw["text"], parse_check(raw["check"], where) if "check" in raw else None)


def _at_scale(raw: Any, where: str) -> AtScale:
    raw = _checked(raw, where, {"parameters": dict}, {"minutes": (int, float, type(None))})
    for name, value in raw["parameters"].items():
        if not isinstance(value, PARAMETER_TYPES) or not str(name).isidentifier():
            raise CatalogueError(f"{where}.{name}: a parameter is a Python name with a plain value, found {value!r}")
    if (raw.get("minutes") or 0) < 0:
        raise CatalogueError(f"{where}.minutes must not be negative, found {raw['minutes']}")
    return AtScale(raw["parameters"], raw.get("minutes"))


def _scales(raw: Any, where: str) -> dict[str, AtScale]:
    raw = _checked(raw, where, {name: (dict, type(None)) for name in SCALE_NAMES})
    return {name: _at_scale(raw[name], f"{where}.{name}") for name in SCALE_NAMES if raw[name] is not None}


def _item(name: str, raw: Any, papers: Mapping[str, Mapping], sets: Mapping[str, Mapping]) -> Item:
    raw = _checked(raw, name, {"paper": str, "kind": str, "place": str, "caption": str, "notebook": (str, type(None)), "status": str,
                               "requires": list}, {"expected": list, "claims": list, "scales": dict, "choices": dict})
    for key, options in (("paper", papers), ("kind", KINDS), ("status", STATUSES)):
        one_of(raw[key], options, f"{key} of {name}:")
    if (raw["status"] == "built") != (raw["notebook"] is not None):
        raise CatalogueError(f"{name}: status is {raw['status']} but notebook is {raw['notebook'] or 'null'}; built items, and only they, name one")
    expected = [value for table in raw.get("expected", []) for value in _expected(table, f"{name}.expected", sets)]
    claims = tuple(_claim(claim, f"{name}.claims") for claim in raw.get("claims", []))
    if len({claim.id for claim in claims}) < len(claims):
        raise CatalogueError(f"{name}: two claims have the same id; rename one")
    scales = raw.get("scales") or papers[raw["paper"]]["scales"]
    choices = {key: tuple(values) for key, values in raw.get("choices", {}).items()}
    return Item(name, raw["paper"], raw["kind"], raw["place"], " ".join(raw["caption"].split()), raw["notebook"], raw["status"],
                tuple(raw["requires"]), tuple(expected), claims, _scales(scales, f"{name}.scales"), choices)


@lru_cache(maxsize=4)
def _load(file: Path, modified: int) -> Catalogue:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
        raw = _checked(raw, "catalogue", {"version": int, "sets": dict, "papers": dict, "items": dict})
        if raw["version"] != 1:
            raise CatalogueError(f"version {raw['version']} is unknown; this dgnb reads version 1")
        papers, sets = raw["papers"], raw["sets"]
        items = {name: _item(name, value, papers, sets) for name, value in raw["items"].items()}
    except yaml.YAMLError as error:
        raise CatalogueError(f"{file.name}: {' '.join(str(error).split())}") from None
    except CatalogueError as error:
        raise CatalogueError(f"{file.name}: {error}") from None
    return Catalogue(papers, sets, items, file)


def load_catalogue(
    file: Path | str | None = None,  # another catalogue than the project's own (as `DGNB_CATALOGUE` names one, too)
) -> Catalogue:
    """Read and check the catalogue; a CatalogueError names file, place and mend in one line."""
    file = Path(file or os.environ.get("DGNB_CATALOGUE") or catalogue_file()).resolve()
    if not file.is_file():
        raise CatalogueError(f"there is no catalogue at {file}: run from the checkout, or install dgnb again")
    return _load(file, file.stat().st_mtime_ns)
