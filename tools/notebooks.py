"""Run lessons in a real kernel and store what they show, cleaned: `notebooks.py execute [NOTEBOOK ...]`."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def lessons() -> list[Path]:
    """All notebooks but the result notebooks, which only `dgnb run --ship` executes."""
    found = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if "checkpoints" not in str(path))
    return [path for path in found if not (path.parent / ".notest").exists()]


def execute(path: Path) -> None:
    """Execute one notebook in place and clean it."""
    options = ["--coalesce-streams", "--ExecutePreprocessor.timeout=900", "--ExecutePreprocessor.kernel_name=python3", "--log-level=ERROR"]
    subprocess.run([BIN / "jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace", *options, path], check=True, cwd=ROOT)
    subprocess.run([BIN / "nbdev_clean", "--fname", path], check=True, cwd=ROOT)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}  {size / 1000:.0f} kB{'  TOO LARGE (over 300 kB)' if size > 300_000 else ''}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] != "execute":
        sys.exit(__doc__)
    for notebook in [Path(name).resolve() for name in sys.argv[2:]] or lessons():
        execute(notebook)
