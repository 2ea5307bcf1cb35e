"""The lessons for a class, from the one source: `make course` writes `_course/student/` (exercises without solutions), `_course/teacher/`
(each solution as a cell that runs, after its stub; the plan) and `_course/slides/` (one HTML file, no network).
"""
from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from exercises import ROOT, SKIPPED, Exercise, find, lessons, source, tags  # noqa: E402
from website.notebooks import CODE, LINK, NBS, text_cell  # noqa: E402
from website.settings import setup_cell, source_url  # noqa: E402

COURSE, PLAN, SLIDES = ROOT / "_course", NBS / "pages" / "teaching.md", NBS / "3_vrstc" / "03_attention.ipynb"


@lru_cache(maxsize=1)
def places() -> dict[Path, Path]:
    """Each file that the course has, and its place there."""
    return {path.resolve(): path.relative_to(NBS) for path in lessons()} | {PLAN.resolve(): Path("plan.md")}


def relink(text: str, here: Path, place: Path) -> str:
    """Markdown of the file `here` for its copy at `place` in the course: links to lessons stay, others lead to the public copy."""
    own = places()

    def mended(target: str) -> str:
        path, mark, anchor = target.partition("#")
        full = (here.parent / path).resolve()
        if not path or "://" in target or target.startswith("mailto:") or not full.is_relative_to(ROOT):
            return target
        there = os.path.relpath(own[full], place.parent) if full in own else source_url(full.relative_to(ROOT).as_posix())
        return there + mark + anchor

    parts = CODE.split(text)  # code in every second place
    parts[::2] = [LINK.sub(lambda m: m[1] + mended(m[2]) + m[3], part) for part in parts[::2]]
    return "".join(parts)


def runs(cell: dict) -> dict:
    """A stub or check without what makes the tools pass it by."""
    kept = [tag for tag in cell["metadata"]["tags"] if tag != "skip-execution"]
    return cell | {"source": source(cell).removeprefix(SKIPPED), "metadata": {"tags": kept}}


def solved(one: Exercise, cells: list[dict]) -> list[dict]:
    """An exercise's cells for a teacher: the question, the stub, the solution, the check, and why."""
    question, *rest = cells[one.at:one.at + one.cells]
    why = text_cell(f"**Why.** {one.why}") | {"id": f"why-{one.number}"}
    if not one.stub:
        return [question, why]
    stub, check, _ = rest
    solution = copy.deepcopy(stub) | {"source": one.solution, "id": f"solution-{one.number}", "metadata": {"tags": ["solution"]}}
    return [question, runs(stub), solution, runs(check), why]


def version(path: Path, teacher: bool) -> dict:
    """A lesson as a student or a teacher gets it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells, made, at = notebook["cells"], [], 0
    starts = {one.at: one for one in find(cells)}
    while at < len(cells):
        one = starts.get(at)
        own = [cells[at]] if one is None else solved(one, cells) if teacher else [cells[at], *[runs(c) for c in cells[at + 1:at + one.cells] if "solution" not in tags(c)]]
        made += own
        at += one.cells if one else 1
    title = next(n for n, cell in enumerate(made) if cell["cell_type"] == "markdown")
    setup = {"cell_type": "code", "execution_count": None, "id": "setup", "metadata": {}, "outputs": [], "source": setup_cell()}
    made.insert(title + 1, setup)
    made = [cell | {"source": relink(source(cell), path, path.relative_to(NBS))} if cell["cell_type"] == "markdown" else cell for cell in made]
    return notebook | {"cells": made}


def everything() -> dict[str, str]:
    """All files of the course but the slides: path from `_course/` -> content."""
    made = {}
    for path in lessons():
        place = path.relative_to(NBS).as_posix()
        for who in ("student", "teacher"):
            made[f"{who}/{place}"] = json.dumps(version(path, who == "teacher"), indent=1, ensure_ascii=False) + "\n"
    made["teacher/plan.md"] = relink(PLAN.read_text(encoding="utf-8"), PLAN, Path("plan.md"))
    return made


def main(folder: Path = COURSE) -> None:
    """Write the course anew."""
    from slides import slides
    shutil.rmtree(folder, ignore_errors=True)
    made = everything() | {f"slides/{SLIDES.stem}.html": slides(SLIDES)}
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    count = sum(len(find(json.loads(path.read_text(encoding="utf-8"))["cells"])) for path in lessons())
    print(f"{len(lessons())} lessons with {count} exercises: {folder}/student, {folder}/teacher (begin with plan.md), {folder}/slides/{SLIDES.stem}.html")


if __name__ == "__main__":
    main()
