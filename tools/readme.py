"""README.md from nbs/index.ipynb: text cells as they are, code cells as the Markdown of their last value (from the records)."""
from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Generated from nbs/index.ipynb by `make readme`. Edit the notebook. -->\n"


def value_of(source: str, names: dict) -> object:
    """Run a cell and return the value of its last expression, as a notebook would."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "index.ipynb", "exec"), names)
    return eval(compile(ast.Expression(last.value), "index.ipynb", "eval"), names) if last else None


def readme() -> str:
    parts, names = [NOTE], {"__name__": "index"}
    for cell in json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../", "]("))
        elif source:
            shown = getattr(value_of(source, names), "data", "")
            parts.append(str(shown).strip().replace("](../", "]("))
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.chdir(ROOT / "nbs")
    text, target = readme(), ROOT / "README.md"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
        print("README.md written", file=sys.stderr)
