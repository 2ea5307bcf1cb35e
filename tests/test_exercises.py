"""Exercises of the lessons: each is well formed, its check fails on the stub and passes on the solution."""
from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import exercises  # noqa: E402
from exercises import HEADING, SKIPPED, cells, find, lessons, source  # noqa: E402


@contextmanager
def undisturbed(folder: Path):
    """What runs inside works in `folder` and leaves this process as it was: random states, torch's settings, figures, environment."""
    import matplotlib.pyplot as plt
    here, environment, style = os.getcwd(), dict(os.environ), matplotlib.rcParams.copy()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    settings = torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        plt.close("all")
        dict.update(matplotlib.rcParams, style)
        random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
        torch.set_num_threads(settings[0]), torch.set_default_dtype(settings[1])
        torch.use_deterministic_algorithms(settings[2], warn_only=True), torch.set_grad_enabled(settings[3])


def outcome(*codes: str) -> Exception | None:
    """Run cells one after the other as a fresh kernel would; what stopped them."""
    space = {"__name__": "__main__"}
    try:
        for number, code in enumerate(codes):
            exec(compile(code, f"<cell {number}>", "exec"), space)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("path", lessons(), ids=lambda p: f"{p.parent.name[:1]}-{p.stem}")
def test_stubs_fail_and_solutions_pass(path, tmp_path):
    for one in find(cells(path)):
        if not one.stub:
            continue
        where = f"{path.name}, exercise {one.number}"
        with undisturbed(tmp_path):
            alone, failed, passed = outcome(one.stub), outcome(one.stub, one.check), outcome(one.solution, one.check)
        assert alone is None, f"{where}: the stub alone stops a notebook with {alone!r}; only its check may"
        assert isinstance(failed, NotImplementedError | AssertionError), f"{where}: the check does not fail on the stub as it should, but gives {failed!r}"
        assert str(failed), f"{where}: the check fails on the stub without a word"
        if passed:
            raise AssertionError(f"{where}: the solution does not pass the check") from passed
        assert not list(tmp_path.iterdir()), f"{where} leaves files behind"


@pytest.mark.parametrize("path", lessons(), ids=lambda p: f"{p.parent.name[:1]}-{p.stem}")
def test_exercises_are_well_formed(path):
    lesson = cells(path)
    found = find(lesson)
    heading = [at for at, cell in enumerate(lesson) if cell["cell_type"] == "markdown" and HEADING.search(source(cell))]
    assert [one.number for one in found] == list(range(1, len(found) + 1)) and 2 <= len(found) <= 4, f"two to four exercises; {path.name} has {len(found)}"
    assert sum(bool(one.stub) for one in found) >= 2, "at least two with a check"
    assert heading and heading[-1] < found[0].at, "exercises stand under the heading ## Exercises"
    for one in found:
        assert one.kind in ("Predict", "Derive", "Implement", "Think") and one.why, f"exercise {one.number}: its kind, or why the solution is one"
        assert bool(one.stub) == (one.kind != "Think"), f"exercise {one.number}: a verbal exercise is called Think, and no other"
        assert not one.stub or "assert" in one.check and one.solution and one.solution.strip() != one.stub.strip()
        assert one.kind != "Predict" or one.stub.startswith("prediction = None  # ") and one.stub.count('"') >= 4, "a prediction names all choices"
        assert one.kind not in ("Implement", "Derive") or "raise NotImplementedError(" in one.stub or "None" in one.stub


PARTS = {"goals": r"able to\b|After this lesson you can", "prerequisites": r"Prerequisites|You need:|\*\*Needs", "run time": r"Run time|\*\*Runs\b",
         "what can go wrong, shown": r"^##+ What can go wrong", "a summary": r"^## Summary"}


@pytest.mark.parametrize("path", lessons(), ids=lambda p: f"{p.parent.name[:1]}-{p.stem}")
def test_a_lesson_has_all_its_parts(path):
    lesson = cells(path)
    said = "\n".join(source(cell) for cell in lesson if cell["cell_type"] == "markdown")
    missing = [part for part, pattern in PARTS.items() if not re.search(pattern, said, re.M)]
    assert not missing, f"{path.name} lacks {missing}"


# ------------------------------------------------------------------------------------------------------------ the finder

def made(stub='prediction = None  # "a" or "b"', check="assert prediction == 'a', 'no'", solution="```python\nprediction = 'a'\n```\n\n", tag="exercise") -> list[dict]:
    """A lesson that has one exercise."""
    code = lambda text, name: {"cell_type": "code", "source": SKIPPED + text, "metadata": {"tags": [name, "skip-execution"]}, "outputs": [], "execution_count": None}
    text = lambda words, *names: {"cell_type": "markdown", "source": words, "metadata": {"tags": list(names)}}
    return [text("## Exercises"), text("**Exercise 1. Predict.** What?"), code(stub, tag), code(check, "check"),
            text(f"<details><summary>Solution</summary>\n\n{solution}Since a.\n\n</details>", "solution")]


def test_parts_of_an_exercise():
    one, = find(made())
    assert (one.at, one.number, one.kind, one.cells, one.why) == (1, 1, "Predict", 4, "Since a.")
    assert isinstance(outcome(one.stub, one.check), AssertionError) and outcome(one.solution, one.check) is None
    lesson = made(solution="")
    verbal, = find([*lesson[:2], lesson[4]])
    assert verbal.stub == verbal.solution == "" and verbal.cells == 2


@pytest.mark.parametrize("break_it, said", [
    (lambda c: c.pop(1), "belongs to no question"), (lambda c: c.pop(3), "tags check"), (lambda c: c.pop(4), "expected"), (lambda c: c[2].update(source="x = 1"), "eval: false"),
    (lambda c: c[2]["metadata"].update(tags=["exercise"]), "skip-execution"), (lambda c: c[4].update(source="The solution."), "<details>"),
    (lambda c: c[3].update(outputs=[{}]), "no outputs")])
def test_broken_exercises_are_named(break_it, said):
    lesson = made()
    break_it(lesson)
    with pytest.raises(ValueError, match=said):
        find(lesson)


def test_the_process_is_left_as_it_was(tmp_path):
    here, number = os.getcwd(), torch.get_rng_state()
    with undisturbed(tmp_path):
        code = "import os, torch, numpy as np\ntorch.manual_seed(3); np.random.seed(3); torch.set_default_dtype(torch.float64); os.environ['DGNB_RUNS'] = 'x'; os.chdir('/')"
        assert outcome(code) is None
    assert os.getcwd() == here and torch.equal(torch.get_rng_state(), number) and torch.get_default_dtype() == torch.float32 and os.environ.get("DGNB_RUNS") != "x"


def test_site_shows_stub_and_check_without_the_directive():
    from website import notebooks
    lesson = made()
    shown = [one for cell in lesson[2:4] for one in notebooks.code_cells(cell | {"id": "x"}, "nbs/1_foundations/00_scales.ipynb")]
    assert [one["source"] for one in shown] == ['prediction = None  # "a" or "b"', "assert prediction == 'a', 'no'"]


def test_tools_pass_exercises_by(tmp_path):
    """nbdev's cleaning keeps the tags, its tests and nbconvert's execution leave such cells alone, and its export leaves them out."""
    import nbformat
    from execnb.nbio import dict2nb, nb2dict
    from nbdev.clean import clean_nb
    fields = {"metadata": {"kernelspec": {"name": "python3", "display_name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    lesson = {**fields, "cells": [cell | {"id": f"c{n}"} for n, cell in enumerate(made(stub="raise SystemError('ran')", check="raise SystemError('ran')"))]}
    file = tmp_path / "lesson.ipynb"
    nbformat.write(nbformat.from_dict(lesson), file)
    code = (f"import nbformat, sys; from pathlib import Path; from nbclient import NotebookClient; from nbdev.test import test_nb; file = Path({str(file)!r})\n"
            "NotebookClient(nbformat.read(file, as_version=4)).execute(); sys.exit(not test_nb(file, do_print=False, showerr=False)[0])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # elsewhere: both leave an IPython shell behind
    assert done.returncode == 0, done.stderr[-2000:]
    cleaned = dict2nb(lesson)
    clean_nb(cleaned, allowed_cell_metadata_keys=["tags"])
    assert [cell["metadata"].get("tags", []) for cell in nb2dict(cleaned)["cells"][2:]] == [["exercise", "skip-execution"], ["check", "skip-execution"], ["solution"]]
    assert exercises.find(nb2dict(cleaned)["cells"])
