"""Cross-fitting: nobody in training is repaired by a painter who has met them."""
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dgnb.run_store import RunSpec, RunStore
from dgnb.scales import seed_everything
from dgnb.video_worlds import make_video_world
from dgnb.vrstc import pipeline
from dgnb.vrstc.pipeline import (CrossRepairedSet, VRSTCPlan, WithoutFold, cross_repaired_data, fold_people, grid, kinds_of_video, painters_of, repairs_spec, run_vrstc, scores,
                                 stages)
from dgnb.vrstc.repair import RepairedSet, true_table
from dgnb.vrstc.stcnet import make_loader, stcnet_settings_of
from dgnb.vrstc.step import STCnet, stcnet_settings
from dgnb.vrstc.video_training import open_video_data, video_data_spec

TINY = VRSTCPlan("smoke", folds=2, reid={"epochs": 1, "frames": 2}, stcnet={"channels": 2, "critic_channels": 2, "batch": 4, "iterations": 4})


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", "smoke", longest=8, mean_length=6, distractors=2, junk=1, occlusion={"share": 0.8})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped="none")


def people(source):
    return {record.pid for record in source.train}


def as_stored(data):
    return RunSpec("x", 1, {}, data).as_dict()["data"]


def painter(colour):
    """An STCnet that paints one grey."""
    class Grey(STCnet):
        def complete(self, frame, previous, following, mask, coarse=False, batch=32):
            return torch.where(mask.bool(), torch.full_like(frame, colour), frame)
    seed_everything("grey")
    return Grey(stcnet_settings("smoke", "spatial", channels=2))


# folds

@pytest.mark.parametrize("folds", [2, 3, 8])
def test_folds_part_the_people(world, folds):
    parts = fold_people(world, folds)
    assert sorted(pid for part in parts for pid in part) == sorted(world.label_of) and max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == fold_people(world, folds) and fold_people(world, 2) != fold_people(world, 2, seed=1)


@pytest.mark.parametrize("folds", [0, 1, 9])
def test_empty_folds_are_refused(world, folds):
    with pytest.raises(ValueError, match="8 training people: they can be parted into 2 to 8 folds"):
        fold_people(world, folds)


@pytest.mark.parametrize("changes", [{"folds": 1}, {"folds": -2}, {"folds": 0, "met": True}])
def test_plans_that_mean_nothing(changes):
    with pytest.raises(ValueError, match="cross-fitted in 2 parts or more"):
        VRSTCPlan("smoke", **changes)


def test_a_set_without_a_fold_is_the_source_without_these_people(world):
    less = WithoutFold(world, 1, 3, seed=5)
    gone = set(fold_people(world, 3, 5)[1])
    assert less.people == fold_people(world, 3, 5)[1] and people(less) == people(world) - gone and less.query == world.query and less.gallery == world.gallery
    record = less.train[0]
    assert np.array_equal(less.read_frame(record, 1), world.read_frame(record, 1)) and less.read_frame_bytes(record, 1) == world.read_frame_bytes(record, 1)
    assert less.occlusions([record]).equals(world.occlusions([record])) and not hasattr(less, "layout")
    again = open_video_data(as_stored(video_data_spec(less)))
    assert again.train == less.train and again.fingerprint == less.fingerprint != WithoutFold(world, 1, 3).fingerprint


# no leak

@pytest.mark.parametrize("folds", [2, 3])
def test_no_painter_and_no_guider_has_met_whom_it_repairs(world, folds):
    """By the names alone, so it holds for whatever is trained under them."""
    plan = replace(TINY, folds=folds, seed=3)
    data = as_stored(kinds_of_video(plan, world)["repaired"])
    for spec, fold in zip(data["stcnet"], fold_people(world, folds, data["fold_seed"]), strict=True):
        learned = open_video_data(spec["data"])
        assert not people(learned) & set(fold) and people(learned) | set(fold) == people(world)
        assert spec["settings"]["guider"]["data"] == spec["data"]


def test_painters_who_met_are_the_same_painters_turned_around(world, monkeypatch):
    """The only difference: whom each of them paints in training. The test is the same."""
    crossed, met = (as_stored(kinds_of_video(replace(TINY, met=met), world)["repaired"]) for met in (False, True))
    assert {**crossed, "met": True} == met and not crossed["met"]
    monkeypatch.setattr(pipeline, "load_stcnet", lambda run: painter(-1.0))
    monkeypatch.setattr(RunStore, "get", lambda *parts, **options: None)
    monkeypatch.setattr(pipeline.Flagging, "table", lambda *parts: true_table(world))
    sets = [pipeline.open_cross_repaired({**data, "cross_repaired": video_data_spec(world)}) for data in (crossed, met)]
    for record in sets[0].records:
        who = [one.painter[record] for one in sets]
        learned = [record.pid in people(open_video_data(crossed["stcnet"][k]["data"])) for k in who]
        assert (learned == [False, True]) if record in world.train else (who == [0, 0])


def test_exercises_show_nobody_of_the_fold(world):
    from dgnb.training import make_fabric
    less = open_video_data(as_stored(painters_of(TINY, world)[0].as_dict()["data"]))
    loader = make_loader(less, stcnet_settings_of(painters_of(TINY, world)[0]), 0, None, None, make_fabric())
    shown = {record.pid for record in loader.frames.tracklets.records}
    assert shown == people(world) - set(fold_people(world)[0])


@pytest.mark.parametrize("batch", [32, 3])
def test_each_is_painted_by_their_painter(world, batch):
    """Painter 0 paints black, painter 1 white; batches mix the folds."""
    table, parts = true_table(world), fold_people(world)
    crossed = CrossRepairedSet(world, [painter(-1.0), painter(1.0)], parts, table)
    crossed.batch = batch
    plain, seen = RepairedSet(world, painter(0.0), table), {0: 0, 1: 0}
    for record in crossed.records:
        fold = next((k for k, part in enumerate(parts) if record.pid in part), 0)
        for n in range(record.length):
            before, after = world.read_frame(record, n), crossed.read_frame(record, n)
            assert crossed.is_repaired(record, n) == plain.is_repaired(record, n)
            painted = (before != after).any((1, 2))
            assert not painted.any() or set(np.unique(after[painted])) == {255 * fold}
            seen[fold] += bool(painted.any())
    assert min(seen.values()) > 5
    assert crossed.fingerprint != plain.fingerprint != CrossRepairedSet(world, [painter(1.0), painter(-1.0)], parts[::-1], table).fingerprint


def test_a_person_in_no_fold_is_refused(world):
    with pytest.raises(ValueError, match="is in no fold"):
        CrossRepairedSet(world, [painter(0.0)] * 2, [part[1:] for part in fold_people(world)], true_table(world))


def test_strangers_with_a_number_of_the_training_set_get_the_first_painter(world):
    """Identities of the test may be numbered like those of training: who they are is decided by the split."""
    parts = [fold_people(world)[0], fold_people(world)[1] + tuple({r.pid for r in world.query})]
    crossed = CrossRepairedSet(world, [painter(-1.0), painter(1.0)], parts, true_table(world))
    assert {crossed.painter[record] for record in crossed.records if record not in world.train} == {0}


def test_what_learned_from_half_a_world_is_synthetic(world):
    """Commands warn of such weights."""
    from types import SimpleNamespace

    from dgnb.vrstc.own_videos import is_synthetic
    assert is_synthetic(SimpleNamespace(spec=painters_of(TINY, world)[0])) and is_synthetic(SimpleNamespace(spec=stages(TINY, world)["repaired"]))


# names and runs

def test_without_folds_nothing_is_called_otherwise(world):
    names = stages(replace(TINY, folds=0), world)
    assert list(names) == ["pretrain", "stcnet", "raw", "discarded", "repaired"] and "repaired" in names["repaired"].data
    crossed = stages(TINY, world)
    assert list(crossed) == ["pretrain", "stcnet 0", "stcnet 1", "raw", "discarded", "repaired"]
    assert all(crossed[name] == names[name] for name in ("pretrain", "raw", "discarded")) and crossed["repaired"] != names["repaired"]
    assert len({stages(replace(TINY, **c), world)["repaired"].key for c in ({}, {"folds": 3}, {"met": True}, {"seed": 1}, {"variant": "ae"}, {"which": ("train",)})}) == 6


def test_the_whole_of_it(world, store):
    runs = run_vrstc(TINY, world, store, kinds=("raw", "repaired"), progress="off")
    assert set(runs) == {"pretrain", "stcnet 0", "stcnet 1", "repairs", "raw", "repaired", "raw, tested on repaired", "repaired, tested on raw"}
    crossed = open_video_data(runs["repaired"].spec.as_dict()["data"], store)
    assert crossed.report.how.value_counts().to_dict() == runs["repairs"].metrics["how"] and len(scores(runs["repaired"])) == len(scores(runs["raw"]))
    half = len(fold_people(world)[1])
    guider = store.get(RunSpec(**runs["stcnet 0"].spec.as_dict()["settings"]["guider"]), weights=True)
    assert len(guider.weights()["classifier.bias"]) == half < world.num_train_identities
    first, second = (runs[f"stcnet {k}"].weights() for k in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert grid(TINY, world)["repaired", "raw"] == runs["repaired, tested on raw"].spec and repairs_spec(kinds_of_video(TINY, world)["repaired"]) == runs["repairs"].spec


def test_a_process_that_knows_only_the_training_opens_the_set(world, tmp_path):
    """The module that opens such sets is found by their description."""
    import json
    import subprocess
    data = as_stored(video_data_spec(WithoutFold(world, 0)))
    code = f"import json\nfrom dgnb.vrstc.video_training import open_video_data\nprint(len(open_video_data(json.loads({json.dumps(json.dumps(data))})).train))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == len(WithoutFold(world, 0).train)


def test_the_command_has_folds(monkeypatch, capsys):
    from dgnb.cli import main
    asked = []
    monkeypatch.setattr(pipeline, "run_vrstc", lambda plan, *rest, **options: asked.append(plan) or (_ for _ in ()).throw(ValueError("enough")))
    monkeypatch.setattr(sys, "argv", ["dgnb", "train", "vrstc", "--data", "mannequin-mars", "--scale", "smoke", "--folds", "2"])
    monkeypatch.setenv("DGNB_THREADS", "1")
    with pytest.raises(SystemExit):
        main()
    assert asked[0].folds == 2 and "stcnet 1" in capsys.readouterr().out


def test_data_of_a_plan_names_its_seed(world):
    flags = TINY.flags(world)
    one, other = (cross_repaired_data(world, painters_of(TINY, world), flags, replace(TINY, seed=seed)) for seed in (0, 1))
    assert one != other and one["fold_seed"] == 0
