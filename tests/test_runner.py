"""Running notebooks: warm workers against papermill's real kernel, isolation, failures, parameters, shipping, freshness."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import PARAMETERS, SAVE, START, executed, make_project, nbdev_clean, row, write_catalogue, write_notebook

from dgnb.catalogue import CatalogueError, load_catalogue
from dgnb.freshness import states
from dgnb.parameters import RunnerError, parameters_of, parse_value
from dgnb.results import read_record
from dgnb.runner import STOPPED, Job, plan, run_jobs
from dgnb.shipping import ship, ship_notebook

SHOWY = """print("one")
import sys
print("two", file=sys.stderr)
from IPython.display import Markdown, display
display(Markdown("*three*"))
import asyncio
await asyncio.sleep(0)
print("four")
{"five": 5}"""
PLOT = """import matplotlib.pyplot as plt
plt.plot([1, 2]);"""


def jobs_of(*names: str, **options) -> list[Job]:
    return [plan(load_catalogue()[f"tiny-{name}"], "smoke", **options) for name in names]


def shown(notebook) -> list:
    """What every code cell stored, without what differs between any two executions."""
    return [[(o["output_type"], o.get("name"), "".join(o.get("text", "")), dict(o.get("data", {}))) for o in cell["outputs"]]
            for cell in notebook.cells if cell.cell_type == "code"]


def test_warm_worker_stores_what_a_kernel_stores(tmp_path, monkeypatch):
    """The same outputs, in the same order, as papermill's own kernel, whatever matplotlib is told outside; two kernels at once do not meet."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    make_project(tmp_path, monkeypatch, a=(SHOWY, PLOT), b=("rate * 2",))
    assert [o.cause for o in run_jobs(jobs_of("a"), 1)] == [""]
    warm = shown(executed(tmp_path, "tiny-a"))
    assert all(o.ok for o in run_jobs(jobs_of("a", mode="kernel") + jobs_of("b", mode="kernel"), 2))
    kernel = shown(executed(tmp_path, "tiny-a"))
    assert warm[3][0][:3] == ("stream", "stdout", "one\n")
    assert [o[0] for o in warm[3]] == ["stream", "stream", "display_data", "stream", "execute_result"]
    assert warm[4][-1][3]["image/png"].startswith("iVBOR")
    assert json.dumps(warm) == json.dumps(kernel)


def test_one_failure_stops_no_other(tmp_path, monkeypatch):
    """An exception, a dead process and a forgotten save() fail their own items, with a cause in one line."""
    make_project(tmp_path, monkeypatch, a=("1 / 0", "never = 1"), b=("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",), c=("x = 1",))
    write_notebook(tmp_path / "nbs" / "d.ipynb", "y = 1")
    write_catalogue(tmp_path, {**{f"tiny-{n}": row(f"nbs/{n}.ipynb") for n in "abcd"}})
    seen = []
    a, b, c, d = run_jobs(jobs_of("a", "b", "c", "d"), 2, seen.append)
    assert sorted(o.item for o in seen) == ["tiny-a", "tiny-b", "tiny-c", "tiny-d"]
    assert not a.ok and "ZeroDivisionError: division by zero" in a.cause and "\n" not in a.cause and "cell" in a.cause
    assert not b.ok and "SIGKILL" in b.cause
    assert c.ok and read_record(c.folder)["parameters"]["rate"] == 0.5
    assert not d.ok and "result.save()" in d.cause
    cells = executed(tmp_path, "tiny-a").cells
    assert any("papermill-error-cell-tag" in cell.metadata.get("tags", []) for cell in cells)
    assert [o.state for n in "abcd" for o in states(load_catalogue()[f"tiny-{n}"], ("smoke",))] == ["failed", "failed", "fresh", "failed"]


def test_notebooks_do_not_see_each_other(tmp_path, monkeypatch):
    """Names, patched modules, random state, folder and environment of one notebook are gone in the next."""
    dirty = "import os, math, random; leak = 1; math.pi = 3; random.random(); os.environ['LEAK'] = '1'; os.chdir('/')"
    clean = ("import os, math, random, pathlib\nassert 'leak' not in globals() and math.pi > 3.1 and 'LEAK' not in os.environ\n"
             "assert (pathlib.Path.cwd() / 'b.ipynb').exists()\nr = random.random()\nr")
    make_project(tmp_path, monkeypatch, a=(dirty,), b=(clean,))
    first, second, third = run_jobs(jobs_of("b", "a", "b"), 1)
    assert first.ok and second.ok and third.ok, third.cause


def test_notebooks_do_not_see_each_other_in_one_process(tmp_path, monkeypatch):
    """Where workers are kept for several notebooks, the same holds but for patched modules."""
    dirty = "import os, random, torch; leak = 1; random.random(); os.environ['LEAK'] = '1'; os.chdir('/'); torch.set_num_threads(3); torch.set_default_dtype(torch.float64)"
    clean = ("import os, random, torch\nassert 'leak' not in globals() and 'LEAK' not in os.environ and os.getcwd() != '/'\n"
             "assert torch.tensor(1.).dtype == torch.float32 and torch.get_num_threads() == 1\nrandom.random()")
    make_project(tmp_path, monkeypatch, a=(dirty,), b=(clean,))
    import dgnb.runner as runner
    before = (os.getcwd(), dict(os.environ), sys.stdout, sys.modules["__main__"])
    outcomes = [runner.execute(job) for job in jobs_of("b", "a", "b")]
    assert [o.cause for o in outcomes] == ["", "", ""]
    assert before == (os.getcwd(), dict(os.environ), sys.stdout, sys.modules["__main__"])
    first, last = shown(executed(tmp_path, "tiny-b")), outcomes[0]
    assert first[3][0][0] == "execute_result" and last.ok


def test_plain_needs_no_jupyter(tmp_path, monkeypatch):
    """The code runs and writes its record without papermill and IPython; a failing cell is named."""
    make_project(tmp_path, monkeypatch, a=("x = rate * 2",), b=("raise KeyError('gone')",))
    good, bad = run_jobs([plan(load_catalogue()[i], "smoke", {"rate": "2"}, mode="plain") for i in ("tiny-a", "tiny-b")], 1)
    assert good.ok and read_record(good.folder)["parameters"]["rate"] == 2
    assert not bad.ok and "cell 4: KeyError" in bad.cause
    block = "import sys\nfor m in ('papermill', 'IPython', 'nbformat', 'ipykernel', 'execnb', 'nbdev'): sys.modules[m] = None\n"
    code = block + "from dgnb.runner import *\nfrom dgnb.catalogue import load_catalogue as l\nprint(execute(plan(l()['tiny-a'], 'smoke', mode='plain')).ok)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def test_interrupt_keeps_what_is_finished(tmp_path, monkeypatch):
    """Ctrl-C ends what runs within seconds; the finished item stays finished and the waiting one is not begun."""
    mark = tmp_path / "begun"
    make_project(tmp_path, monkeypatch, a=("x = 1",), b=(f"import time; open({str(mark)!r}, 'w').close(); time.sleep(600)",), c=("x = 1",))
    sent = []

    def interrupt():
        wait(mark.exists)
        sent.append(time.time())
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, a process ignores Ctrl-C
    try:
        threading.Thread(target=interrupt).start()
        outcomes = {o.item: o for o in run_jobs(jobs_of("a", "b", "c"), 1)}
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.time() - sent[0] < 20
    assert outcomes["tiny-a"].ok and outcomes["tiny-b"].cause == STOPPED and "tiny-c" not in outcomes
    assert read_record(outcomes["tiny-a"].folder)


def test_workers_that_are_kept_execute_several(tmp_path, monkeypatch):
    """Where processes cannot be forked (macOS, Windows) one worker imports once and takes one notebook after the other."""
    import multiprocessing

    import dgnb.runner as runner
    monkeypatch.setattr(runner, "_context", lambda modules: (multiprocessing.get_context("spawn"), True))
    make_project(tmp_path, monkeypatch, a=(), b=())
    write_notebook(tmp_path / "nbs" / "a.ipynb", "import os; leak = 1; print(os.getpid())")
    write_notebook(tmp_path / "nbs" / "b.ipynb", "import os; assert 'leak' not in globals(); print(os.getpid())")
    assert ["result.save()" in o.cause for o in run_jobs(jobs_of("a", "b"), 1)] == [True, True]
    first, second = (shown(executed(tmp_path, f"tiny-{n}"))[-1][0][2] for n in "ab")
    assert first == second != f"{os.getpid()}\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_no_worker_outlives_a_killed_command(tmp_path, monkeypatch):
    """After kill -9 of the command nothing goes on training unseen: neither the worker nor what it started."""
    make_project(tmp_path, monkeypatch, a=())
    write_notebook(tmp_path / "nbs" / "a.ipynb", "import os, subprocess, pathlib\nchild = subprocess.Popen(['sleep', '600'])\n"
                   "pathlib.Path(os.environ['DGNB_OUT'], 'pids').write_text(f'{os.getpid()} {child.pid} end')\nchild.wait()")
    code = "import dgnb.runner as r\nfrom dgnb.catalogue import load_catalogue\nr.run_jobs([r.plan(load_catalogue()['tiny-a'], 'smoke', mode='plain')])"
    command = subprocess.Popen([sys.executable, "-c", code])
    file = tmp_path / "figures" / "tiny-a" / "smoke" / "pids"
    wait(lambda: file.is_file() and file.read_text().endswith("end"))
    pids = file.read_text().split()[:2]
    command.kill()
    command.wait()
    for pid in pids:
        wait(lambda: not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", 20)


def wait(done, seconds: float = 240) -> None:
    """Until it is done, or fail."""
    end = time.time() + seconds
    while not done():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


def test_workers_start_from_what_notebooks_import(tmp_path, monkeypatch):
    """Every module a notebook imports is there before it starts, so a second notebook waits for no import; kernels are given none."""
    from dgnb.runner import imported_by
    make_project(tmp_path, monkeypatch, a=("import colorsys\nfrom dgnb.rendering import render",), b=("import wave",))
    names = imported_by(jobs_of("a") + jobs_of("b", mode="kernel"))
    assert {"colorsys", "dgnb.rendering", "dgnb.run_store", "dgnb.engine"} <= set(names) and "wave" not in names
    code = ("import sys, dgnb.runner as r\nfrom dgnb.catalogue import load_catalogue\n"
            "print([o.cause for o in r.run_jobs([r.plan(load_catalogue()['tiny-a'], 'smoke')])])")
    write_notebook(tmp_path / "nbs" / "a.ipynb", "import sys\nassert 'torch' in sys.modules and 'colorsys' in sys.modules", "import colorsys", START, SAVE)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "['']"


def test_changed_parameters_have_a_folder_of_their_own(tmp_path, monkeypatch):
    """The usual result is not overwritten by a trial with other parameters, and the same trial finds its folder again."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    item = load_catalogue()["tiny-a"]
    folder = lambda **given: Path(plan(item, "smoke", given).folder).name
    usual = plan(item, "smoke").parameters
    assert folder() == "smoke" and folder(rate="7") == folder(rate="7") != folder(rate="8")
    assert re.fullmatch(r"smoke-[0-9a-f]{8}", folder(rate="7")) and folder(flag=repr(usual.get("flag", False))) == "smoke"


def test_parameters_are_checked(tmp_path, monkeypatch):
    """Unknown names, wrong types and values outside the choices are refused, with what is valid."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    write_catalogue(tmp_path, {"tiny-a": row("nbs/a.ipynb", choices={"name": ["x", "yes"]})})
    item = load_catalogue()["tiny-a"]
    with pytest.raises(CatalogueError, match="unknown parameter of tiny-a 'ratte'. Did you mean rate"):
        plan(item, "smoke", {"ratte": "1"})
    with pytest.raises(RunnerError, match="seeds must be list"):
        plan(item, "smoke", {"seeds": "many"})
    with pytest.raises(RunnerError, match="flag must be bool"):
        plan(item, "smoke", {"flag": "1"})
    with pytest.raises(CatalogueError, match="unknown value of name 'no'.*Valid: x, yes"):
        plan(item, "smoke", {"name": "no"})
    with pytest.raises(CatalogueError, match="unknown scale of tiny-a 'huge'"):
        plan(item, "huge")
    with pytest.raises(RunnerError, match="no parameter `data`"):
        plan(item, "smoke", data="/somewhere")
    with pytest.raises(RunnerError, match="use --scale"):
        plan(item, "smoke", {"scale": "paper"})
    wanted = plan(item, "laptop", {"seeds": "[1, 2]", "rate": "1e-3", "flag": "true", "name": "yes"}).parameters
    assert wanted == {"item": "tiny-a", "scale": "laptop", "seeds": [1, 2], "rate": 0.001, "flag": True, "name": "yes"}


def test_real_data_are_found_from_where_the_command_was_given(tmp_path, monkeypatch):
    """A relative folder is not looked for beside the notebook; what is not there, or a synthetic set among real ones, is refused at once."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    write_notebook(tmp_path / "nbs" / "a.ipynb", START, SAVE, parameters=PARAMETERS + '\nworlds = ["mannequin-a"]  # sets\ndata = ""  # folder\nweights = ""  # file')
    file = write_catalogue(tmp_path, {"tiny-a": row("nbs/a.ipynb", choices={"worlds": ["mannequin-a", "real-a"]})})
    file.write_text(file.read_text().replace("title: Real", "title: Real\n    standin: mannequin-a"))
    item = load_catalogue()["tiny-a"]
    (tmp_path / "sets" / "real-a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert plan(item, "smoke", {"worlds": "[real-a]"}, data="sets").parameters["data"] == str(tmp_path / "sets")
    with pytest.raises(RunnerError, match=r"mannequin-a is synthetic and not in .*name the real set by its folder there: -p 'worlds=\[real-a\]'"):
        plan(item, "smoke", data="sets")
    with pytest.raises(RunnerError, match="data: there is no .*gone, the folder that holds the real sets"):
        plan(item, "smoke", data="gone")
    with pytest.raises(RunnerError, match="weights: there is no .*resnet.pth"):
        plan(item, "smoke", {"weights": "resnet.pth"})
    (tmp_path / "sets" / "mannequin-a").mkdir()
    assert plan(item, "smoke", data="sets").parameters["data"] == str(tmp_path / "sets"), "a world that was written to disk is as good as a real set"


@pytest.mark.parametrize(("text", "default", "value"), [("3", 1, 3), ("3", 1.5, 3), ("1e-4", 0.1, 1e-4), ("no", True, False), ("[a, b]", ["x"], ["a", "b"]),
                                                        ("1,2", [0], [1, 2]), ("3", "x", "3"), ("2.5", 1, "2.5"), ("{a: 1}", {}, {"a": 1}), ("null", None, None)])
def test_values_are_read_as_their_default(text, default, value):
    assert parse_value(text, default) == value


PLAIN = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(),
                  st.lists(st.integers(), min_size=1), st.lists(st.text("abc-_ ", min_size=1), min_size=1), st.dictionaries(st.text("abc", min_size=1), st.integers()))


@given(PLAIN)
def test_a_value_written_in_python_is_read_back(value):
    """Whatever a default may be, writing it on the command line gives it, with its type."""
    read = parse_value(value if isinstance(value, str) else repr(value), value)
    assert read == value and type(read) is type(value)


def test_recorded_parameters_equal_the_requested_ones(tmp_path, monkeypatch):
    """A notebook that overwrites a parameter fails instead of giving another result than was asked for."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    write_notebook(tmp_path / "nbs" / "a.ipynb", "rate = 9.0", START, SAVE)
    (outcome,) = run_jobs([plan(load_catalogue()["tiny-a"], "smoke", {"rate": "0.25"})], 1)
    assert not outcome.ok and "rate=9.0" in outcome.cause


@pytest.mark.parametrize("line", ["rate: float = 0.5", "a = b = 1", "x = [i for i in range(3)]", "import os", "x, y = 1, 2"])
def test_parameter_lines_papermill_cannot_set_are_refused(tmp_path, line):
    file = write_notebook(tmp_path / "n.ipynb", parameters=line)
    with pytest.raises(RunnerError, match="write `name = value"):
        parameters_of(file)


def test_parameters_are_those_papermill_sees(tmp_path):
    import papermill
    file = write_notebook(tmp_path / "n.ipynb")
    assert parameters_of(file).keys() == papermill.inspect_notebook(str(file)).keys()
    assert parameters_of(file)["seeds"] == [0]


def test_notebook_without_one_parameters_cell_is_refused(tmp_path):
    file = write_notebook(tmp_path / "n.ipynb")
    raw = json.loads(file.read_text())
    raw["cells"][1]["metadata"] = {}
    file.write_text(json.dumps(raw))
    with pytest.raises(RunnerError, match="0 cells tagged 'parameters'"):
        parameters_of(file)


def test_shipping_keeps_source_and_stores_outputs(tmp_path, monkeypatch):
    """Files arrive, outputs land in their cells, ids and the smoke defaults stay, nothing is injected, and nbdev_clean has nothing left to do."""
    make_project(tmp_path, monkeypatch, a=(SHOWY, "result.table(__import__('pandas').DataFrame({'x': [1]}))", "object()"))
    notebook = tmp_path / "nbs" / "a.ipynb"
    before = nbformat.read(notebook, as_version=4)
    (job,) = [plan(load_catalogue()["tiny-a"], "laptop")]
    (outcome,) = run_jobs([job], 1)
    assert outcome.ok, outcome.cause
    target = ship(job)
    assert target == tmp_path / "figures" / "tiny-a" and (target / "table.csv").is_file() and read_record(target)["scale"] == "laptop"
    after = nbformat.read(notebook, as_version=4)
    assert [(c.id, c.source) for c in after.cells] == [(c.id, c.source) for c in before.cells]
    assert 'scale = "smoke"' in after.cells[1].source and after.cells[1].metadata.tags == ["parameters"]
    kinds = [(o.output_type, o.get("name")) for o in after.cells[3].outputs]
    assert kinds == [("stream", "stdout"), ("display_data", None), ("stream", "stdout"), ("execute_result", None)], "stderr is not shipped"
    assert "papermill" not in notebook.read_text() and "laptop" in json.dumps(after.cells[2].outputs)
    text = notebook.read_text()
    nbdev_clean(notebook)
    assert notebook.read_text() == text
    assert [s.state for s in states(load_catalogue()["tiny-a"], ("laptop",))] == ["fresh", "fresh"]


def test_shipping_refuses_smoke_and_foreign_copies(tmp_path, monkeypatch):
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    (job,) = jobs_of("a")
    run_jobs([job], 1)
    with pytest.raises(RunnerError, match="only shows that things are connected"):
        ship(job)
    changed = write_notebook(tmp_path / "nbs" / "other.ipynb", "x = 1")
    with pytest.raises(RunnerError, match="changed while it ran"):
        ship_notebook(changed, Path(job.folder, "notebook.ipynb"))


def test_status_says_why(tmp_path, monkeypatch):
    """Each kind of change is named; comments in the notebook's outputs or in the package change nothing."""
    make_project(tmp_path, monkeypatch, a=("result.table(__import__('pandas').DataFrame({'x': [1]}));",))
    state = lambda: states(load_catalogue()["tiny-a"], ("smoke",))[0]
    assert state().state == "not run" and "dgnb run tiny-a --scale smoke" in state().why
    (job,) = jobs_of("a")
    run_jobs([job], 1)
    assert state().state == "fresh"
    notebook = tmp_path / "nbs" / "a.ipynb"
    raw = notebook.read_text()
    notebook.write_text(raw.replace("# a switch", "# a lever"))
    assert (state().state, state().why) == ("stale", "notebook changed")
    notebook.write_text(raw)
    catalogue = tmp_path / "nbs" / "experiments.yaml"
    rows = catalogue.read_text()
    catalogue.write_text(rows.replace("A tiny thing.", "Another thing."))
    assert (state().state, state().why) == ("stale", "catalogue row changed")
    catalogue.write_text(rows.replace("- 0\n", "- 1\n", 1))
    assert (state().state, state().why) == ("stale", "made with other parameters: seeds=[0]")
    catalogue.write_text(rows)
    table = Path(job.folder, "table.csv")
    kept = table.read_bytes()
    table.write_bytes(kept[:-1])
    assert (state().state, state().why) == ("missing", "file gone or damaged: table.csv")
    table.write_bytes(kept)
    record = json.loads(Path(job.folder, "record.json").read_text())
    gone = {**record, "runs": [{"name": "toy-123", "seed": 0}]}
    Path(job.folder, "record.json").write_text(json.dumps(gone))
    assert (state().state, state().why) == ("missing", "run gone: toy-123")
    for name in ("runs", "missing"):
        record[name] = [{"name": "toy-123", "seed": 0}]
    sealed_run(tmp_path / "runs" / "toy-123")
    Path(job.folder, "record.json").write_text(json.dumps(record))
    assert (state().state, state().why) == ("stale", "run now there: toy-123")


def sealed_run(folder: Path) -> Path:
    """A finished run's folder with results that nothing reads; gives its record."""
    from dgnb.run_store import seal
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"mAP": 0.5}')
    seal(folder, {"name": folder.name})
    return folder / "record.json"


@pytest.mark.parametrize(("shelf", "mend"), [("runs", "train it again: dgnb run tiny-a --scale smoke --train"), ("shipped", "bring it back: git checkout -- ")])
@pytest.mark.parametrize(("file", "damage"), [("record.json", lambda raw: raw[:-20]), ("record.json", lambda raw: raw.replace(b"toy", b"boy")),
                                              ("metrics.json", lambda raw: raw[:-1]), ("metrics.json", None)])
def test_status_says_that_a_run_is_damaged(tmp_path, monkeypatch, shelf, mend, file, damage):
    """A record that was cut short or changed, or a results file of another size or gone: neither fresh nor arrived, and how to mend it is said."""
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    (job,) = jobs_of("a")
    run_jobs([job], 1)
    run = sealed_run(tmp_path / shelf / "toy-123").with_name(file)
    file = Path(job.folder, "record.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "runs": [{"name": "toy-123", "seed": 0}]}))
    state = lambda: states(load_catalogue()["tiny-a"], ("smoke",))[0]
    assert state().state == "fresh"
    run.write_bytes(damage(run.read_bytes())) if damage else run.unlink()
    assert state().state == "missing" and f"run damaged: {run.relative_to(tmp_path / shelf)}; {mend}" in state().why
    file.write_text(json.dumps({**json.loads(file.read_text()), "runs": [], "missing": [{"name": "toy-123", "seed": 0}]}))
    assert state().state == "fresh", "a run that cannot be opened has not arrived"


def test_code_counts_only_where_it_is_imported(tmp_path, monkeypatch):
    """A result depends on the modules its notebook imports, directly or through others; comments and plumbing do not count."""
    import dgnb.freshness as freshness
    files = {"__init__": "", "a": "from .b import x", "b": "x = 1  # one\n# %% cell 1", "c": "import dgnb.a", "alone": "y = 1", "results": "import dgnb.c",
             "sub/__init__": "", "sub/d": "from ..b import x\ndef f():\n    from .e import z", "sub/e": "from dgnb import c"}
    for name, text in files.items():
        (tmp_path / "pkg" / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pkg" / f"{name}.py").write_text(text)
    monkeypatch.setattr(freshness, "PACKAGE", tmp_path / "pkg")
    modules = lambda *code: freshness.modules_of(write_notebook(tmp_path / "n.ipynb", *code))
    assert modules("x = 1") == [] and modules("from dgnb.alone import y") == ["alone"]
    assert modules("import math\n  from dgnb.a import x  # and not dgnb.alone") == ["a", "b"]
    assert modules("from dgnb.sub import d") == modules("import dgnb.sub.d") == ["a", "b", "c", "sub", "sub.d", "sub.e"]
    assert modules("from dgnb import b, alone") == ["alone", "b"]
    assert modules("from dgnb.results import start") == ["a", "b", "c"]
    before = freshness.module_hash(tmp_path / "pkg" / "b.py")
    (tmp_path / "pkg" / "b.py").write_text("# %% cell 9\n\nx = 1  # one\n")
    assert freshness.module_hash(tmp_path / "pkg" / "b.py") == before
    (tmp_path / "pkg" / "b.py").write_text("x = 2  # one\n")
    assert freshness.module_hash(tmp_path / "pkg" / "b.py") != before
