"""Exercises in lessons: a question, a stub (tag `exercise`), a check that fails on the stub (tag `check`), and a folded solution (tag `solution`) that passes it.

One source for the tests and for `make course`. A verbal exercise has only its question and its solution.
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^## Exercises", re.M)
QUESTION = re.compile(r"\*\*Exercise (\d+)\. (\w+)\.\*\* \S")
ANSWER = re.compile(r"<details><summary>Solution</summary>\n\n(?:```python\n(?P<code>.*?)\n```\n\n)?(?P<why>.*?)\n*</details>", re.S)
END = {"cell_type": "", "source": "the lesson's end", "metadata": {}}
SKIPPED = "#| eval: false\n"  # nbdev's tests pass such cells by; nbconvert goes by the tag `skip-execution`


@dataclass(frozen=True)
class Exercise:
    """One exercise; `at` and the places in it are indices of cells."""
    at: int  # the question's cell
    number: int
    kind: str  # Predict, Derive, Implement; Think where it is verbal
    stub: str = ""  # code, "" where the exercise is verbal
    check: str = ""
    solution: str = ""
    why: str = ""  # Markdown after the solution's code

    @property
    def cells(self) -> int:
        """How many cells it takes."""
        return 4 if self.stub else 2


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def lessons() -> list[Path]:
    """The notebooks of chapters 1 to 3 in reading order."""
    return sorted(path for path in (ROOT / "nbs").glob("[123]_*/*.ipynb") if "checkpoints" not in str(path))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def runnable(cell: dict, tag: str) -> str:
    """Code of a stub or check; a ValueError says what is missing."""
    code = source(cell)
    if cell["cell_type"] != "code" or tags(cell) != {tag, "skip-execution"} or not code.startswith(SKIPPED):
        raise ValueError(f"a code cell that begins with `#| eval: false` and has the tags {tag} and skip-execution was expected, not:\n{code[:200]}")
    if cell["outputs"] or cell["execution_count"]:
        raise ValueError(f"an exercise has no outputs: {code[:200]}")
    return code.removeprefix(SKIPPED)


def answer(cell: dict) -> tuple[str, str]:
    """(code, Markdown) of a solution; a ValueError says what is missing."""
    found = ANSWER.fullmatch(source(cell).strip())
    if cell["cell_type"] != "markdown" or tags(cell) != {"solution"} or not found:
        raise ValueError(f"a Markdown cell tagged solution with <details> and <summary>Solution</summary> was expected, not:\n{source(cell)[:200]}")
    return found["code"] or "", found["why"].strip()


def find(lesson: list[dict]) -> list[Exercise]:
    """The exercises among a lesson's cells; a ValueError where one is not well formed."""
    found: list[Exercise] = []
    for at, cell in enumerate(lesson):
        asked = QUESTION.match(source(cell)) if cell["cell_type"] == "markdown" else None
        if not asked:
            continue
        first, second, third = (*lesson[at + 1:at + 4], END, END, END)[:3]
        parts = (runnable(first, "exercise"), runnable(second, "check"), *answer(third)) if "exercise" in tags(first) else ("", "", *answer(first))
        found.append(Exercise(at, int(asked[1]), asked[2], *parts))
    places = {place for one in found for place in range(one.at, one.at + one.cells)}
    for place, cell in enumerate(lesson):
        if tags(cell) & {"exercise", "check", "solution"} and place not in places:
            raise ValueError(f"cell {place} is tagged {sorted(tags(cell))}, but belongs to no question '**Exercise N. Kind.** ...':\n{source(cell)[:200]}")
    return found
