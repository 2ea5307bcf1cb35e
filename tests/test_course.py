"""`make course`: students get no solutions, a teacher's notebooks run, the plan names what is there, and the slides open without a network."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, Browser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import course  # noqa: E402
from exercises import cells, find, lessons, source, tags  # noqa: E402


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The course's files but the slides."""
    return course.everything()


def versions(made: dict, who: str) -> dict[str, list[dict]]:
    """A student's or a teacher's notebooks: place -> cells."""
    return {name: json.loads(text)["cells"] for name, text in made.items() if name.startswith(who) and name.endswith(".ipynb")}


def test_both_versions_have_every_lesson(made):
    wanted = {path.relative_to(course.NBS).as_posix() for path in lessons()}
    for who in ("student", "teacher"):
        assert {name.removeprefix(f"{who}/") for name in made if name.endswith(".ipynb") and name.startswith(who)} == wanted
    for name, text in made.items():
        if name.endswith(".ipynb"):
            nbformat.validate(nbformat.reads(text, as_version=4))


def test_students_get_no_solutions(made):
    """Neither cells, nor folded text, nor a line of code that stands in a solution alone."""
    for path in lessons():
        given = json.loads(made[f"student/{path.relative_to(course.NBS).as_posix()}"])["cells"]
        assert not any("solution" in tags(cell) for cell in given), path.name
        text, found = "\n".join(map(source, given)), find(cells(path))
        assert "<summary>Solution" not in text, f"{path.name} has a solution in a cell that is not tagged solution"
        for one in found:
            assert one.why not in text, f"{path.name}, exercise {one.number}"
            if one.kind == "Predict":
                assert one.solution.strip() not in text and one.stub.strip() in text and one.check.strip() in text


def test_a_teachers_solution_stands_after_its_stub_and_passes_the_check(made):
    """In the order in which *Run All* goes: a stub that stops nobody, the solution, the check (test_exercises.py runs each solution with its check)."""
    count = 0
    for path in lessons():
        given = json.loads(made[f"teacher/{path.relative_to(course.NBS).as_posix()}"])["cells"]
        for one in [one for one in find(cells(path)) if one.stub]:
            at = next(n for n, cell in enumerate(given) if source(cell) == one.stub and "exercise" in tags(cell))
            stub, solution, check, why = given[at:at + 4]
            assert [source(cell) for cell in (stub, solution, check)] == [one.stub, one.solution, one.check] and one.why[:20] in source(why)
            assert "skip-execution" not in tags(stub) | tags(solution) | tags(check) and solution["cell_type"] == "code"
            count += 1
    assert count > 5


def test_a_teachers_exercises_run_in_a_kernel(made, tmp_path):
    file = tmp_path / "lesson.ipynb"
    file.write_text(text := made["teacher/1_foundations/00_scales.ipynb"], encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    code = f"import nbformat; from nbclient import NotebookClient; NotebookClient(nbformat.read({str(file)!r}, as_version=4), timeout=120).execute()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [cell.source for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]


def test_links_stay_in_the_course_or_lead_to_the_public_copy(made):
    for name, given in versions(made, "student").items():
        for cell in given:
            if cell["cell_type"] != "markdown":
                continue
            for target in (target for part in course.CODE.split(source(cell))[::2] for _, target, _ in course.LINK.findall(part)):
                path = target.partition("#")[0]
                place = Path("/", name).parent.joinpath(path).resolve().relative_to("/").as_posix()
                assert not path or re.match(r"[a-z]+:", path) or place in made, f"{name}: {target}"
    assert "](3_vrstc/03_attention.ipynb)" in made["teacher/plan.md"] and "/nbs/4_results/" in made["teacher/plan.md"]


# ---------------------------------------------------------------------------------------------------------- the plan

def tables(text: str) -> dict[str, list[list[str]]]:
    """Heading -> rows of the plan's table under it."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.M)
    rows = lambda body: [[field.strip() for field in line.strip("|").split("|")] for line in body.splitlines() if re.match(r"\| \d+ \|", line)]
    return {title: found for title, body in zip(parts[1::2], parts[2::2]) if (found := rows(body))}


def test_the_plan_adds_up():
    found = tables(course.PLAN.read_text(encoding="utf-8"))
    minutes = {title: sum(int(row[0]) for row in rows) for title, rows in found.items()}
    assert minutes.pop(next(title for title in minutes if title.startswith("Ninety"))) == 90
    assert len(minutes) == 5 and set(minutes.values()) == {180}


def test_the_plan_names_lessons_and_exercises_that_are_there():
    for rows in tables(course.PLAN.read_text(encoding="utf-8")).values():
        for _, lesson, _, numbers in rows:
            paths = [course.PLAN.parent / target for target in re.findall(r"\]\(([^)]+)\)", lesson)]
            assert paths and all(path.exists() for path in paths), lesson
            there = {one.number for one in find(cells(paths[0]))} if numbers else set()
            assert {int(n) for n in re.findall(r"\d+", numbers)} <= there, f"{lesson}: exercises {numbers}, there are {sorted(there)}"


# ---------------------------------------------------------------------------------------------------------- the slides

def code(text: str, *outputs: dict, names=("slide",)) -> dict:
    return {"cell_type": "code", "source": text, "outputs": list(outputs), "metadata": {"tags": list(names)}}


def words(text: str, *names: str) -> dict:
    return {"cell_type": "markdown", "source": text, "metadata": {"tags": list(names)}}


def test_cells_become_slides():
    slides = pytest.importorskip("slides")
    shown = {"output_type": "execute_result", "data": {"text/plain": "a  1\nName: b, dtype: float64"}}
    lesson = [words("# Title\n\n> Why.", "slide"), words("Not chosen."), words("## One\n\nFirst `a. B` stays. Second goes.\n\n- all of\n- a list", "slide"), code("x = 1", shown, names=["slide-more"]),
              words("What it shows. More.\n\n## Two\n\nLong talk. And the equation is:\n\n$$a. B$$", "slide-more"), code("#| export\ny = 2", names=["slide", "slide-code"])]
    title, one, two, last = slides.choose(lesson)
    assert (title.title, title.body) == ("Title", ["> Why."])
    assert one.body == ["First `a. B` stays.", "- all of\n- a list"] and one.after == ["What it shows."] and one.notes[0] == "First `a. B` stays. Second goes."
    assert one.shown == ["<pre>a  1\n(b)</pre>"]
    assert two.title == last.title == "Two" and two.body == ["Long talk. And the equation is:", "$$a. B$$"] and last.shown == ['<pre class="code"><code>y = 2</code></pre>']
    with pytest.raises(ValueError, match="no cell has the tag slide"):
        slides.choose([words("Not chosen.")])


def test_a_full_slide_is_followed_by_another():
    slides = pytest.importorskip("slides")
    found = slides.choose([words("## Much\n\n" + "\n\n".join(f"Paragraph {n} says this." for n in range(30)), "slide")])
    assert len(found) > 2 and {slide.title for slide in found} == {"Much"} and sum(len(slide.body) for slide in found) == 30


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    for package in ("markdown_it", "mdit_py_plugins"):
        pytest.importorskip(package, reason="not run: the site's packages are not installed (make setup installs them)")
    import slides
    file = tmp_path_factory.mktemp("slides") / "slides.html"
    file.write_text(slides.slides(course.SLIDES), encoding="utf-8")
    return file


def test_slides_are_one_file(page):
    head = page.read_text(encoding="utf-8")
    body = head[head.index("<main>"):head.index("</main>")]
    assert not re.search(r'(src|href)="(?!data:|#)', body) and "<link" not in head.split("<script>")[0]
    assert body.count("<section") >= 12 and body.count('src="data:image/png') >= 4
    assert "<summary>Solution" not in body


def test_slides_open_and_turn(page):
    if not CHROMIUM:
        pytest.skip("not run: there is no Chromium here")
    with Browser() as browser:
        browser.open(page.as_uri())
        browser.wait("document.body.dataset.ready === 'yes'")
        assert not browser.errors and [address for address in browser.asked if not address.startswith("data:")] == [page.as_uri()]
        assert browser.value("document.querySelectorAll('mjx-container svg').length") > 15 and browser.value("document.querySelectorAll('mjx-merror').length") == 0
        assert browser.value("[...document.querySelectorAll('div.mermaid')].every(d => d.querySelector('svg'))")
        assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
        now = lambda: browser.value("document.querySelector('section.now').id")
        count = browser.value("document.querySelectorAll('section').length")
        for key, number, there in [("ArrowRight", 39, "s2"), ("ArrowRight", 39, "s3"), ("ArrowLeft", 37, "s2"), ("End", 35, f"s{count}"), ("ArrowRight", 39, f"s{count}"), ("Home", 36, "s1"), ("ArrowLeft", 37, "s1")]:
            browser.press(key, number)
            browser.wait(f"document.querySelector('section.now').id === '{there}'")
        for open_now in (True, False):
            browser.press("n", 78)
            browser.wait(f"[...document.querySelectorAll('aside.notes')].every(note => note.hidden !== {str(open_now).lower()})")
        over = []
        for n in range(1, count + 1):
            browser.value(f"location.hash = 's{n}'")
            browser.wait(f"document.querySelector('section.now').id === 's{n}'")
            over += [n] if browser.value("(() => { const s = document.querySelector('section.now'), f = s.querySelector('.inner').getBoundingClientRect(), r = s.getBoundingClientRect();"
                                         " return f.bottom > r.bottom + 2 || [...s.querySelectorAll('.inner img, .inner table, .inner pre')].some(e => e.getBoundingClientRect().right > r.right); })()") else []
        assert not over, f"slides {over} do not fit"
        assert now() == f"s{count}"


# ------------------------------------------------------------------------------------------------------------- marks

def test_marks_tell_solved_from_unsolved_and_changed(made, tmp_path, capsys, monkeypatch):
    """A student solves the first exercise, fails the second, does not run the third; another one empties a check."""
    import marks
    name = next(path.name for path in lessons() if sum(bool(one.stub) for one in find(cells(path))) >= 3)
    place = next(place for place in made if place.startswith("student/") and place.endswith(name))
    notebook = json.loads(made[place])
    checks = [cell for cell in notebook["cells"] if "check" in tags(cell)]
    numbers = [one.number for one in find(cells(next(path for path in lessons() if path.name == name))) if one.stub]
    checks[0]["execution_count"] = checks[1]["execution_count"] = 1
    checks[1]["outputs"] = [{"output_type": "error", "ename": "AssertionError", "evalue": "", "traceback": []}]
    for who in ("ann", "bob"):
        (tmp_path / who).mkdir()
    (tmp_path / "ann" / name).write_text(json.dumps(notebook), encoding="utf-8")
    assert list(marks.marks(tmp_path / "ann" / name).values())[:3] == ["solved", "unsolved", "not run"]
    checks[1]["source"] = "assert True"
    (tmp_path / "bob" / name).write_text(json.dumps(notebook), encoding="utf-8")
    assert marks.marks(tmp_path / "bob" / name)[numbers[1]] == "changed"
    (tmp_path / "bob" / "other.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["marks.py", str(tmp_path)])
    assert marks.main() == 0
    said = capsys.readouterr()
    assert f"ann/{name},1,{len(numbers)}" in said.out and f"{numbers[1]} (changed)" in said.out and "other.ipynb is no lesson" in said.err
