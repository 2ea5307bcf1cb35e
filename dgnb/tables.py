"""Tables as Markdown, CSV and LaTeX. (pandas writes all three, but needs two further packages for it.)"""
from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from dgnb.scales import choose

__all__ = ["table_markdown", "table_csv", "table_latex", "table", "TABLES"]

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$", "≥": r"$\ge$", "≤": r"$\le$",
          "→": r"$\to$", "\n": " "} | {c: "\\" + c for c in "&%$#_{}"}
_MARKDOWN = {"|": r"\|", "\n": "<br>", "<": "&lt;", ">": "&gt;", "*": r"\*", "_": r"\_", "`": r"\`"}


def _cell(value, digits: int, escapes: Mapping[str, str]) -> str:
    """One cell as text: floats with `digits` decimals, missing values as a dash, dangerous characters escaped."""
    if not isinstance(value, str) and pd.api.types.is_scalar(value) and pd.isna(value): value = "–"
    elif isinstance(value, (float, np.floating)): value = f"{value:.{digits}f}"
    return "".join(escapes.get(c, c) for c in str(value))


def _cells(frame: pd.DataFrame, digits: int, escapes: Mapping[str, str]) -> list[list[str]]:
    """Header and rows as text; a named or non-numeric index becomes the first column."""
    if frame.index.name or not isinstance(frame.index, pd.RangeIndex): frame = frame.reset_index(names=frame.index.name or "")
    return [[_cell(v, digits, escapes) for v in row] for row in [list(frame.columns), *frame.astype(object).to_numpy().tolist()]]


def table_markdown(frame: pd.DataFrame, digits: int = 3) -> str:  # the table; decimals of its floats
    """A table as GitHub Markdown, its numbers aligned right."""
    header, *body = _cells(frame, digits, _MARKDOWN)
    number = [all(re.fullmatch(r"[-+]?[\d.,]+%?|–", row[c]) for row in body) for c in range(len(header))]
    rule = ["---:" if n else "---" for n in number]
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *body])


def table_csv(frame: pd.DataFrame, digits: int | None = None) -> str:  # the table; decimals of its floats, None = all that are needed
    """A table as CSV with Unix line ends; missing values are empty."""
    index = bool(frame.index.name) or not isinstance(frame.index, pd.RangeIndex)
    return frame.to_csv(index=index, lineterminator="\n", float_format=None if digits is None else f"%.{digits}f")


def table_latex(frame: pd.DataFrame, digits: int = 3) -> str:  # the table; decimals of its floats
    """A table as a LaTeX tabular in booktabs style (its page needs `\\usepackage{booktabs}`)."""
    header, *body = [" & ".join(row) + r" \\" for row in _cells(frame, digits, _LATEX)]
    columns = header.count(" & ") + 1
    spec = "l" + "r" * (columns - 1)
    return "\n".join([rf"\begin{{tabular}}{{{spec}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


TABLES = {"markdown": (table_markdown, "md"), "csv": (table_csv, "csv"), "latex": (table_latex, "tex")}


def table(
    frame: pd.DataFrame,      # the table
    kind: str = "markdown",   # "markdown", "csv" or "latex"
    digits: int | None = None,  # decimals of its floats; default 3, for CSV all
) -> str:
    """A table as text of one kind; raises ValueError for an unknown kind."""
    write = TABLES[choose(kind, TABLES, "kind of table")][0]
    return write(frame) if digits is None else write(frame, digits)
