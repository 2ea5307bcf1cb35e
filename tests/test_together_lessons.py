"""The notebooks that define `dgnb.together` run from top to bottom (they share a folder with result notebooks, which only the runner executes)."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from exercises import cells, find  # noqa: E402

FOLDER = Path(__file__).resolve().parent.parent / "nbs" / "5_beyond"
LESSONS = [path for path in sorted(FOLDER.glob("*.ipynb")) if any("#| default_exp together." in "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])]


def test_there_are_some():
    assert {path.stem for path in LESSONS} >= {"01_scoring", "02_guiding", "03_online", "04_walks"}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_runs(path):
    """In a process of its own: a notebook registers its recipes anew."""
    pytest.importorskip("nbdev")
    code = f"import sys; from pathlib import Path; from nbdev.test import test_nb; sys.exit(not test_nb(Path({str(path)!r}))[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def stopped_by(*codes: str) -> Exception | None:
    """Run cells one after the other; what stopped them."""
    space = {"__name__": "__main__"}
    try:
        for code in codes:
            exec(compile(code, "<cell>", "exec"), space)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_exercises_fail_on_their_stubs_and_pass_on_their_solutions(path):
    found = find(cells(path))
    assert len(found) >= 2
    for one in found:
        assert isinstance(stopped_by(one.stub, one.check), (NotImplementedError, AssertionError)), one.number
        assert stopped_by(one.solution, one.check) is None, f"{path.name}, exercise {one.number}: {stopped_by(one.solution, one.check)}"
