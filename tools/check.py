"""Is what is generated fresh, are the notebooks clean, and did the tests leave the tree as it was?

`check.py fresh`      exports, cleans and writes README again and fails, naming the files, if anything changes.
`check.py unchanged`  fails if git sees changes that were not there when `fresh` ran.
"""
from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STATE = ROOT / ".venv" / ".git-state.json"


def digests(*patterns: str) -> dict[str, str]:
    """File name -> hash for all files that match."""
    files = sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file() and "checkpoints" not in str(path)})
    return {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def step(command: list[str], patterns: tuple[str, ...], mend: str) -> bool:
    """Run a generator and say whether it left the files as they were."""
    before = digests(*patterns)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    names = changed(before, digests(*patterns))
    if names:
        print(f"not fresh: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}. {mend}")
    return not names


def git_state() -> dict[str, str]:
    out = subprocess.run(["git", "status", "--porcelain", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [entry[3:] for entry in out.stdout.split("\0") if entry]
    return {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() if (ROOT / name).is_file() else "-" for name in names}


def fresh() -> int:
    ok = step([str(BIN / "nbdev_export")], ("dgnb/**/*.py",), "Edit the notebook, not the module; then run nbdev_export and commit.")
    ok &= step([str(BIN / "nbdev_clean")], ("nbs/**/*.ipynb",), "Run nbdev_clean and commit.")
    ok &= step([sys.executable, "tools/readme.py"], ("README.md",), "README.md is generated: run make readme and commit.")
    STATE.write_text(json.dumps(git_state()))
    print("export, notebooks and README are fresh" if ok else "stopped: see above")
    return 0 if ok else 1


def unchanged() -> int:
    names = changed(json.loads(STATE.read_text()), git_state())
    if names:
        print(f"the tests changed the tree: {', '.join(names)}")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit({"fresh": fresh, "unchanged": unchanged}[sys.argv[1]]())
