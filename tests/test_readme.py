"""README.md says what the records say."""
import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_readme_is_generated_from_the_index_and_the_records(monkeypatch):
    monkeypatch.chdir(ROOT / "nbs")
    made = runpy.run_path(str(ROOT / "tools" / "readme.py"))["readme"]()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == made, "run make readme"


def test_every_verdict_in_the_readme_stands_in_a_record():
    from dgnb.results import shipped_records

    records, readme = shipped_records(), (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in readme.splitlines() if line.startswith("| ") and line.count("|") == 6 and "*" in line]
    assert rows
    for item, claim, data, verdict, effect in ([cell.strip() for cell in row] for row in rows):
        item = item.partition("]")[0].lstrip("[")  # a link to what was shipped
        found = [c for c in records.get(item, {}).get("claims", []) if c["text"] == claim and c["data"] == data]
        assert (found[0]["verdict"] if found else "not run") == verdict.strip("*")
        if effect:
            assert effect.split()[0] == f"{found[0]['effect']:+.3f}"


def test_the_index_shows_what_the_readme_shows():
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text())["cells"]
    shown = ["".join(o["data"].get("text/markdown", "")) for c in cells for o in c.get("outputs", [])]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert shown and all(text.replace("](../", "](").strip() in readme for text in shown if text), "run the index notebook again: make outputs NB=nbs/index.ipynb"


def test_every_link_of_the_readme_leads_somewhere():
    import re

    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link
