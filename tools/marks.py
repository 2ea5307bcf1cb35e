"""Which exercises are solved in notebooks that were handed in and run: `python tools/marks.py FOLDER` prints one line of CSV for each.

A check that was changed, or taken out, is not a check; one that was not run says nothing yet.
"""
from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from exercises import cells, find, lessons, source  # noqa: E402


def state(check: str, given: list[dict]) -> str:
    """What became of an exercise's check: solved, unsolved, not run, or changed."""
    same = [cell for cell in given if cell["cell_type"] == "code" and source(cell).strip() == check.strip()]
    if not same:
        return "changed"
    if any(output["output_type"] == "error" for output in same[-1]["outputs"]):
        return "unsolved"
    return "solved" if same[-1]["execution_count"] else "not run"


def marks(file: Path) -> dict[int, str]:
    """Number of each exercise that has a check -> its state; a ValueError for a notebook that is no lesson."""
    known = {path.name: path for path in lessons()}
    if file.name not in known:
        raise ValueError(f"{file} is no lesson; keep the names of the files (they may lie in folders with the students' names)")
    given = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return {one.number: state(one.check, given) for one in find(cells(known[file.name])) if one.stub}


def main() -> int:
    """Print a table of all notebooks in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of notebooks that were run (jupyter nbconvert --execute --allow-errors)")
    folder = parser.parse_args().folder
    files = sorted(path for path in folder.rglob("*.ipynb") if "checkpoints" not in str(path))
    if not files:
        print(f"no notebook in {folder}", file=sys.stderr)
        return 1
    table = csv.writer(sys.stdout)
    table.writerow(("notebook", "solved", "of", "not solved"))
    for file in files:
        try:
            found = marks(file)
        except ValueError as error:
            print(error, file=sys.stderr)
            continue
        missing = [f"{number} ({what})" for number, what in found.items() if what != "solved"]
        table.writerow((file.relative_to(folder), len(found) - len(missing), len(found), ", ".join(missing)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
