"""What an item is given at `paper` scale: parameters that its notebook has, sets by their own names below one folder, and runs at the published size. Nothing is trained."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from real_sets import IMAGES, VIDEOS, write_real_sets

from dgnb.baseline import weights_name
from dgnb.catalogue import load_catalogue
from dgnb.cli import main
from dgnb.parameters import RunnerError, help_of, parameters_of
from dgnb.run_store import RunSpec, find_recipe
from dgnb.runner import execute, plan

CATALOGUE = load_catalogue()
ITEMS = [item for item in CATALOGUE if item.built and "paper" in item.scales]
NOTEBOOKS = {item.notebook: CATALOGUE.notebook(item) for item in CATALOGUE if item.built}
HELP = "folder that holds the real set"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """ROOT, with every set that an item is about."""
    return write_real_sets(tmp_path_factory.mktemp("root"), drawn=False)


def takes_data(item) -> bool:
    """Whether the item is about a data set at all; the tables of layers are not."""
    return "data" in parameters_of(CATALOGUE.notebook(item))


def parts_of(spec: dict) -> list[dict]:
    """A run and all runs and networks that it is made of."""
    inner = [value for part in (spec["settings"], spec["data"]) for value in _dicts(part)]
    return [spec, *(one for one in inner if {"recipe", "settings", "data"} <= one.keys())]


def _dicts(value):
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from ([one] if isinstance(one, dict) else [])
        yield from _dicts(one)


@pytest.mark.parametrize("item", [item for item in ITEMS if takes_data(item)], ids=lambda item: item.id)
def test_the_published_runs_are_asked_for(item, root, tmp_path, monkeypatch):
    """As `dgnb run ITEM --scale paper --data ROOT -p weights=FILE` does, without --train: every run is named, of the published size, on the real set, from ImageNet weights."""
    for name in ("FIGURES", "RUNS", "SHIPPED_RUNS"):
        monkeypatch.setenv(f"DGNB_{name}", str(tmp_path / name))
    if item.id == "stcnet-switches":  # it counts the weights of twenty networks and asks none of them anything
        monkeypatch.setattr(torch.nn.modules.conv._ConvNd, "reset_parameters", lambda self: None)
    (tmp_path / "imagenet.pth").write_bytes(b"weights")
    job = plan(item, "paper", {"weights": str(tmp_path / "imagenet.pth")}, data=str(root), mode="plain")
    outcome = execute(job)
    assert outcome.ok, outcome.cause
    record = json.loads((Path(job.folder) / "record.json").read_text())
    sets = set(record["data"])
    assert sets and sets <= {*IMAGES, *VIDEOS} and sets == {*job.parameters.get("worlds", []), *([job.parameters["world"]] if "world" in job.parameters else [])}
    assert record["missing"] and not record["runs"]
    for spec in (part for missing in record["missing"] for part in parts_of({name: missing[name] for name in ("recipe", "version", "settings", "data", "seed")})):
        assert find_recipe(RunSpec(**spec)), "a recipe of that name and version"
        settings = spec["settings"]
        if "backbone" in settings:
            assert (settings["backbone"], settings["truncate"], settings["height"], settings["width"]) == ("resnet50", 0, 256, 128)
            assert settings["weights"] == weights_name(tmp_path / "imagenet.pth")
        if spec["recipe"] in ("dgnet", "lsgan"):
            assert settings["iterations"] == 100_000
        if spec["recipe"] == "stcnet":
            assert (settings["height"], settings["width"], settings["iterations"], settings["guider_scale"]) == (128, 64, 50_000, "paper")
        if spec["recipe"] == "video-reid":
            assert (settings["frames"], settings["batch"], settings["epochs"]) == (4, 32, 150)


@pytest.mark.parametrize("item", [item for item in ITEMS if not takes_data(item)], ids=lambda item: item.id)
def test_tables_of_layers_have_one_size(item):
    """What is about no set takes no folder, and is the same at every scale."""
    assert plan(item, "paper").parameters == {"item": item.id, "scale": "paper"} and not item.scales["paper"].parameters
    with pytest.raises(RunnerError, match="takes no data folder"):
        plan(item, "paper", data="/")


@pytest.mark.parametrize("notebook", [path for path in NOTEBOOKS.values() if "data" in parameters_of(path)], ids=lambda path: path.stem)
def test_data_is_the_folder_above_the_sets(notebook):
    """In every notebook alike, and its help says so."""
    said, code = help_of(notebook)["data"], notebook.read_text()
    assert said.startswith(HELP) and "under its name; empty: " in said and parameters_of(notebook)["data"] == ""
    assert "Path(data) / world if data" in code or "Path(data) / name if data" in code
    assert code.count("Path(data)") == 1


@pytest.fixture
def jobs(monkeypatch, capsys):
    """What a command would run: a function from its words to jobs by item."""
    def call(*words: str) -> dict:
        found: dict = {}
        monkeypatch.setattr("dgnb.runner.run_jobs", lambda jobs, *_: found.update({job.item: job for job in jobs}) or [])
        monkeypatch.setattr(sys, "argv", ["dgnb", "run", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return found or {"status": end.value.code, "said": capsys.readouterr().err}
    return call


@pytest.mark.parametrize("group", ["dgnet", "vrstc", "all"])
def test_a_whole_paper_takes_the_folder(group, root, jobs):
    """Items of a group that are about no set are drawn as well; named one by one they refuse the folder."""
    found = jobs(group, "--scale", "paper", "--data", root)
    assert set(found) == {item.id for item in CATALOGUE.select(group, "paper")}
    assert all(job.parameters.get("data") == (str(root) if takes_data(CATALOGUE[name]) else None) for name, job in found.items())
    assert jobs("dgnet-table6", "--scale", "paper", "--data", root)["said"].startswith("dgnb: dgnet-table6 takes no data folder")


@pytest.mark.parametrize(("words", "mend"), [
    (("dgnet-fig2",), "-p world=market1501"), (("vrstc-table1",), "-p world=mars"), (("dgnet-table3",), "-p 'worlds=[market1501]' -p 'offline_on=[]'"),
    (("dgnet-table3", "-p", "worlds=[market1501]", "-p", "joint_on=[mannequin-duke]"), "there: -p 'joint_on=[]' -p 'offline_on=[]'"),
    (("dgnet-table9", "-p", "worlds=[msmt17]", "-p", "joint_on=[mannequin-msmt]"), "there: -p 'joint_on=[]'")])
def test_a_synthetic_set_among_real_ones_is_named(words, mend, root, jobs):
    """At another scale than `paper` the catalogue names synthetic sets: with a folder of real ones the command says what to name instead, before anything is opened."""
    found = jobs(*words, "--scale", "laptop", "--data", root)
    assert found["status"] == 2 and "is synthetic and not in" in found["said"] and mend in found["said"]
    assert "dgnet-table4" in jobs("dgnet-table4", "--scale", "paper", "--data", root)
