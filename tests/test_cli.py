"""The `dgnb` command, as a user types it."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
from tiny import make_project, nbdev_clean, row, write_catalogue

from dgnb import cli
from dgnb.catalogue import load_catalogue
from dgnb.cli import main


@pytest.fixture
def dgnb(monkeypatch, capsys):
    """Call the command in this process; gives (exit status, what it printed, what it complained about)."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dgnb", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err
    return call


def test_list_answers_at_once():
    """No torch, no pandas, no papermill on the way to `dgnb list` and `dgnb --help`."""
    code = ("import sys, time; t = time.perf_counter(); sys.argv = ['dgnb', {!r}]\nfrom dgnb.cli import main\ntry: main()\nexcept SystemExit: pass\n"
            "heavy = [m for m in ('torch', 'pandas', 'papermill', 'matplotlib', 'IPython') if m in sys.modules]\n"
            "print(heavy, time.process_time(), file=sys.stderr)")
    for word in ("list", "--help", "status"):
        end = subprocess.run([sys.executable, "-c", code.format(word)], capture_output=True, text=True)
        heavy, _, seconds = end.stderr.strip().rpartition(" ")
        assert heavy == "[]" and float(seconds) < 1.5, (word, end.stderr)
        assert "dgnet-table3" in end.stdout or "Regenerate" in end.stdout


def test_running_without_notebook_packages_says_what_to_do(dgnb, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    status, out, err = dgnb("run", "first-light", "--scale", "smoke")
    assert status == 2 and not out and "pip install 'dgnb[notebooks]', or add --plain" in err and err.count("\n") == 1


def test_list_shows_every_item(dgnb):
    status, out, _ = dgnb("list")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == [item.id for item in load_catalogue()]
    _, out, _ = dgnb("list", "--built")
    assert "dgnet-table3" in out and "planned" not in out


def test_list_of_one_item_says_what_can_be_changed(dgnb, tmp_path, monkeypatch):
    """Its claims, and each parameter with its value at the scale and the comment beside it; `item` and `scale` are no parameters to change."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    scales = {**row(None)["scales"], "gpu": {"parameters": {"seeds": [4, 5]}}, "paper": None}
    write_catalogue(tmp_path, {"tiny-a": row("nbs/a.ipynb", scales=scales), "tiny-b": row(None)})
    status, out, _ = dgnb("list", "tiny-a", "--scale", "gpu")
    lines = [line.split(None, 2) for line in out.splitlines()]
    assert status == 0 and "A is above B." in out and "notebook nbs/a.ipynb" in out
    assert ["rate", "0.5", "learning rate"] in lines and ["seeds", "[4,", "5]  one run each"] in lines and "id in the catalogue" not in out
    assert "it has no paper scale" in dgnb("list", "tiny-a", "--scale", "paper")[1] and "it is planned" in dgnb("list", "tiny-b")[1]


def test_a_planned_item_is_neither_run_nor_verified(dgnb, tmp_path, monkeypatch):
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    write_catalogue(tmp_path, {"tiny-a": row("nbs/a.ipynb"), "tiny-b": row(None)})
    for words, message in ((("run", "tiny-b"), "tiny-b is planned and has no notebook yet (needs nothing). Built: tiny-a"), (("verify", "tiny-b"), "tiny-b was not shipped")):
        status, out, err = dgnb(*words)
        assert status == 2 and out == "" and err.startswith("dgnb: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(("words", "message"), [
    (("run", "dgnet-tabel3"), "unknown item 'dgnet-tabel3'. Did you mean dgnet-table3, dgnet-table"),
    (("run", "dgnet-table3", "dgnet-tabel1"), "unknown item 'dgnet-tabel1'. Did you mean dgnet-table1"),
    (("run", "dgnet-table3", "--scale", "laptpo"), "unknown scale 'laptpo'. Did you mean laptop?"),
    (("run", "dgnet-table3", "-p", "seeds"), "-p takes name=value, found 'seeds'"),
    (("run", "dgnet-table3", "--ship", "--scale", "smoke"), "only shows that things are connected"),
    (("run", "dgnet-table3", "--plain", "--kernel"), "leave out --kernel and --ship"),
    (("status", "dgnet"), "unknown item 'dgnet'"),
    (("status", "xyz"), "unknown item 'xyz'. `dgnb list` shows all "),
    (("data", "make", "mannequin-markt", "/tmp/never"), "unknown world 'mannequin-markt'"),
    (("data", "make", "mannequin-market", "/tmp/never", "--size", "3x"), "--size takes HEIGHTxWIDTH, e.g. 128x64, found '3x'"),
    (("list", "dgnet-tabel3"), "unknown item 'dgnet-tabel3'. Did you mean dgnet-table3"),
    (("run", "dgnet-table3", "--data", "/tmp/no-such-folder"), "data: there is no /tmp/no-such-folder, the folder that holds the real sets"),
    (("data", "check", "mannequin-market", "--cameras", "x.csv"), "has its cameras: leave out --cameras"),
    (("swap", "--appearance", "a.png", "--structure", "b.png", "--out", "c.jpg"), "--out takes a .png file or a folder, found c.jpg"),
    (("data", "check", "/tmp/no-such-folder"), "'/tmp/no-such-folder' is no folder and no set"),
    (("evaluate", "--features", "/tmp/no-such.npz"), "/tmp/no-such.npz"),
])
def test_bad_requests_get_one_line(dgnb, words, message):
    status, out, err = dgnb(*words)
    assert status == 2 and out == "" and err.startswith("dgnb: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize("words", [("fly",), ("run",), ("run", "dgnet-table3", "--wrokers", "2"), ("run", "all", "--devices", "0")])
def test_usage_errors_are_refused(dgnb, words):
    status, _, err = dgnb(*words)
    assert status == 2 and "Error" in err


def test_run_reports_each_item_and_the_exit_status(dgnb, tmp_path, monkeypatch):
    """One failing item makes the status 1, is named with its cause at the end, and keeps no other from being drawn."""
    make_project(tmp_path, monkeypatch, a=("x = 1",), b=("raise ValueError('broken on purpose')",), c=("x = 1",))
    status, out, err = dgnb("run", "all", "--scale", "smoke", "--workers", "2")
    assert status == 1 and err == ""
    assert "failed: tiny-b smoke: cell" in out and "ValueError: broken on purpose" in out and "2 of 3 done" in out
    _, out, _ = dgnb("status", "--scale", "smoke")
    states = {line.split()[0]: line for line in out.splitlines()}
    assert out.split()[:6] == ["item", "scale", "where", "state", "took", "why"]
    assert "fresh" in states["tiny-a"] and "failed" in states["tiny-b"] and "broken on purpose" in states["tiny-b"]
    usual = (tmp_path / "figures" / "tiny-a" / "smoke" / "record.json").read_text()
    status, out, _ = dgnb("run", "tiny-a", "--scale", "smoke", "-p", "seeds=[3]")
    (trial,) = (tmp_path / "figures" / "tiny-a").glob("smoke-*/record.json")
    assert status == 0 and f"with changed parameters, in {trial.parent}" in out and json.loads(trial.read_text())["parameters"]["seeds"] == [3]
    assert (tmp_path / "figures" / "tiny-a" / "smoke" / "record.json").read_text() == usual
    _, out, _ = dgnb("run", "all", "--scale", "smoke", "--stale")
    assert "1 item," in out and "tiny-b smoke" in out, "only what failed is not fresh"
    status, _, err = dgnb("run", "tiny-a", "-p", "sedes=[1]")
    assert status == 2 and "unknown parameter of tiny-a 'sedes'. Did you mean seeds" in err


def test_options_reach_the_notebook(dgnb, tmp_path, monkeypatch):
    """How to train goes by the environment: with --train, --fresh, --devices and so on, and is absent otherwise."""
    seen = "import json, os, pathlib; pathlib.Path(os.environ['DGNB_OUT'], 'seen.json').write_text(json.dumps({k: v for k, v in os.environ.items() if k.startswith('DGNB_')}))"
    make_project(tmp_path, monkeypatch, a=(seen,))
    read = lambda: json.loads((tmp_path / "figures" / "tiny-a" / "smoke" / "seen.json").read_text())
    for name in ("TRAIN", "FRESH", "DEVICES", "NODES", "PRECISION"):
        monkeypatch.delenv(f"DGNB_{name}", raising=False)
    assert dgnb("run", "tiny-a", "--scale", "smoke")[0] == 0
    assert not read().get("DGNB_TRAIN") and not read().get("DGNB_FRESH") and "DGNB_DEVICES" not in read()
    before = time.time()
    assert dgnb("run", "tiny-a", "--scale", "smoke", "--fresh", "--devices", "2", "--nodes", "3", "--precision", "bf16-mixed")[0] == 0
    found = read()
    assert found["DGNB_TRAIN"] == "1" and before <= float(found["DGNB_FRESH"]) <= time.time()
    assert (found["DGNB_DEVICES"], found["DGNB_NODES"], found["DGNB_PRECISION"]) == ("2", "3", "bf16-mixed")


def test_a_run_of_another_precision_is_named(dgnb, tmp_path, monkeypatch):
    """Who asks for a precision and gets runs that were made in another is told, and how to get what was asked for."""
    recipe = "from dgnb.run_store import RunSpec, recipe\n@recipe('tiny-toy')\ndef train(context):\n    context.save_metrics({'x': 1})\nresult.run(RunSpec('tiny-toy'));"
    make_project(tmp_path, monkeypatch, a=(recipe,))
    monkeypatch.delenv("DGNB_PRECISION", raising=False)
    note = "1 run was there already, made in 32-true and not in bf16-mixed"
    for words, said in ((("--train",), False), (("--precision", "bf16-mixed", "--train"), True), (("--precision", "32-true"), False),
                        (("--precision", "bf16-mixed", "--fresh"), False), (("--precision", "bf16-mixed"), False)):
        status, out, _ = dgnb("run", "tiny-a", "--scale", "smoke", *words)
        assert status == 0 and (f"drawn ({note}: --fresh trains anew)" in out) == said, (words, out)


def test_ship_stores_the_result(dgnb, tmp_path, monkeypatch):
    make_project(tmp_path, monkeypatch, a=("result.table(__import__('pandas').DataFrame({'x': [1]}))",))
    status, out, _ = dgnb("run", "tiny-a", "--scale", "laptop", "--ship")
    assert status == 0 and f"shipped tiny-a to {tmp_path / 'figures' / 'tiny-a'}" in out
    assert (tmp_path / "figures" / "tiny-a" / "table.csv").is_file()
    assert nbformat.read(tmp_path / "nbs" / "a.ipynb", as_version=4).cells[3].outputs


def test_status_costs(dgnb, tmp_path, monkeypatch):
    """Minutes add up; what was not measured is a question mark and not a zero."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    scales = {name: {"parameters": {}, "minutes": minutes} for name, minutes in (("smoke", 0.5), ("laptop", 20), ("gpu", None))} | {"paper": None}
    write_catalogue(tmp_path, {"tiny-a": row("nbs/a.ipynb", scales=scales), "tiny-b": row("nbs/a.ipynb", scales=scales), "tiny-c": row(None)})
    status, out, _ = dgnb("status", "--cost")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0 and lines[1] == ["tiny-a", "0.5", "20", "?", "-"] and lines[3][-4:] == ["1", "40", "?", "?"]  # no runs shipped: the catalogue's
    assert out.endswith("1 planned item has no cost yet\n")


def test_costs_are_those_of_the_shipped_runs_each_counted_once(dgnb, tmp_path, monkeypatch):
    """Two items that share a run: each costs its own runs, both together the shared one once."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    scales = {"laptop": {"parameters": {}, "minutes": 20}, "smoke": None, "gpu": None, "paper": None}
    write_catalogue(tmp_path, {name: row("nbs/a.ipynb", scales=scales) for name in ("tiny-a", "tiny-b", "tiny-c")})
    from dgnb import costs
    took = {"one": 60, "two": 120, "both": 600}
    for name, seconds in took.items():
        (tmp_path / "kept" / name).mkdir(parents=True)
        (tmp_path / "kept" / name / "record.json").write_text(json.dumps({"seconds": seconds}))
    records = {"tiny-a": ["one", "both"], "tiny-b": ["two", "both"]}
    monkeypatch.setattr(costs, "run_folder", lambda run: tmp_path / "kept" / run["name"])
    monkeypatch.setattr(costs, "read_record", lambda folder: {"scale": "laptop", "runs": [{"name": name} for name in records[folder.name]]} if folder.name in records else None)
    lines = [line.split() for line in dgnb("status", "--cost")[1].splitlines()]
    assert [line[2] for line in lines[1:4]] == ["11", "12", "20"] and lines[4][-4:] == ["?", "33", "?", "?"]
    (tmp_path / "kept" / "two" / "record.json").unlink()
    assert [line.split()[2] for line in dgnb("status", "--cost")[1].splitlines()[1:4]] == ["11", "20", "20"]


def test_a_fresh_run_goes_on_from_the_time_it_was_told(monkeypatch):
    from dgnb.cli import _since
    monkeypatch.delenv("DGNB_FRESH", raising=False)
    assert abs(float(_since()) - __import__("time").time()) < 2
    for given, kept in (("1700000000", True), ("1", False), ("soon", False)):
        monkeypatch.setenv("DGNB_FRESH", given)
        assert (_since() == given) is kept


def test_new_writes_a_notebook_that_runs(dgnb, tmp_path, monkeypatch):
    """The template executes as it is, says that its claims were not run, and is never written twice."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    expected = [{"name": "t", "source": "s", "columns": ["real mAP", "real rank1"], "rows": {"ours": [1.5, 2.5]}}]
    write_catalogue(tmp_path, {"tiny-new": row(None, expected=expected)})
    status, out, _ = dgnb("new", "tiny-new")
    file = tmp_path / "nbs" / "4_results" / "tiny_new.ipynb"
    assert status == 0 and str(file) in out and file.is_file()
    text = file.read_text()
    nbdev_clean(file)
    assert file.read_text() == text, "nbdev_clean has nothing to do"
    status, _, err = dgnb("new", "tiny-new")
    assert status == 2 and "is there already and is never overwritten" in err
    write_catalogue(tmp_path, {"tiny-new": row("nbs/4_results/tiny_new.ipynb", expected=expected)})
    status, out, _ = dgnb("run", "tiny-new", "--scale", "smoke")
    assert status == 0, out
    record = json.loads((tmp_path / "figures" / "tiny-new" / "smoke" / "record.json").read_text())
    assert [c["verdict"] for c in record["claims"]] == ["not run"] and "mannequin-market" in record["data"]
    assert "1.5" in (tmp_path / "figures" / "tiny-new" / "smoke" / "paper.csv").read_text()


def test_data_is_made_and_checked(dgnb, tmp_path, monkeypatch):
    """A world on disk is complete; with an image cut short the check fails and names it."""
    status, out, _ = dgnb("data", "make", "mannequin-market", tmp_path / "town", "--seed", "5", "--size", "64x32")
    assert status == 0 and "48 train" in out
    status, out, _ = dgnb("data", "check", tmp_path / "town")
    assert status == 0 and "all images can be decoded" in out
    image = sorted((tmp_path / "town" / "query").glob("*.jpg"))[0]
    image.write_bytes(image.read_bytes()[:100])
    status, out, _ = dgnb("data", "check", tmp_path / "town")
    assert status == 1 and f"DAMAGED: query/{image.name}" in out
    status, out, _ = dgnb("data", "check", "mannequin-market", tmp_path / "town")
    assert status == 1 and f"DAMAGED: query/{image.name}" in out, "a world called by name is checked in the folder that is given"
    status, _, err = dgnb("data", "check", "mannequin-market", tmp_path / "town" / "query")
    assert status == 2 and str(tmp_path / "town" / "query") in err
    status, _, err = dgnb("data", "check", "mars")
    assert status == 2 and "say where it lies, dgnb data check mars FOLDER" in err
    (tmp_path / "town").rename(tmp_path / "mannequin-market")
    monkeypatch.chdir(tmp_path)
    status, out, _ = dgnb("data", "check", "mannequin-market")
    assert status == 1 and f"DAMAGED: query/{image.name}" in out, "a folder that is there is meant, not the world of its name"
    (tmp_path / "mannequin-market").rename(tmp_path / "town")
    table, people = tmp_path / "cameras.csv", tmp_path / "people"
    shutil.copytree(tmp_path / "town" / "bounding_box_train", people / "a b")
    shutil.copytree(people / "a b", people / "c")
    names = sorted(path.relative_to(people).as_posix() for path in people.rglob("*.jpg"))
    table.write_text("path,camera\n" + "".join(f"{name},door {n % 2}\n" for n, name in enumerate(names)))
    status, out, _ = dgnb("data", "check", people, "--cameras", table)
    assert status == 0 and "same-camera answers are ignored" in out and "no cameras given" not in out
    table.write_text(table.read_text().replace("door 1", ""))
    status, _, err = dgnb("data", "check", people, "--cameras", table)
    assert status == 2 and "cameras.csv line 3: no camera for" in err
    status, _, err = dgnb("data", "check", "mannequin-duke", tmp_path / "town")
    assert status == 2 and "town holds mannequin-market, not mannequin-duke" in err
    status, out, _ = dgnb("data", "check", "mannequin-duke", "--no-images")
    assert status == 0 and "cameras" in out


def test_evaluate_prints_both_rules(dgnb, tmp_path):
    """By hand: one query, matches at ranks 1 and 3, one junk image and one of its own camera left out."""
    gallery = np.array([[1, 0], [0.9, 0.1], [0.8, 0.3], [0.7, 0.4], [1, 0.01]], float)
    np.savez(tmp_path / "f.npz", query=[[1.0, 0.0]], gallery=gallery, query_ids=[1], gallery_ids=[1, 2, 1, -1, 1],
             query_cameras=[1], gallery_cameras=[2, 2, 3, 2, 1])
    status, out, _ = dgnb("evaluate", "--features", tmp_path / "f.npz")
    step, trapezoid = (1 + 2 / 3) / 2, (1 + (1 / 2 + 2 / 3) / 2) / 2
    assert status == 0 and f"{step:.2%}" in out and f"{trapezoid:.2%}" in out and "1 of 1 queries counted" in out
    status, out, _ = dgnb("evaluate", "--features", tmp_path / "f.npz", "--json")
    assert json.loads(out)["map_step"] == pytest.approx(step)
    status, _, err = dgnb("evaluate", "--features", tmp_path / "f.npz", "--metric", "cosin")
    assert status == 2 and "cosin" in err


def test_debug_shows_where_an_error_came_from(monkeypatch):
    monkeypatch.setenv("DGNB_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["dgnb", "run", "nothing"])
    with pytest.raises(ValueError, match="unknown item"):
        main()


@pytest.mark.parametrize(("error", "line"), [(KeyError("pid"), "dgnb: KeyError: 'pid' (DGNB_DEBUG=1 shows where it came from)\n"), (ValueError("no\nsuch"), "dgnb: no such\n"),
                                            (AttributeError(), None)])
def test_an_error_that_is_not_for_readers_says_how_to_see_more(dgnb, monkeypatch, error, line):
    """A mistake of ours must not look like the user's."""
    def fail(*_):
        raise error
    monkeypatch.setattr(cli, "load_catalogue", fail)
    if line is None:
        monkeypatch.setattr(sys, "argv", ["dgnb", "list"])
        with pytest.raises(AttributeError):
            main()
    else:
        assert dgnb("list") == (2, "", line)


def test_help_needs_no_network(tmp_path):
    """With every socket refused, the commands that need none still work."""
    block = "import socket\ndef no(*a, **k): raise RuntimeError('network')\nsocket.socket.connect = no\nsocket.getaddrinfo = no\n"
    code = block + f"import sys; sys.argv = ['dgnb', 'data', 'make', 'same-clothes', {str(tmp_path / 'w')!r}]\nfrom dgnb.cli import main\nmain()"
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert end.returncode == 0 and "train" in end.stdout, end.stderr
