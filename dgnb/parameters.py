"""Parameters of result notebooks: what a notebook declares, what a command line says, and whether the two fit."""
from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dgnb.catalogue import Item, one_of
from dgnb.paths import project_root


class RunnerError(ValueError):
    """A request that cannot be run; one line with the valid forms."""


def need_checkout(what: str) -> None:
    """RunnerError when the package is installed, so that its notebooks are not the reader's to change (a catalogue of one's own is)."""
    if project_root() is None and not os.environ.get("DGNB_CATALOGUE"):
        raise RunnerError(f"{what} changes notebooks and needs a checkout: clone the project and pip install -e it")


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Name -> default of everything assigned in the cell tagged `parameters`; RunnerError names a line that papermill could not set."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise RunnerError(f"{notebook} cannot be read as a notebook: {error}") from None
    sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(sources) != 1:
        raise RunnerError(f"{notebook.name} has {len(sources)} cells tagged 'parameters'; it needs one")
    found: dict[str, Any] = {}
    for statement in ast.parse(sources[0]).body:
        try:
            (target,) = statement.targets
            found[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise RunnerError(f"{notebook.name}, parameters cell: write `name = value  # help`, not {ast.unparse(statement)!r}") from None
    return found


def help_of(notebook: Path) -> dict[str, str]:
    """Name -> the comment beside it in the cell tagged `parameters`; names without one are absent."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "".join("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT}
    return {statement.targets[0].id: comments[statement.end_lineno] for statement in ast.parse(source).body if statement.end_lineno in comments}


def _agrees(value: Any, default: Any) -> bool:
    """Whether a value has the type of the default it replaces."""
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, list):
        return isinstance(value, list) and (not default or all(_agrees(v, default[0]) for v in value))
    return isinstance(value, type(default))


def parse_value(text: str, default: Any) -> Any:
    """The value of `-p name=text`, read as the type of the default: Python or YAML notation."""
    if isinstance(default, str):
        return text
    for read in (ast.literal_eval, yaml.safe_load):
        try:
            value = read(text)
        except (ValueError, SyntaxError, yaml.YAMLError):
            continue
        value = list(value) if isinstance(value, tuple) else value
        if _agrees(value, default):
            return value
    return text


def changed_parameters(item: Item, scale: str, notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those parameters that are not what the notebook and the catalogue say for this scale."""
    if not notebook.is_file() or scale not in item.scales:
        return {}
    usual = parameters_of(notebook) | dict(item.scales[scale].parameters) | {"item": item.id, "scale": scale}
    return {name: value for name, value in parameters.items() if name in usual and value != usual[name]}


def folder_name(scale: str, changed: Mapping[str, Any]) -> str:
    """The folder of a result under its item's: the scale, and eight digits for changed parameters, so that they do not overwrite the usual result."""
    if not changed:
        return scale
    return f"{scale}-{hashlib.sha256(json.dumps(changed, sort_keys=True, default=str).encode()).hexdigest()[:8]}"


def checked_parameters(item: Item, notebook: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """`wanted` if the notebook declares every name with that type and the catalogue allows the value; else a RunnerError."""
    declared = parameters_of(notebook)
    for name, value in wanted.items():
        one_of(name, declared, f"parameter of {item.id}")
        if not _agrees(value, declared[name]):
            raise RunnerError(f"{item.id}: {name} must be {type(declared[name]).__name__} like its default {declared[name]!r}, found {value!r}")
        for one in (value if isinstance(value, list) else [value]) if name in item.choices else ():
            one_of(one, item.choices[name], f"value of {name}")
    return dict(wanted)
