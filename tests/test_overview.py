"""The page of claims that `dgnb run all` prints and writes: from the records alone, in the catalogue's order, with links that lead somewhere."""
import json
import re

import pytest

from dgnb.overview import claim_lines, overview_page, write_overview
from tiny import make_project

CLAIMS = """result.claim("up", "holds", 0.25, (0.125, 0.5), data="town", note="a | b")
result.claim("said", "not run", data="town")"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    from dgnb.runner import plan, run_jobs
    from dgnb.catalogue import load_catalogue
    make_project(tmp_path, monkeypatch, a=(CLAIMS,), b=("result.claim('up', 'fails', -0.5, (-0.75, -0.25))",))
    jobs = [plan(load_catalogue()[name], "smoke", {}, {}, "", mode="plain") for name in ("tiny-b", "tiny-a")]
    outcomes = run_jobs(jobs, 1, lambda outcome: None)
    assert all(outcome.ok for outcome in outcomes), outcomes
    return [outcome.folder for outcome in outcomes]


def test_the_page_says_what_the_records_say(project, tmp_path):
    page = write_overview(project, "smoke")
    text = page.read_text()
    assert page == tmp_path / "figures" / "claims-smoke.md" and not list(page.parent.glob(".claims*"))
    rows = [line for line in text.splitlines() if line.startswith("| tiny-")]
    assert [row.split(" | ")[0] for row in rows] == ["| tiny-a", "| tiny-a", "| tiny-b"] and "1 holds, 1 fails, 1 not run, of 2 items" in text
    assert "*holds* | +0.250 (+0.125, +0.500) | a \\| b | 20" in rows[0] and "*not run* |  |" in rows[1] and "-0.500 (-0.750, -0.250)" in rows[2]
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all((page.parent / link).is_file() for link in links)
    assert json.loads((page.parent / links[0]).read_text())["item"] == "tiny-a"


def test_the_terminal_gets_the_same(project, tmp_path):
    lines = claim_lines(project)
    assert [line[0] for line in lines] == ["verdict", "holds", "not run", "fails"] and lines[1][1:] == ["+0.250 (+0.125, +0.500)", "tiny-a", "A is above B. [town]"]
    assert claim_lines([tmp_path / "nowhere"]) == [] and write_overview([tmp_path / "nowhere" / "x"], "smoke") is None
    assert overview_page([], tmp_path).startswith("# Claims\n\n> No claim was checked.")


def test_a_partial_run_keeps_the_other_items(project, tmp_path):
    whole = write_overview(project, "smoke").read_text()
    assert all(write_overview([folder], "smoke").read_text() == whole for folder in project)


def test_changed_parameters_are_not_the_catalogues_claims(project, tmp_path):
    from pathlib import Path
    changed = Path(project[0]).rename(Path(project[0]).with_name("smoke-1a2b3c4d"))
    assert write_overview([changed], "smoke") is None and claim_lines([changed])
    assert str(changed.name) not in write_overview(project[1:], "smoke").read_text()
