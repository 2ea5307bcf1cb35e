"""A paper's layer table beside that of the living network: kernels, strides, output shapes and parameters, and whether they agree."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import pandas as pd
import torch
from torch import nn

from dgnb.catalogue import Expected
from dgnb.layers import count_parameters, layer_table

COLUMNS = ("kernel", "stride", "output", "parameters")  # as the catalogue names them


def beside_paper(
    network: nn.Module,  # the living network, e.g. on the meta device
    *inputs: torch.Tensor,  # what it is called with
    rows: Mapping[str, str | Sequence[str]],  # row of the paper's table -> layer(s) of the network, with wildcards
    expected: Iterable[Expected],  # the paper's table, from the catalogue
    totals: Mapping[str, nn.Module] = {},  # rows that are not layers but sums -> what is summed; the network itself has its last row's output
    side_by_side: Sequence[str] = (),  # rows whose layers stand beside each other: their channels add up
) -> pd.DataFrame:  # per row: for each of `COLUMNS` that the paper has, "paper ..." and "ours ..."; a cell the paper leaves out is None
    """One row for each row of the paper, in its order; a ValueError names a row of the paper that has no layer here, or the reverse."""
    printed = {(value.row, value.metric): value.value for value in expected}
    names, columns = list(dict.fromkeys(row for row, _ in printed)), [c for c in COLUMNS if any(metric == c for _, metric in printed)]
    if other := set(names) ^ {*rows, *totals}:
        raise ValueError(f"the paper's rows and ours differ in {', '.join(sorted(other))}; give each row of the paper its layers")
    ours = _ours(network, inputs, rows, side_by_side)
    last = list(ours.values())[-1]["output"]
    ours |= {name: {"parameters": count_parameters(part), "output": last if part is network else None} for name, part in totals.items()}
    whose = {"paper": lambda row, c: printed.get((row, c)), "ours": lambda row, c: ours[row].get(c)}
    return pd.DataFrame([{"layer": row} | {f"{who} {c}": get(row, c) for c in columns for who, get in whose.items()} for row in names], dtype=object)


def differences(
    table: pd.DataFrame,  # as from `beside_paper`
    *columns: str,  # of `COLUMNS`; those that the paper has not are passed over
) -> list[str]:  # one line for each cell that differs, empty where all agree
    """Where the two differ, among the cells that the paper fills in."""
    found = []
    for column in columns:
        for row in table.to_dict("records") if f"paper {column}" in table else ():
            paper, ours = row[f"paper {column}"], row[f"ours {column}"]
            if paper is not None and str(paper) != str(ours):
                found.append(f"{row['layer']}: {column} {ours} where the paper has {paper}")
    return found


def _ours(network: nn.Module, inputs: Sequence[torch.Tensor], rows: Mapping[str, str | Sequence[str]], side_by_side: Sequence[str]) -> dict[str, dict]:
    """What the network has for each row."""
    table = layer_table(network, *inputs, rows=rows).set_index("layer")
    return {row: {"kernel": ", ".join(sorted({"x".join(map(str, conv.kernel_size)) for conv in convs})) or None,
                  "stride": max((conv.stride[0] for conv in convs), default=None), "parameters": int(table.parameters[row]),
                  "output": _shape(table.output[row], len(_members(network, patterns)) if row in side_by_side else 1)}
            for row, patterns in rows.items() for convs in [_convolutions(network, patterns)]}


def _shape(shape: tuple | None, beside: int) -> str | None:
    """channels x height x width as papers write it."""
    return None if shape is None else "x".join(map(str, (shape[0] * beside, *shape[1:])))


def _members(network: nn.Module, patterns: str | Sequence[str]) -> list[nn.Module]:
    """The layers that one of the patterns names."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return [layer for name, layer in network.named_modules() if any(fnmatchcase(name, p) and name.count(".") == p.count(".") for p in patterns)]


def _convolutions(network: nn.Module, patterns: str | Sequence[str]) -> list[nn.Conv2d]:
    return [layer for member in _members(network, patterns) for layer in member.modules() if isinstance(layer, nn.Conv2d)]
