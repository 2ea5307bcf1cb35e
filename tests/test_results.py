"""What result notebooks are given: runs, verdicts, records."""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny import make_project, row, write_catalogue

from dgnb.catalogue import CatalogueError, load_catalogue
from dgnb.results import how, read_record, readme_counts, readme_results, shipped_records, start, summary_table
from dgnb.run_store import RunSpec, recipe
from dgnb.parameters import RunnerError
from dgnb.verify import compare, flat_metrics, seed_spreads, verify

NOISE = {"size": 0.0}  # what the toy recipe adds to its metrics


@recipe("tiny-toy")
def toy(context) -> None:
    """A run that takes no time; its metric depends on its setting, its seed, and the noise."""
    context.save_metrics({"mAP": context.spec.settings["level"] + 0.01 * context.spec.seed + NOISE["size"], "seconds": 1.0})
    context.save_per_query({"ap_step": np.linspace(0, 1, 20)})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one item, and no option set."""
    for name in ("TRAIN", "FRESH", "OUT"):
        monkeypatch.delenv(f"DGNB_{name}", raising=False)
    return make_project(tmp_path, monkeypatch, a=("x = 1",))


def figure():
    from dgnb.figures import new_figure
    fig = new_figure(2, 1)
    fig.add_subplot().plot([1, 2])
    return fig


def test_a_missing_run_is_drawn_as_not_run(project, monkeypatch):
    """Nothing is trained unless asked for; the line says how to; asking for it finds the run from then on."""
    spec = RunSpec("tiny-toy", 1, {"level": 0.5}, {}, 0)
    result = start("tiny-a", "smoke", seeds=[0])
    assert result.run(spec) is None
    assert "1 run (tiny-toy)" in result.not_run() and "`dgnb run tiny-a --scale smoke --train`" in result.not_run()
    assert read_record(result.save())["missing"][0]["name"] == spec.name
    monkeypatch.setenv("DGNB_TRAIN", "1")
    assert start("tiny-a", "smoke").run(spec).metrics["mAP"] == 0.5
    monkeypatch.delenv("DGNB_TRAIN")
    result = start("tiny-a", "smoke")
    assert result.run(spec).metrics["mAP"] == 0.5 and result.not_run() == ""


def test_fresh_trains_again_once_for_all_items(project, monkeypatch):
    """A run that this command has already trained anew, for another item, is not trained a second time."""
    spec = RunSpec("tiny-toy", 1, {"level": 0.5}, {}, 0)
    monkeypatch.setenv("DGNB_TRAIN", "1")
    start("tiny-a", "smoke").run(spec)
    record = Path(os.environ["DGNB_RUNS"], spec.name, "record.json")
    os.utime(record, (1e9, 1e9))
    monkeypatch.setenv("DGNB_FRESH", "1500000000.0")
    start("tiny-a", "smoke").run(spec)
    stamp = record.stat().st_mtime_ns
    assert stamp > 1.5e18
    start("tiny-a", "smoke").run(spec)
    assert record.stat().st_mtime_ns == stamp
    monkeypatch.setenv("DGNB_FRESH", "soon")
    with pytest.raises(ValueError, match="DGNB_FRESH must be 1 or a Unix time, found 'soon'"):
        how()


def test_record_says_how_it_was_made(project, monkeypatch):
    """Files with checksums, parameters, runs, data, versions; written whole, nothing temporary left."""
    import pandas as pd
    monkeypatch.setenv("DGNB_TRAIN", "1")
    result = start("tiny-a", "smoke", seeds=[0, 1], rate=np.float64(0.5))
    result.uses(type("Set", (), {"name": "town", "fingerprint": "abc"}))
    for seed in (1, 0):
        result.run(RunSpec("tiny-toy", 1, {"level": 0.5}, {}, seed))
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    assert result.table(frame) is frame
    result.figure(figure(), alt="A line that rises from one to two.")
    folder = result.save()
    record = read_record(folder)
    assert record["parameters"] == {"item": "tiny-a", "scale": "smoke", "seeds": [0, 1], "rate": 0.5}
    assert record["data"] == {"town": "abc"} and record["seeds"] == [0, 1] and len(record["runs"]) == 2
    assert {"figure.png", "figure.svg", "table.csv", "table.md"} <= record["files"].keys()
    assert {p.name for p in folder.iterdir()} == {*record["files"], "record.json"}
    assert record["versions"]["torch"] and record["device"] and record["threads"] >= 1 and record["seconds"] >= 0
    assert record["peak_memory"]["host"] > 1e7 and record["figures"] == {"figure": {"alt": "A line that rises from one to two."}}
    assert set(record) >= {"commit", "date", "claims", "inputs", "command", "scale", "item"}
    assert "town" in result.header() and "**smoke**" in result.header()._repr_markdown_()


def test_claims_are_decided_by_one_rule(project):
    """Interval above zero holds, below fails, else within noise; what was not run says so."""
    draw = np.random.default_rng(0)
    base = draw.random((3, 400))
    result = start("tiny-a", "smoke")
    decide = lambda a, b, data: result.check({"a": {"mAP": a}, "b": {"mAP": b}}, data)[0]
    up = decide(base + 0.1, base, "one")
    assert up["verdict"] == "holds" and up["effect"] == pytest.approx(0.1) and up["interval"][0] > 0 and up["spread"] == pytest.approx(0, abs=1e-9)
    assert decide(base, base + 0.1, "two")["verdict"] == "fails"
    assert decide(base + draw.normal(0, 0.3, base.shape), base, "three")["verdict"] == "within noise"
    assert result.check({"a": {"mAP": base}}, "four")[0]["verdict"] == "not run"
    result.claim("said", "holds", data="one")
    with pytest.raises(CatalogueError, match="unknown claim of tiny-a 'sayd'"):
        result.claim("sayd", "holds")
    with pytest.raises(CatalogueError, match="unknown verdict 'true'"):
        result.claim("said", "true")
    assert len(read_record(result.save())["claims"]) == 5
    decide(base, base, "one")
    assert sum(c["data"] == "one" and c["id"] == "up" for c in result.claims) == 1


def test_chains_stand_with_their_weakest_link(project):
    from dgnb.results import decide
    base = np.random.default_rng(0).random(500)
    found = decide([base + 0.3, base + 0.1, base])
    assert found["verdict"] == "holds" and found["effect"] == pytest.approx(0.1)
    assert decide([base + 0.3, base, base + 0.1])["verdict"] == "fails"


def test_names_are_checked(project):
    import pandas as pd
    result = start("tiny-a", "smoke")
    result.table(pd.DataFrame())
    for name in ("table", "record", "../x", ""):
        with pytest.raises(ValueError, match="taken or not a plain word"):
            result.table(pd.DataFrame(), name)
    with pytest.raises(ValueError, match="alt"):
        result.figure(figure(), alt="")
    with pytest.raises(CatalogueError, match="unknown scale"):
        start("tiny-a", "small")


def test_summary_lists_every_claim_of_built_items(project, monkeypatch):
    """Verdicts come from shipped records; unchecked claims are not run; planned items are left out."""
    write_catalogue(project, {"tiny-a": row("nbs/a.ipynb"), "tiny-b": row(None)})
    assert list(summary_table()["verdict"]) == ["not run", "not run"] and shipped_records() == {}
    monkeypatch.setenv("DGNB_OUT", str(project / "figures" / "tiny-a"))
    result = start("tiny-a", "laptop")
    result.claim("up", "holds", effect=0.05, interval=(0.01, 0.09), data="town")
    result.save()
    table = summary_table()
    assert list(table["verdict"]) == ["holds", "not run"] and list(table["scale"]) == ["laptop", "laptop"]
    line = "| [tiny-a](../figures/tiny-a) | A is above B. | town | *holds* | +0.050 (+0.010, +0.090) |"
    assert line in readme_results() and line in readme_results("tiny-a") and line not in readme_results("tiny-b")
    result.claim("up", "holds", effect=0.05, interval=(0.01, 0.09), spread=0.02, data="town")
    result.save()
    assert line[:-2] + ", sd over seeds 0.020 |" in readme_results()  # an interval over queries does not say what another seed does
    counts = readme_counts().data.splitlines()
    assert counts[0].split(" | ")[2:] == ["holds", "within noise", "fails", "not run |"]
    assert [cell.strip() for cell in counts[2].split("|")][3:-1] == ["1", "", "", "1"] and counts[3].startswith("| **all** |  | **1** |")


@pytest.fixture
def shipped(project, monkeypatch):
    """The item, shipped with three seeds of its toy run."""
    NOISE["size"] = 0.0
    monkeypatch.setenv("DGNB_TRAIN", "1")
    monkeypatch.setenv("DGNB_OUT", str(project / "figures" / "tiny-a"))
    result = start("tiny-a", "laptop")
    for seed in range(3):
        result.run(RunSpec("tiny-toy", 1, {"level": 0.5}, {}, seed))
    result.save()
    os.rename(os.environ["DGNB_RUNS"], os.environ["DGNB_SHIPPED_RUNS"])
    return load_catalogue()["tiny-a"]


@pytest.mark.parametrize(("noise", "good"), [(0.0, True), (0.029, True), (-0.029, True), (0.031, False), (float("inf"), False)])
def test_verify_allows_three_seed_spreads(shipped, noise, good):
    """The seeds' standard deviation is 0.01 here; nothing is left behind in the stores."""
    NOISE["size"] = noise if noise != float("inf") else 1e9
    lines = []
    try:
        assert verify([shipped], say=lines.append) == good
    finally:
        NOISE["size"] = 0.0
    assert sum("training again" in line for line in lines) == 3
    assert ("to the last bit" in " ".join(lines)) == good and ("DIFFERS mAP" in " ".join(lines)) != good
    assert not os.path.exists(os.environ["DGNB_RUNS"])


def test_verify_takes_one_run_or_says_what_there_is(shipped):
    lines = []
    assert verify([shipped, shipped], quick=True, say=lines.append) and len(lines) == 2
    with pytest.raises(RunnerError, match="no run begins with 'x'; there are tiny-toy-"):
        verify([shipped], only="x")


def test_verify_without_record_or_run_says_what_to_do(project, shipped):
    os.rename(os.environ["DGNB_SHIPPED_RUNS"], project / "elsewhere")
    with pytest.raises(RunnerError, match="was never trained here"):
        verify([shipped])
    (project / "figures" / "tiny-a" / "record.json").unlink()
    with pytest.raises(RunnerError, match="was not shipped"):
        verify([shipped])
    with pytest.raises(RunnerError, match="nothing was shipped"):
        verify([])


def test_metrics_are_compared_by_name():
    """Nested numbers count, times do not; a metric that is gone differs; without a known spread two per cent are allowed."""
    metrics = flat_metrics({"a": {"b": 1, "ok": True}, "seconds": 3.0, "note": "x", "c": 2.0})
    assert metrics == {"a.b": 1.0, "c": 2.0}
    rows = {r.metric: r.ok for r in compare("r", metrics, {"c": 2.03}, {})}
    assert rows == {"a.b": False, "c": True}
    run = lambda key, seed: {"key": key, "recipe": "r", "version": 1, "settings": {}, "data": {}, "seed": seed}
    assert seed_spreads([run("p", 0), run("q", 1)], {"p": {"m": 0.0}, "q": {"m": 2.0}}) == {"m": pytest.approx(2**0.5)}
    assert seed_spreads([run("p", 0)], {"p": {"m": 0.0}}) == {}


def test_readme_takes_shipped_figures(project, monkeypatch):
    """Picture and alt text; the generator of README.md reads `data`."""
    from dgnb.results import readme_figure
    monkeypatch.setenv("DGNB_OUT", str(project / "figures" / "tiny-a"))
    result = start("tiny-a", "laptop")
    result.figure(figure(), alt="A line that rises from one to two.")
    result.save()
    assert readme_figure("tiny-a").data == "![A line that rises from one to two.](../figures/tiny-a/figure.png)"
    assert (project / "figures" / "tiny-a" / "figure.png").is_file() and readme_results().data.startswith("| item |")


def test_records_hold_no_nan(project):
    """Numbers that are not finite are null, so that any JSON reader takes the record."""
    result = start("tiny-a", "smoke", rate=float("nan"))
    result.claim("up", "within noise", effect=np.nan, interval=(np.nan, 1))
    record = json.loads((result.save() / "record.json").read_text(), parse_constant=pytest.fail)
    assert record["claims"][0]["effect"] is None and record["claims"][0]["interval"] == [None, 1.0] and record["parameters"]["rate"] is None


def test_broken_record_is_no_record(project):
    (project / "figures").mkdir()
    for text in ("", "{", "[]", json.dumps({"schema": 99})):
        (project / "figures" / "record.json").write_text(text)
        assert read_record(project / "figures") is None


def test_the_command_names_changed_parameters(monkeypatch, tmp_path):
    """A result with changed parameters says the command that makes it, not the default's."""
    from dgnb.results import start
    monkeypatch.setenv("DGNB_OUT", str(tmp_path))
    usual = dict(seeds=[0], train_identities=60, test_identities=60)
    assert start("first-light", "laptop", **usual, epochs=12).command == "dgnb run first-light --scale laptop --train"
    assert start("first-light", "laptop", **usual, epochs=7).command == "dgnb run first-light --scale laptop -p epochs=7 --train"
    monkeypatch.delenv("DGNB_OUT")
    assert start("first-light", "laptop", **usual, epochs=12).folder.name == "laptop"
    assert start("first-light", "laptop", **usual, epochs=7).folder.name.startswith("laptop-"), "executed by hand, too, a trial has its own folder"


def test_a_notebook_edited_and_executed_by_hand_keeps_off_the_usual_result(project):
    """JupyterLab saves what a reader changes in the parameters cell, so the file itself no longer tells what is usual: the record that is there does."""
    usual = {"seeds": [0], "rate": 0.5, "name": "x", "flag": False}
    there = start("tiny-a", **usual).save()
    before = (there / "record.json").read_bytes()
    assert start("tiny-a", **usual).folder == there and f"writes to `{there}`" in start("tiny-a", **usual).header()
    notebook = project / "nbs" / "a.ipynb"
    notebook.write_text(notebook.read_text().replace("rate = 0.5", "rate = 0.25"))
    edited = start("tiny-a", **usual | {"rate": 0.25})
    assert edited.save() != there and f"writes to `{edited.folder}`" in edited.header() and edited.folder.name.startswith("smoke-")
    assert (there / "record.json").read_bytes() == before and start("tiny-a", **usual | {"rate": 0.25}).folder == edited.folder


def test_verdicts_are_shown_whole(project, monkeypatch):
    """The whole text of a claim, no column that is empty throughout."""
    monkeypatch.setenv("DGNB_OUT", str(project / "figures" / "tiny-a"))
    result = start("tiny-a", "laptop")
    assert "No claim" in result.verdicts().data
    result.claim("up", "holds", effect=0.05, interval=(0.01, 0.09), data="town")
    head, _, line = result.verdicts().data.splitlines()
    assert head == "| claim | data | verdict | effect (95 % interval) |"
    assert line == "| A is above B. | town | *holds* | +0.050 (+0.010, +0.090) |"
