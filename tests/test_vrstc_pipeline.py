"""VRSTC from end to end: names before runs, the grid, thresholds, repairs, and what is held against the truth."""
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dgnb.run_store import MissingRun, RunSpec, RunStore, RunStoreError
from dgnb.scales import SCALES
from dgnb.video_worlds import make_video_world
from dgnb.vrstc import pipeline
from dgnb.vrstc.against_truth import (_drops, activations_spec, completions_spec, energy_share, localizer_truth_spec, pictures, unseen_people, world_of)
from dgnb.vrstc.pipeline import (KINDS, TABLE1, VRSTCPlan, against_twins, ceiling_spec, compare_runs, grid, kinds_of_video, repairs_spec, run_vrstc, scores, stages,
                                 table1_spec, thresholds_spec, unoccluded_data, video_test_spec)
from dgnb.vrstc.repair import discarded_data
from dgnb.vrstc.video_training import open_video_data, video_data_spec

TINY = VRSTCPlan("smoke", reid={"epochs": 1, "frames": 2}, stcnet={"channels": 2, "critic_channels": 2, "batch": 4, "iterations": 4})


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", "smoke", longest=8, mean_length=6, distractors=2, junk=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped="none")


@pytest.fixture(scope="module")
def runs(world, store):
    return run_vrstc(TINY, world, store, kinds=("raw", "repaired"), progress="off")


def get(store, spec):
    return store.get(spec, train=True, progress="off")


# names

def test_names_chain_without_anything_trained(world, monkeypatch):
    monkeypatch.setattr(RunStore, "get", None)
    names = stages(TINY, world)
    parts = names["repaired"].as_dict()["data"]
    assert parts["stcnet"] == names["stcnet"].as_dict() and parts["flags"]["scorer"] == names["pretrain"].as_dict()
    assert names["stcnet"].as_dict()["settings"]["guider"] == names["pretrain"].as_dict()
    assert names["pretrain"].settings["places"] == "none" and {names[kind].settings["places"] for kind in KINDS} == {"every-other"}
    assert len({spec.key for spec in names.values()}) == 5


@pytest.mark.parametrize("scale", SCALES)
def test_a_plan_flags_as_its_scale_does(world, scale):
    flags = VRSTCPlan(scale, reid={"height": 64, "width": 32}).flags(world)
    assert (flags.rule, flags.value) == (("threshold", 0.89) if scale == "paper" else ("quantile", 0.1))


@pytest.mark.parametrize(("changes", "rule", "value"), [({"rule": "threshold"}, "threshold", 0.89), ({"rule": "quantile"}, "quantile", 0.1), ({"rule": "truth"}, "truth", 0.1),
                                                        ({"rule": "truth", "value": 0.0}, "truth", 0.0), ({"value": 0.3}, "quantile", 0.3), ({"rule": "threshold", "value": 0.5}, "threshold", 0.5)])
def test_rules_of_a_plan(world, changes, rule, value):
    flags = replace(TINY, **changes).flags(world)
    assert (flags.rule, flags.value) == (rule, value) and (flags.scorer is None) == (rule == "truth")


@pytest.mark.parametrize(("changes", "message"), [({"scale": "big"}, "scale"), ({"variant": "ful"}, "variant"), ({"rule": "tau"}, "rule"), ({"places": "all"}, "placement"),
                                                  ({"reid": {"epoch": 1}}, "video setting"), ({"stcnet": {"iteration": 1}}, "STCnet setting")])
def test_unknown_names_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        VRSTCPlan(**changes)


def test_rows_of_table_1(world):
    rows = {row: table1_spec(TINY, world, row) for row in TABLE1}
    names = stages(TINY, world)
    assert rows["baseline"] == names["pretrain"] and rows["NL"] == names["raw"] and rows["STCnet"] == names["repaired"]
    assert len({spec.key for spec in rows.values()}) == 9
    painters = [rows[row].as_dict()["data"]["stcnet"]["settings"] for row, variant in TABLE1.items() if variant]
    assert [p["second"] for p in painters] == ["none", "alone", "neighbours"] + ["attention"] * 4 and [len(p["judges"]) for p in painters] == [0, 0, 0, 0, 1, 2, 2]
    with pytest.raises(ValueError, match="row of Table 1"):
        table1_spec(TINY, world, "Spa+Temp")


def test_which_splits_are_repaired_is_part_of_the_name(world):
    keys = {stages(replace(TINY, which=which), world)["repaired"].key for which in (("train",), ("query", "gallery"), ("train", "query", "gallery"))}
    assert len(keys) == 3


def test_the_centre_is_part_of_the_flags_only(world):
    mean, median = stages(TINY, world), stages(replace(TINY, centre="median"), world)
    assert mean["stcnet"] == median["stcnet"] and mean["raw"] == median["raw"] and mean["repaired"] != median["repaired"]
    assert median["repaired"].as_dict()["data"]["flags"]["centre"] == "median"
    with pytest.raises(ValueError, match="centre"):
        replace(TINY, centre="middle")


def test_the_ceiling_is_the_same_town_without_occluders(world):
    empty = open_video_data(unoccluded_data(world))
    record = max(world.query, key=lambda one: world.film(one).bands.max().item())
    assert empty.query == world.query and np.array_equal(empty.film(record).images.numpy(), world.film(record).twins.numpy())
    spec, raw = ceiling_spec(TINY, world), stages(TINY, world)["raw"]
    assert spec.settings == raw.settings and spec.data["occlusion"]["share"] == 0 != raw.data["occlusion"]["share"]
    with pytest.raises(ValueError, match="filmed once"):
        unoccluded_data(SimpleNamespace(name="street", data_spec=lambda: {"video_set": "street", "fingerprint": "0"}))


# the whole

def test_one_call_makes_every_stage_once(world, store, runs, monkeypatch):
    assert set(runs) == {"pretrain", "stcnet", "repairs", "raw", "repaired", "raw, tested on repaired", "repaired, tested on raw"}
    monkeypatch.setattr(RunStore, "_make", None)
    again = run_vrstc(TINY, world, store, kinds=("raw", "repaired"), progress="off")
    assert {name: run.record for name, run in again.items()} == {name: run.record for name, run in runs.items()}
    with pytest.raises(MissingRun):
        run_vrstc(replace(TINY, seed=1), world, store, train=False)


def test_comparison_pairs_queries(runs):
    table = compare_runs(runs)
    assert table.loc["raw", "gain"] == 0 and table.loc["raw", "verdict"] == "" and "stcnet" not in table.index and len(table) == 5
    assert table.loc["repaired", "gain"] == pytest.approx(100 * (scores(runs["repaired"]) - scores(runs["raw"])).mean(), abs=0.051)


def test_a_test_elsewhere_is_the_same_test(world, store, runs):
    found = get(store, video_test_spec(runs["raw"].spec, video_data_spec(world)))
    for name, values in found.per_query.items():
        assert np.array_equal(values, runs["raw"].per_query[name]), name
    assert found.metrics["rank1"] == runs["raw"].metrics["rank1"]


def test_the_grid_is_trained_on_its_diagonal_only(world):
    cells = grid(TINY, world, KINDS)
    assert len(cells) == 9 and [spec.recipe for (a, b), spec in cells.items() if a == b] == ["video-reid"] * 3
    for (a, b), spec in cells.items():
        assert spec.as_dict()["data"] == RunSpec("x", 1, {}, kinds_of_video(TINY, world)[b]).as_dict()["data"]
        assert a == b or spec.as_dict()["settings"]["of"] == cells[a, a].as_dict()


def test_thresholds_agree_with_sets_made_one_by_one(world, store, runs):
    spec = thresholds_spec(TINY, world, [("threshold", -2.0), ("quantile", 0.1), ("threshold", 2.0)])
    arrays = get(store, spec).per_query
    assert np.array_equal(arrays["ap_raw"], scores(runs["pretrain"]))
    for name in ("discard_0", "repair_0", "repair_2"):  # nothing flagged; everything flagged, so that nobody is left to paint from
        assert np.array_equal(arrays[f"ap_{name}"], arrays["ap_raw"])
    thin = discarded_data(world, TINY.flags(world), ("query", "gallery"))
    assert np.array_equal(arrays["ap_discard_1"], scores(get(store, video_test_spec(runs["pretrain"].spec, thin))))
    plan = replace(TINY, which=("query", "gallery"))
    assert np.array_equal(arrays["ap_repair_1"], scores(get(store, video_test_spec(runs["pretrain"].spec, kinds_of_video(plan, world)["repaired"]))))


# repairs

def test_repairs_are_counted_and_measured(world, store, runs):
    repaired = open_video_data(kinds_of_video(TINY, world)["repaired"], store)
    run = runs["repairs"]
    assert run.metrics["how"] == repaired.report.how.value_counts().to_dict()
    assert run.metrics["bands"] == pytest.approx(0.1, abs=0.02) and 0 < run.metrics["truly_occluded"] < 1
    assert len(run.per_query["before"]) == run.metrics["frames_measured"] == sum(repaired.is_repaired(r, n) for r in repaired.records for n in range(r.length))


def test_a_perfect_painter_reaches_the_truth(world, store, runs):
    repaired = open_video_data(kinds_of_video(replace(TINY, rule="truth"), world)["repaired"], store)

    class Perfect(type(repaired)):
        def read_frame(self, tracklet, n):
            return self.source.film(tracklet, [n]).twins[0].numpy()

    perfect = Perfect(world, repaired.net, pipeline.Flagging("truth", 0.1).table(world))
    found = against_twins(perfect, 12)
    assert (found.after == 60).all() and (found.before < 40).all() and (found.hidden > 0.1).all()
    assert against_twins(repaired, 12).before.equals(found.before)


# against the truth

def test_localizer_run(world, store, runs):
    run = get(store, localizer_truth_spec(runs["pretrain"].spec))
    overall = run.metrics["auc"]["all bands"]
    for name, (value, low, high) in overall.items():
        assert low <= value <= high, name
    assert overall["network over colour"][0] == pytest.approx(overall["network"][0] - overall["colour"][0])
    assert overall["median over mean"][0] == pytest.approx(overall["network, median"][0] - overall["network"][0])
    assert run.metrics["tracklets"] == len(unseen_people(world)) and {r.pid > 0 for r in unseen_people(world)} == {True}
    assert run.per_query["picked"].shape[0] == sum(name.startswith("scores_") for name in run.per_query)


def test_drops_by_hand():
    """Tracklet 0: the lower band is hidden in one of three frames and falls by 0.3, the others by 0.1; tracklet 1 is hidden throughout, 2 never."""
    hidden = np.zeros((7, 3))
    hidden[0, 2], hidden[3:5, 2] = 0.9, 0.9
    score = np.ones((7, 3))
    score[0] = 0.9, 0.9, 0.7
    which, fall, others = _drops(score, hidden, np.array([0, 0, 0, 1, 1, 2, 2]), 0.2)
    assert which.tolist() == [0] and fall == pytest.approx([0.3]) and others == pytest.approx([0.1])


def test_completions_are_those_the_training_measured(world, store, runs):
    run, trained = get(store, completions_spec(runs["stcnet"].spec, 24, 3)), runs["stcnet"].per_query
    for name in ("stcnet", "coarse", "neighbour_copy", "mean_band"):
        assert np.allclose(run.per_query[f"{name}_psnr"], trained[f"twins_{name}_psnr"], atol=1e-3)
    assert len(pictures(run, "stcnet")) == len(pictures(run, "coarse")) == 3 and pictures(run, "stcnet")[0].shape == (64, 32, 3)
    margin = run.per_query["stcnet_psnr"] - np.maximum(run.per_query["mean_band_psnr"], run.per_query["neighbour_copy_psnr"])
    assert run.per_query["picked"][0] == margin.argmax() and run.per_query["picked"][-1] == margin.argmin()


def test_energy_on_a_cover():
    cover = torch.zeros(2, 8, 4, dtype=torch.bool)
    cover[:, :4] = True
    even, there = torch.ones(1, 4, 2), torch.zeros(1, 4, 2)
    there[:, :2] = 3.0
    assert energy_share(torch.cat([even, there]), cover) == pytest.approx([0.5, 1.0])
    assert energy_share(torch.zeros(1, 4, 2), cover[:1]) == pytest.approx([0.0])


def test_activation_run(world, store, runs):
    run = get(store, activations_spec(runs["raw"].spec, runs["stcnet"].spec, 12, 2))
    assert all((0 <= run.per_query[name]).all() and (run.per_query[name] <= 1).all() for name in ("before", "after", "twin", "area"))
    assert run.per_query["map_before"].shape[0] == len(pictures(run, "before")) == 2 and not np.array_equal(run.per_query["before"], run.per_query["twin"])
    number, frame = (int(run.per_query[name][0]) for name in ("tracklet", "frame"))
    film = world.film(number, [frame])
    assert run.per_query["area"][0] == pytest.approx(film.cover.float().mean().item(), abs=1e-6)


def test_real_sets_have_no_truth(monkeypatch):
    class Real:
        name = "street"
    monkeypatch.setattr("dgnb.vrstc.against_truth.open_video_data", lambda data: Real())
    with pytest.raises(RunStoreError, match="no exact masks and no twins"):
        world_of({"video_set": "street"})
    class Plain:
        source = Real()
    with pytest.raises(ValueError, match="no twins"):
        against_twins(Plain())


# the command

@pytest.mark.parametrize(("words", "message"), [(("--threshold", "0.9", "--truth"), "give one of --threshold, --share and --truth"),
                                                (("--variant", "ful"), "variant"), (("--scale", "big"), "scale")])
def test_the_command_refuses_at_once(monkeypatch, capsys, words, message):
    from dgnb.cli import main
    monkeypatch.setattr(sys, "argv", ["dgnb", "train", "vrstc", "--data", "mannequin-mars", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_the_command_says_what_repair_is_worth(monkeypatch, capsys, runs):
    from dgnb.cli import main
    asked = []
    monkeypatch.setattr(pipeline, "run_vrstc", lambda plan, source, store, **options: asked.append((plan, options)) or runs)
    monkeypatch.setattr(sys, "argv", ["dgnb", "train", "vrstc", "--data", "mannequin-mars", "--scale", "smoke", "--share", "0.2", "--discard"])
    monkeypatch.setenv("DGNB_THREADS", "1")
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert end.value.code in (0, None) and "repaired, tested on raw" in said and "to raw: " in said and "flagged" in said
    assert (asked[0][0].rule, asked[0][0].value) == ("quantile", 0.2) and asked[0][1]["kinds"] == KINDS


def test_a_small_folder_of_ones_own_goes_all_the_way(tmp_path, monkeypatch, capsys):
    """Fewer tracklets than a batch, and no masks: the command fits the plan to them. A world's plan stays what it was."""
    from dgnb.cli import main
    from dgnb.vrstc.cli_pipeline import fitted
    town = make_video_world("mannequin-mars", "smoke", longest=6, mean_length=5, train_identities=4, test_identities=2, distractors=0, junk=0)
    lines = ["path,camera"]
    for record in town.train:
        folder = tmp_path / "people" / f"p{record.pid}" / record.name
        folder.mkdir(parents=True)
        lines.append(f"p{record.pid}/{record.name},{record.camid}")
        for n in range(record.length):
            (folder / f"{n:03d}.jpg").write_bytes(town.read_frame_bytes(record, n))
    (tmp_path / "cameras.csv").write_text("\n".join(lines))
    monkeypatch.setitem(pipeline.video_settings.__globals__["VIDEO_REID_SCALES"], "smoke", pipeline.video_settings("smoke").__dict__ | {"epochs": 1, "frames": 2})
    monkeypatch.setitem(pipeline.stcnet_settings.__globals__["STCNET_SCALES"], "smoke", pipeline.stcnet_settings("smoke").__dict__ | TINY.stcnet)
    monkeypatch.setattr(sys, "argv", ["dgnb", "train", "vrstc", "--data", str(tmp_path / "people"), "--cameras", str(tmp_path / "cameras.csv"), "--scale", "smoke", "--out", str(tmp_path / "runs")])
    monkeypatch.setenv("DGNB_THREADS", "1")
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code in (0, None) and "repaired, tested on raw" in out, err
    with pytest.raises(ValueError, match="two of each are the least"):
        fitted(replace(TINY, folds=2), make_video_world("mannequin-mars", "smoke", train_identities=2, test_identities=2, distractors=0, junk=0))
    assert fitted(TINY, make_video_world("mannequin-mars", "smoke")) == TINY


def test_flags_are_told_beside_the_papers_rule():
    """The words name both rules and how often each is right by the truth that is known; the paper's own rule stands alone."""
    from types import SimpleNamespace

    from dgnb.run_store import RunSpec
    from dgnb.vrstc.against_truth import flag_words
    from dgnb.vrstc.repair import Flagging
    scorer = RunSpec("video-reid", 1, {}, {}, 0)
    rows = [{"rule": "threshold", "value": 0.89, "precision": 0.75, "recall": 0.5}, {"rule": "quantile", "value": 0.1, "precision": 0.25, "recall": 0.9}]
    truth = SimpleNamespace(metrics={"rules": rows}, spec=SimpleNamespace(settings={"limit": 0.2}))
    ours = Flagging("quantile", 0.1, scorer=scorer)
    text = flag_words(ours, truth)
    assert "lowest 10% of all bands (25% of them" in text and "below 0.89 (75% of them" in text and "and 50% of all occluded" in text and "20% of the person" in text
    assert "%" not in flag_words(ours, None).replace("10%", "") and "below 0.89." in flag_words(ours, None)
    assert "where the paper" not in flag_words(Flagging("threshold", 0.89, scorer=scorer), truth)
