"""What comes with the project: every built item has its record, every record its runs and files, and the notebooks show what was shipped."""
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgnb.catalogue import load_catalogue
from dgnb.parameters import parameters_of
from dgnb.paths import figures_dir, shipped_runs
from dgnb.results import read_record
from dgnb.run_store import RunSpec, open_run

BUILT = [item.id for item in load_catalogue() if item.built and "laptop" in item.scales]
PARTS = RunSpec.__dataclass_fields__


@pytest.fixture(params=BUILT)
def shipped(request):
    record = read_record(figures_dir(ship=True) / request.param)
    assert record, f"{request.param} is built but not shipped: dgnb run {request.param} --scale laptop --train --ship"
    return record


def test_no_shipped_item_lacks_its_runs(shipped):
    assert shipped["scale"] == "laptop" and not shipped["missing"]
    for run in shipped["runs"]:
        found = open_run(shipped_runs() / run["name"], RunSpec(**{name: run[name] for name in PARTS}), shipped=True)
        assert found.metrics and found.has_weights >= run["weights"]


def test_shipped_files_are_those_of_the_record(shipped):
    folder = figures_dir(ship=True) / shipped["item"]
    for name, digest in shipped["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_a_record_says_how_it_was_made(shipped):
    assert shipped["commit"] and shipped["date"] and shipped["device"] and shipped["seconds"] >= 0
    assert {"python", "torch", "dgnb"} <= shipped["versions"].keys()
    assert all(figure["alt"] for figure in shipped["figures"].values())


def test_the_notebook_shows_the_shipped_result(shipped):
    """Of items that share a notebook, it shows the one that its parameters cell names."""
    path = load_catalogue().notebook(load_catalogue()[shipped["item"]])
    assert (own := parameters_of(path)["item"]) in BUILT
    if own != shipped["item"]:
        return
    notebook = json.loads(path.read_text(encoding="utf-8"))
    shown = "".join("".join(o.get("data", {}).get("text/markdown", "")) for cell in notebook["cells"] for o in cell.get("outputs", []))
    assert "scale **laptop** on " in shown and shipped["date"][:10] in shown and all(name in shown for name in shipped["data"])
    assert not [cell for cell in notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]


def test_runs_and_weights_stay_small():
    weights = 0
    for folder in shipped_runs().iterdir():
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
        weights += sizes.pop("weights.safetensors", 0)
        assert sum(sizes.values()) <= 110_000, folder.name
    assert weights <= 12 * 2**20


@pytest.mark.slow
def test_an_item_runs_in_a_real_kernel_too(tmp_path):
    environment = os.environ | {"DGNB_RUNS": str(tmp_path / "runs"), "DGNB_FIGURES": str(tmp_path / "figures")}
    command = [Path(sys.executable).with_name("dgnb"), "run", "first-light", "--scale", "smoke", "--train", "--kernel"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_record(tmp_path / "figures" / "first-light" / "smoke")["claims"]
