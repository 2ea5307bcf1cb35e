"""What a network is made of, read off the living network: one row for each layer with its output shape and parameters, as papers print it."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase

import pandas as pd
import torch
from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # opened, and no level of their own


def layer_table(
    module: nn.Module,  # the network
    *inputs: torch.Tensor,  # what it is called with; one image is enough
    rows: Mapping[str, str | Sequence[str]] | None = None,  # name in the table -> layer(s) of the network, with wildcards; default: all at `depth`
    depth: int = 1,  # levels of layers to open below the network; Sequential and ModuleList are opened for nothing
    call: str = "forward",  # the method to call
) -> pd.DataFrame:  # columns layer, output (shape without the batch axis), parameters, calls; in the order of the first call
    """One row for each layer. The network is run once, in eval mode and without gradients, and left as it was. `ValueError` for a name that no layer has."""
    rows = {name: name for name in layer_names(module, depth)} if rows is None else rows
    members = {label: _matching(module, names) for label, names in rows.items()}
    seen = _run(module, inputs, call, {name for names in members.values() for name in names})
    table = [_row(module, label, names, seen) for label, names in members.items()]
    return pd.DataFrame(sorted(table, key=lambda row: row.pop("first")))


def layer_names(
    module: nn.Module,  # the network
    depth: int = 1,  # levels to open
) -> list[str]:  # dotted names
    """The layers at a depth, containers opened, in the order in which the network lists them; those without children or parameters of their own are kept."""
    names: list[str] = []
    for name, child in module.named_children():
        inner = layer_names(child, depth if isinstance(child, _CONTAINERS) else depth - 1) if isinstance(child, _CONTAINERS) or depth > 1 else []
        names += [f"{name}.{rest}" for rest in inner] or [name]
    return names


def count_parameters(*modules: nn.Module, trainable: bool = False) -> int:  # networks; only the parameters that are trained
    """How many numbers the networks hold as parameters, shared ones counted once."""
    unique = {id(p): p for module in modules for p in module.parameters()}
    return sum(p.numel() for p in unique.values() if p.requires_grad or not trainable)


def _matching(module: nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """The network's layers that one of the patterns names."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    there = [name for name, _ in module.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) and name.count(".") == pattern.count(".") for name in there):
            raise ValueError(f"{type(module).__name__} has no layer {pattern!r}; it has {', '.join(layer_names(module))}")
    return [name for name in there if any(fnmatchcase(name, p) and name.count(".") == p.count(".") for p in patterns)]


def _row(module: nn.Module, label: str, names: Sequence[str], seen: Mapping[str, list]) -> dict:
    """A line of the table: the shape that the last of its layers puts out, the parameters of all."""
    ran = sorted((seen[name] for name in names if name in seen), key=lambda entry: entry[0])
    parts = [module.get_submodule(name) for name in names]
    return {"first": ran[0][0] if ran else float("inf"), "layer": label, "output": ran[-1][2] if ran else None,
            "parameters": count_parameters(*parts), "calls": sum(entry[1] for entry in ran)}


def _run(module: nn.Module, inputs: Sequence, call: str, names: set[str]) -> dict[str, list]:
    """Call the network once; for each named layer when it first ran, how often, and the shape it put out."""
    seen: dict[str, list] = {}

    def watch(name: str) -> Callable:
        def hook(layer, given, out):
            entry = seen.setdefault(name, [len(seen), 0, None])
            entry[1:] = entry[1] + 1, shape_of(out)
        return hook

    hooks = [module.get_submodule(name).register_forward_hook(watch(name)) for name in sorted(names)]
    try:
        with evaluating(module), torch.no_grad():
            module(*inputs) if call == "forward" else getattr(module, call)(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def shape_of(out) -> tuple | None:  # a tensor, or a list, mapping or dataclass of tensors
    """Shape without the batch axis; a tuple of shapes for several tensors; None for anything else."""
    if isinstance(out, torch.Tensor):
        return tuple(out.shape[1:])
    if is_dataclass(out):
        out = [getattr(out, field.name) for field in fields(out)]
    if isinstance(out, Mapping):
        out = list(out.values())
    return tuple(map(shape_of, out)) if isinstance(out, (list, tuple)) else None


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Within, the networks are in eval mode; afterwards each of their layers is in the mode it was in."""
    modes = [(layer, layer.training) for module in modules for layer in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode
