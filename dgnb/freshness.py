"""Is a result still what the sources would give? Content hashes of what went into it, compared one by one so that the answer says why."""
from __future__ import annotations

import ast
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dgnb.catalogue import Item, load_catalogue
from dgnb.paths import PACKAGE, figures_dir

PLUMBING = ("catalogue", "freshness", "paths", "results", "launch", "_modidx", "__init__")  # they carry results, they do not make them
IMPORT = re.compile(r"^\s*(?:from\s+dgnb(?:\.([\w.]+))?\s+import\s+(.+)|import\s+dgnb\.([\w.]+))", re.MULTILINE)


@dataclass(frozen=True)
class State:
    """Where one item stands at one scale."""
    item: str
    scale: str  # "" for planned items
    place: str  # "shipped", "local" or ""
    state: str  # planned, not run, failed, missing, stale or fresh
    why: str = ""  # one line
    seconds: float | None = None  # that the last execution took


def sha(text: str) -> str:
    """The first 16 hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def notebook_hash(path: Path) -> str:
    """Hash of a notebook's cells without outputs and metadata; "" where there is no such file."""
    if not path.is_file():
        return ""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return sha(json.dumps([[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]))


def module_hash(path: Path) -> str:
    """Hash of a module without blank lines and comment lines (nbdev's cell markers are comments)."""
    return _module_hash(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _module_hash(path: Path, modified: int) -> str:
    lines = (line.rstrip() for line in path.read_text(encoding="utf-8").splitlines())
    return sha("\n".join(line for line in lines if line and not line.lstrip().startswith("#")))


def _file(module: str) -> Path | None:
    """The file of a module of the package, e.g. "retrieval" or "dgnet.losses"."""
    path = PACKAGE.joinpath(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@lru_cache(maxsize=256)
def _imports(file: Path, modified: int) -> frozenset[str]:
    """Names, relative to the package, that a module may import from the package."""
    here = list(file.relative_to(PACKAGE).with_suffix("").parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("dgnb.") for alias in node.names if alias.name.startswith("dgnb.")}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "dgnb"):
            base = here[:len(here) - node.level + 1] if node.level else []
            base = base + [part for part in (node.module or "").split(".") if part and (node.level or part != "dgnb")]
            names |= {".".join(base)} | {".".join([*base, alias.name]) for alias in node.names}
    return frozenset(names)


def modules_of(notebook: Path) -> list[str]:
    """The modules of the package that a notebook imports, directly or through others, sorted; the plumbing is left out."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.is_file() else []
    found: set[str] = set()
    todo: list[str] = []
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        for module, names, plain in IMPORT.findall(source):
            base = module or plain
            todo += [base] if base else []
            todo += [f"{base}.{name}".strip(".") for name in re.findall(r"\w+", names.split("#")[0])]
    seen = {""}
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            if file := _file(name):
                found.add(name)
                todo += [*_imports(file, file.stat().st_mtime_ns), name.rpartition(".")[0]]
    return sorted(found - set(PLUMBING))


def inputs_of(item: Item) -> dict[str, Any]:
    """What an item's result is made of, as hashes: notebook, modules, catalogue row. Runs and parameters stand in the record itself."""
    notebook = load_catalogue().notebook(item) or Path()
    row = {key: value for key, value in asdict(item).items() if key in ("paper", "kind", "place", "caption", "expected", "claims")}
    modules = {name: module_hash(_file(name)) for name in modules_of(notebook)}
    return {"notebook": notebook_hash(notebook), "row": sha(json.dumps(row, sort_keys=True)), "modules": modules}


def _names(names) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def why_stale(record: dict[str, Any], item: Item) -> str:
    """What changed since the record was written, in a few words; "" when nothing did."""
    then, now, reasons = record.get("inputs", {}), inputs_of(item), []
    reasons += ["notebook changed"] if then.get("notebook") != now["notebook"] else []
    reasons += ["catalogue row changed"] if then.get("row") != now["row"] else []
    old, new = then.get("modules", {}), now["modules"]
    changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    reasons += [f"code changed: {_names(changed)}"] if changed else []
    wanted = dict(item.scales[record["scale"]].parameters) if record["scale"] in item.scales else {}
    other = [f"{key}={record['parameters'].get(key)!r}" for key, value in wanted.items() if record["parameters"].get(key) != value]
    reasons += [f"made with other parameters: {_names(other)}"] if other else []
    return "; ".join(reasons)


def run_folder(run: dict[str, Any]) -> Path | None:
    """Where a run named in a record lies, in the order in which the store looks: the shipped shelf, the local one; None: nowhere."""
    from dgnb.paths import local_runs, shipped_runs
    return next((store / run["name"] for store in (shipped_runs(), local_runs()) if (store / run["name"]).is_dir()), None)


def damage_of(folder: Path) -> str:
    """The first file of a finished run that is not as its record says, by name; "" when all are there in their sizes (whoever opens a run reads their checksums too)."""
    try:
        record = json.loads((folder / "record.json").read_bytes())
        sound = record.pop("seal") == hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    except (OSError, ValueError, KeyError, AttributeError):
        sound = False
    if not sound:
        return "record.json"
    size = lambda file: file.stat().st_size if file.is_file() else None
    return next((name for name, facts in record["files"].items() if size(folder / name) != facts["bytes"]), "")


def run_arrived(run: dict[str, Any]) -> bool:
    """Whether a run that a record misses is there by now, and sound."""
    folder = run_folder(run)
    return folder is not None and not damage_of(folder)


def why_damaged(runs: list[dict[str, Any]], item: str, scale: str) -> list[str]:
    """Of runs that are there: the damaged ones with their first bad file, and how to mend them; three, then how many more."""
    from dgnb.paths import shipped_runs
    lines = []
    for folder in filter(None, map(run_folder, runs)):
        if bad := damage_of(folder):
            back = f"bring it back: git checkout -- {folder}" if folder.parent == shipped_runs() else f"train it again: dgnb run {item} --scale {scale} --train"
            lines.append(f"run damaged: {folder.name}/{bad}; {back}")
    return lines[:3] + [f"and {len(lines) - 3} more"] * (len(lines) > 3)


def why_missing(record: dict[str, Any], folder: Path, item: str) -> str:
    """Files or runs that the record names and that are gone or damaged; "" when all are there."""
    from dgnb.results import digest
    bad = [name for name, hashed in record["files"].items() if not (folder / name).is_file() or digest(folder / name) != hashed]
    gone = [run["name"] for run in record["runs"] if run_folder(run) is None]
    named = [f"file gone or damaged: {_names(bad)}"] * bool(bad) + [f"run gone: {_names(gone)}"] * bool(gone)
    return "; ".join([*named, *why_damaged(record["runs"], item, record["scale"])])


def state_of(item: Item, scale: str, folder: Path, place: str) -> State | None:
    """The state of the result in one folder, or None when there is neither record nor failure at that scale."""
    from dgnb.results import read_record
    record, outcome = read_record(folder), folder / "outcome.json"
    last = json.loads(outcome.read_text(encoding="utf-8")) if outcome.is_file() else None
    if last and not last["ok"]:
        return State(item.id, scale, place, "failed", last["cause"], last["seconds"])
    if record is None or record["scale"] != scale:
        return None
    arrived = [run["name"] for run in record["missing"] if run_arrived(run)]
    if missing := why_missing(record, folder, item.id):
        return State(item.id, scale, place, "missing", missing, record["seconds"])
    stale = "; ".join(filter(None, [why_stale(record, item), f"run now there: {_names(arrived)}" if arrived else ""]))
    note = f"{len(record['missing'])} of its runs not run" if record["missing"] else ""
    return State(item.id, scale, place, "stale" if stale else "fresh", stale or note, record["seconds"])


def states(item: Item, scales: tuple[str, ...]) -> list[State]:
    """All states of an item: shipped and local ones, else one line that says it is planned or not run."""
    if not item.built:
        return [State(item.id, "", "", "planned", f"needs {', '.join(item.requires)}")]
    found = []
    for scale in scales:
        shipped = state_of(item, scale, figures_dir(ship=True) / item.id, "shipped")
        local = state_of(item, scale, figures_dir() / item.id / scale, "local")
        found += [state for state in (shipped, local) if state]
    return found or [State(item.id, scales[0] if len(scales) == 1 else "", "", "not run", f"dgnb run {item.id} --scale {scales[0] if len(scales) == 1 else 'laptop'}")]
