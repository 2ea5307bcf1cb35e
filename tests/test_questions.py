"""The pages of open questions: every question is there, every verdict is the record's, and every command could be run."""
from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from website import verdicts  # noqa: E402

PAGES = ROOT / "nbs" / "pages"
QUESTIONS, NOTES, CHINESE = (PAGES / name for name in ("questions.md", "notes_questions.md", "notes_questions_zh.md"))


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def sections(path: Path) -> dict[str, str]:
    """Third-level heading -> what stands under it."""
    parts = re.split(r"^### (.+)$", re.sub(r"^## .+$", "", text(path), flags=re.M), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def test_every_question_is_there_and_answered():
    found = sections(QUESTIONS)
    assert [title.split(". ")[0] for title in found] == [*map(str, range(1, 26)), *(f"V{n}" for n in range(1, 22))]
    for title, body in found.items():
        assert re.search(r"\]\([^)]+\)", body) or "Not run" in body, f"{title}: a link to the lesson or result, or that it was not run"


@pytest.mark.parametrize("path", [QUESTIONS, NOTES, CHINESE], ids=lambda p: p.stem)
def test_verdicts_are_those_of_the_records(path):
    from dgnb.results import shipped_records
    assert list(verdicts.said(text(path)))
    assert not (lines := verdicts.stale(text(path), shipped_records())), "\n".join([path.name, *lines])
    bare = [code for code in re.findall(r"`((?:dgnet|vrstc)-[\w-]+/[\w@-]+)`(?! \*)", text(path))]
    assert not bare, f"claims without a verdict: {bare}"


@pytest.mark.parametrize("path", [QUESTIONS, NOTES, CHINESE], ids=lambda p: p.stem)
def test_numbers_are_not_typed(path):
    """Results stand on these pages as verdicts, whose effects the site adds; no decimals or per cents of ours can grow stale."""
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|\$[^$]*\$", "", text(path))
    typed = [number for number in re.findall(r"\d+\.\d+|\d+ ?%", prose) if number not in ("0.89", "0.8")]
    assert not typed, typed


@pytest.mark.parametrize("path", [QUESTIONS, NOTES, CHINESE], ids=lambda p: p.stem)
def test_commands_name_what_there_is(path):
    from dgnb.catalogue import load_catalogue
    items = {item.id: item for item in load_catalogue()}
    for command in re.findall(r"`dgnb run ([^`]+)`", text(path)):
        words = shlex.split(command)
        notebook = json.loads(text(ROOT / items[words[0]].notebook))
        own = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
        for name in (words[n + 1].split("=")[0] for n, word in enumerate(words) if word == "-p"):
            assert re.search(rf"^{name} = ", own, re.M), f"{command}: {words[0]} has no parameter {name}"
    assert "dgnb run" not in re.sub(r"`dgnb run [^`]+`", "", text(path))


@pytest.mark.parametrize("path", [QUESTIONS, NOTES, CHINESE], ids=lambda p: p.stem)
def test_settings_name_what_there_is(path):
    from dgnb.dgnet.step import dgnet_settings
    from dgnb.vrstc.step import stcnet_settings
    for code in re.findall(r"`((?:dgnet|stcnet)_settings\([^`]+\))`", text(path)):
        assert eval(code, {"dgnet_settings": dgnet_settings, "stcnet_settings": stcnet_settings}) not in (dgnet_settings("laptop"), stcnet_settings("laptop")), code


def test_both_languages_say_the_same():
    """The same remarks in the same order, with the same verdicts, commands and links."""
    here, there = sections(NOTES), sections(CHINESE)
    assert [title.split(". ")[0] for title in here] == [re.match(r"\w+", title)[0] for title in there]
    assert {f"S{n}" for n in range(1, 21)} <= {title.split(". ")[0] for title in here}
    target = lambda body: sorted(re.findall(r"\]\(([^)]+)\)", body))
    for (title, english), chinese in zip(here.items(), there.values()):
        assert target(english) == target(chinese), title
        assert [(one.item, one.claim, one.data, one.verdict) for one in verdicts.said(english)] == [(one.item, one.claim, one.data, one.verdict) for one in verdicts.said(chinese)], title


def test_a_verdict_that_changed_is_found():
    records = {"first-light": {"claims": [{"id": "learns", "verdict": "fails", "data": "mannequin-market", "effect": -0.1, "interval": [-0.2, -0.05]}]}}
    page = "`first-light/learns` *holds*, `first-light/learns@other` *not run*, 见 `first-light/learns` *不成立*"
    assert len(lines := verdicts.stale(page, records)) == 1 and "the record fails" in lines[0]
    shown = verdicts.shown(page, records)
    assert shown.count("(../results/first-light.md)") == 3 and '<span class="verdict fails">不成立</span> -0.100 (-0.200 to -0.050)' in shown
    with pytest.raises(KeyError, match="no claim first-light/nonsense"):
        verdicts.stale("`first-light/nonsense` *holds*", records)
