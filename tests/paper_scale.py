"""Does everything start at `paper` scale? Outside CI: `make paper-check`, or `python -m pytest tests/paper_scale.py`.

Each item is run as `dgnb run ITEM --scale paper --data ROOT --train` with tiny sets in the official layouts under ROOT: the published networks and image sizes, no ImageNet weights
(as long as `-p weights=FILE` names none), batches of two, two steps of every training. Then the recipes that no item asks for at `paper` scale, as far as real sets have what they need.
What only repeats (more rows, more sets, more pictures) is cut short as `FEWER` says; `DGNB_CHECK_ALL=1` takes the catalogue's own values.
Runs are kept in DGNB_CHECK, if that names a folder: a second time trains nothing that is there.
"""
from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from real_sets import write_real_sets
from test_paper_parameters import ITEMS, takes_data

import dgnb
from dgnb import training
from dgnb.baseline import BASELINE_SCALES, BASELINE_VARIANTS
from dgnb.cli import main
from dgnb.dgnet.joint import dgnet_spec
from dgnb.dgnet.step import DGNET_SCALES, dgnet_settings
from dgnb.dgnet.unconditional import LSGAN_SCALES
from dgnb.image_sets import open_set
from dgnb.run_store import RunStore
from dgnb.runner import execute
from dgnb.together.guiding import guiding_spec
from dgnb.together.online import online_spec
from dgnb.video_sets import open_video_set
from dgnb.vrstc.pipeline import PIPELINE_RULES, VRSTCPlan, kinds_of_video, repairs_spec
from dgnb.vrstc.step import STCNET_SCALES, stcnet_settings
from dgnb.vrstc.video_training import VIDEO_REID_SCALES, video_settings

STEPS = 2
SHORT = {"batch": 2, "iterations": STEPS}
FEWER = {
    "dgnet-table2": {"resamples": 2}, "dgnet-fig3": {"resamples": 2}, "dgnet-table3": {"worlds": ["market1501", "dukemtmc-reid"]}, "dgnet-table9": {"worlds": ["market1501", "dukemtmc-reid"]},
    "dgnet-fig1": {"people": 3, "pairs": 4}, "dgnet-fig2": {"pair": 1}, "dgnet-fig6": {"people": 2, "pairs": 4}, "dgnet-fig5": {"rows": 4, "resamples": 2}, "dgnet-fig9": {"rows": 4, "resamples": 2}, "dgnet-fig4": {"rows": ["full", "w/o feed"]}, "dgnet-fig8": {"alphas": [0.8]}, "dgnet-switches": {"rows": ["lsro"]},
    "vrstc-table1": {"rows": ["baseline", "NL", "Spa+AE", "STCnet"]}, "vrstc-table2": {"thresholds": [0.89], "quantiles": [0.1]}, "vrstc-fig4": {"factors": [1.0, 2.0]},
    "stcnet-switches": {"rows": ["early-attention", "space-time"]}}
TRUTH = {  # recipes that measure against what only a rendered world knows
    "probes", "dgnet-probes", "dgnet-swaps", "outline", "dgnet-marks", "dgnet-filter", "localizer-truth", "completions", "occluder-activation", "attention-matches", "occlusion-severity", "completion-shortfall",
    "guide-senses", "walk-swaps", "appearance-scoring"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with ROOT in it, and room for runs and results."""
    home = Path(os.environ.get("DGNB_CHECK") or tmp_path_factory.mktemp("paper")).absolute()
    if not (home / "root").is_dir():
        write_real_sets(home / "writing").rename(home / "root")
    return home


@pytest.fixture(autouse=True)
def two_steps(home, monkeypatch) -> list[int]:
    """The published settings but for batch, length and what is flagged; every training ends after two steps. Gives the steps that were taken."""
    for scales, names, changes in ((BASELINE_SCALES, ("gpu", "paper"), {"batch": 2, "epochs": 2}), (VIDEO_REID_SCALES, ("paper",), {"batch": 2, "epochs": 2}),
                                   (DGNET_SCALES, ("paper",), SHORT | {"warmup_start": 0}), (STCNET_SCALES, ("paper",), SHORT), (LSGAN_SCALES, ("paper",), SHORT)):
        for name in names:
            monkeypatch.setitem(scales, name, scales[name] | changes)
    monkeypatch.setitem(BASELINE_VARIANTS, "tricks", BASELINE_VARIANTS["tricks"] | {"batch": 2})
    monkeypatch.setitem(PIPELINE_RULES, "paper", ("quantile", 0.2))  # to a network that has learned nothing all bands look alike: none is below 0.89
    taken, whole = [], training._run

    def cut(trainer, step, iterations, *rest):
        whole(trainer, step, min(iterations, STEPS), *rest)
        taken.append(trainer.loop.iteration)

    monkeypatch.setattr(training, "_run", cut)
    for name in ("FIGURES", "RUNS", "SHIPPED_RUNS"):
        monkeypatch.setenv(f"DGNB_{name}", str(home / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    return taken


def in_this_process(jobs, workers, report):
    """What `run_jobs` does, without processes of its own: they would not know of the two steps."""
    outcomes = [execute(job) for job in jobs]
    for outcome in outcomes:
        report(outcome)
    return outcomes


def sizes(settings: dict) -> str:
    """The network and the picture of a training, in a few words."""
    return " ".join(str(settings[name]) for name in ("backbone", "second", "height", "width") if name in settings)


def summary(specs) -> str:
    """How many runs of each recipe, and of which size."""
    return ", ".join(f"{count} {recipe}" + (f" ({size})" if size else "") for (recipe, size), count in Counter((one["recipe"], sizes(one["settings"])) for one in specs).items())


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_an_item_starts(item, home, two_steps, monkeypatch, capsys):
    """From the command that a user types to tables and figures, every run trained or measured."""
    cut = {} if os.environ.get("DGNB_CHECK_ALL") else FEWER.get(item.id, {})
    data = ["--data", str(home / "root")] if takes_data(item) else []
    monkeypatch.setattr("dgnb.runner.run_jobs", in_this_process)
    monkeypatch.setattr(sys, "argv", ["dgnb", "run", item.id, "--scale", "paper", *data, "--train", *(word for name, value in cut.items() for word in ("-p", f"{name}={value}"))])
    before, started = {one.name for one in RunStore().list()}, time.time()
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert not end.value.code, out[-3000:] + err[-3000:]
    (file,) = (one for one in (home / "figures" / item.id).glob("paper*/record.json") if one.stat().st_mtime >= started - 2)
    record = json.loads(file.read_text())
    assert not record["missing"] and list(file.parent.glob("*.csv"))
    assert bool(record["runs"]) == takes_data(item), "an item about a data set asks for runs of it"
    assert all(steps == STEPS for steps in two_steps)
    made = [one.record["spec"] for one in RunStore().list() if one.name not in before and one.record]
    with capsys.disabled():
        print(f"\n{item.id}: {time.time() - started:.0f} s; made {summary(made) or 'nothing new'}; drawn from {len(record['runs'])} runs on {', '.join(record['data']) or 'no set'}", flush=True)


@pytest.mark.parametrize("recipe", ["repairs", "online-repair", "stcnet-appearance"])
def test_a_recipe_without_a_paper_item_starts(recipe, home, two_steps, capsys):
    """Their items are on worlds, where the truth is known, but nothing in them needs one."""
    started, video, photographs = time.time(), open_video_set("mars", home / "root" / "mars"), open_set("market1501", home / "root" / "market1501")
    spec = {"repairs": lambda: repairs_spec(kinds_of_video(VRSTCPlan("paper"), video)["repaired"]),
            "online-repair": lambda: online_spec(video, video_settings("paper"), stcnet_settings("paper")),
            "stcnet-appearance": lambda: guiding_spec(video, stcnet_settings("paper"), dgnet_spec(photographs, dgnet_settings("paper")))}[recipe]()
    run = RunStore().get(spec, train=True, progress="off")
    assert run.metrics and all(steps == STEPS for steps in two_steps)
    with capsys.disabled():
        print(f"\n{recipe}: {time.time() - started:.0f} s on {video.name}", flush=True)


def test_every_recipe_has_started():
    """The runs of the tests above are of all recipes of the package, but for those that need the truth."""
    sources = "".join(path.read_text() for path in Path(dgnb.__file__).parent.rglob("*.py"))
    ours, started = set(re.findall(r'^@recipe\("([\w-]+)"', sources, re.MULTILINE)), {one.record["spec"]["recipe"] for one in RunStore().list() if one.record}
    assert ours - started == TRUTH, f"not started: {', '.join(sorted(ours - started - TRUTH))}; started without truth after all: {', '.join(sorted(started & TRUTH))}"
