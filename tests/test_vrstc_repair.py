"""Repair: plans, painting, repaired and discarded sets, their names in the run store, folders on disk, and what can go wrong."""
import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgnb.augmentation import resize_image
from dgnb.own_tracklets import FolderTracklets, read_tracklet_folder, read_tracklet_set
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.scales import numpy_generator, seed_everything
from dgnb.tracklets import TrackletRecord, VideoReIDSet
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.holes import pick_neighbours
from dgnb.vrstc.localizer import BANDS, COLUMNS, score_table
from dgnb.vrstc.repair import (DiscardedSet, Flagging, RepairedSet, discarded_data, home_splits, kept_frames, repair_set, repaired_data, tracklet_table, true_table)
from dgnb.vrstc.repairing import REPAIRS, band_rows, mend, nearest_unoccluded, paste_bands, plan_repairs, repair_frames, repairable
from dgnb.vrstc.step import STCnet, stcnet_settings
from dgnb.vrstc.stcnet import stcnet_spec
from dgnb.vrstc.video_training import VIDEO_REID_VERSION, open_video_data, video_data_spec, video_settings, video_spec

OPTIONS = dict(train_identities=4, test_identities=4, tracklets=2.0, test_tracklets=2.0, distractors=1, junk=0, longest=8, mean_length=6)


def make_net(variant="temporal", **changes):
    seed_everything("painter")
    return STCnet(stcnet_settings("smoke", variant, channels=2, **changes)).eval()


@pytest.fixture(scope="module")
def net():
    return make_net()


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", "smoke", occlusion={"share": 0.7}, **OPTIONS)


@pytest.fixture(scope="module")
def table(world):
    return true_table(world, 0.3)


def some_frames(count, size=(64, 32)):
    return torch.from_numpy(numpy_generator("frames", count, *size).integers(0, 256, (count, 3, *size), np.uint8))


def files_of(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


flag_arrays = st.integers(1, 9).flatmap(lambda n: st.lists(st.tuples(*[st.booleans()] * 3), min_size=n, max_size=n)).map(lambda rows: np.array(rows, bool))


# --- plans

@settings(max_examples=25, deadline=None)
@given(st.lists(flag_arrays, min_size=1, max_size=4))
def test_plans_are_those_of_each_tracklet_and_use_the_neighbours_of_training(tracklets):
    together = plan_repairs(np.concatenate(tracklets), [len(t) for t in tracklets])
    for number, flags in enumerate(tracklets):
        mine = together[together.number == number].drop(columns="number").reset_index(drop=True)
        assert mine.to_dict("list") == plan_repairs(flags).drop(columns="number").to_dict("list")
        assert mine.frame.tolist() == np.flatnonzero(flags.any(1)).tolist()
        for row in mine.itertuples():
            near = pick_neighbours(~flags.any(1), row.frame)
            assert (row.previous, row.next) == (near or (-1, -1))
            expected = REPAIRS[3] if near is None else REPAIRS[2] if flags[row.frame].all() else REPAIRS[1] if near[0] == near[1] else REPAIRS[0]
            assert row.how == expected and row.bands == "+".join(b for b, f in zip(BANDS, flags[row.frame]) if f)


def test_nearest_of_several_tracklets_stays_inside():
    before, after = nearest_unoccluded(np.array([1, 0, 0, 0, 1, 0], bool), [3, 3])
    assert before.tolist() == [0, 0, 0, -1, 4, 4] and after.tolist() == [0, -1, -1, 4, 4, -1]


def test_a_plan_without_flags_or_frames_is_empty():
    assert plan_repairs(np.zeros((4, 3), bool)).empty and plan_repairs(np.zeros((0, 3), bool)).empty
    assert not len(repairable(plan_repairs(np.zeros((0, 3), bool))))
    with pytest.raises(ValueError, match="T x bands"):
        plan_repairs(np.zeros(3, bool))


def test_bands_may_be_more_than_three():
    flags = np.zeros((3, 5), bool)
    flags[1, [0, 4]] = True
    assert plan_repairs(flags).bands.tolist() == ["band 1+band 5"]


def test_plans_of_a_large_set_are_quick():
    flags = numpy_generator("flags").random((200_000, 3)) < 0.05
    start = time.process_time()
    assert len(plan_repairs(flags, [20] * 10_000)) == flags.any(1).sum()
    assert time.process_time() - start < 2


# --- painting

@settings(max_examples=20, deadline=None)
@given(flags=flag_arrays, size=st.sampled_from([(64, 32), (128, 64), (50, 21), (97, 40)]), batch=st.integers(1, 5))
def test_only_flagged_bands_of_repairable_frames_change(net, flags, size, batch):
    frames = some_frames(len(flags), size)
    before = frames.clone()
    mended, report = repair_frames(net, frames, flags, batch)
    done = np.zeros_like(flags)
    frame = report.frame[repairable(report)].to_numpy()
    done[frame] = flags[frame]
    inside = torch.from_numpy(np.stack([band_rows(size[0], row) for row in done]))[:, None, :, None].expand_as(frames)
    assert torch.equal(frames, before) and torch.equal(mended[~inside], frames[~inside])
    if inside.any():
        assert (mended[inside] != frames[inside]).float().mean() > 0.5  # frames are noise, paint is not


def test_the_batch_changes_rounding_at_most(net):
    frames, flags = some_frames(40), numpy_generator("flags").random((40, 3)) < 0.25
    first, report = repair_frames(net, frames, flags, 32)
    assert repairable(report).sum() > 12
    for batch in (1, 3, 7, 64):
        other, again = repair_frames(net, frames, flags, batch)
        difference = (first.int() - other.int()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3 and again.equals(report)
    assert torch.equal(repair_frames(net, frames, flags, 32)[0], first)


def test_what_the_occluder_looks_like_does_not_matter(net):
    frames, flags = some_frames(3), np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    other = frames.clone()
    rows = torch.from_numpy(band_rows(64, flags[1]))
    other[1][:, rows] = 255 - other[1][:, rows]
    assert torch.equal(repair_frames(net, frames, flags)[0], repair_frames(net, other, flags)[0])


def test_neighbours_that_are_flagged_are_not_looked_at(net):
    frames, flags = some_frames(5), np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    other = frames.clone()
    other[[1, 3]] = 255 - other[[1, 3]]
    assert torch.equal(repair_frames(net, frames, flags)[0][2], repair_frames(net, other, flags)[0][2])
    other = frames.clone()
    other[4] = 255 - other[4]
    assert not torch.equal(repair_frames(net, frames, flags)[0][2], repair_frames(net, other, flags)[0][2])


def test_flags_may_be_tensors_and_the_network_is_left_as_it_was(net):
    frames, flags = some_frames(3), torch.tensor([[False] * 3, [False, False, True], [False] * 3])
    net.train()
    try:
        mended, _ = repair_frames(net, frames, flags)
        assert net.training
    finally:
        net.eval()
    assert torch.equal(mended, repair_frames(net, frames, flags.numpy())[0])


def test_larger_frames_are_completed_small_and_pasted_back(net):
    picture = [np.asarray(frame) for frame in some_frames(3, (128, 64)).permute(0, 2, 3, 1).numpy()]
    found = mend(net, picture, [[0, 1, 2]], [[False, True, False]])[0]
    small = torch.from_numpy(np.stack([resize_image(image, (64, 32)) for image in picture])).permute(0, 3, 1, 2)
    same, _ = repair_frames(net, torch.stack([small[1], small[0], small[2]]), np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool))
    large = resize_image(same[1].permute(1, 2, 0).numpy(), (128, 64))
    rows = band_rows(128, np.array([False, True, False]))
    assert rows.sum() == 43 and np.array_equal(found[rows], large[rows]) and np.array_equal(found[~rows], picture[0][~rows])


def test_frames_of_different_sizes(net):
    images = [np.full(size + (3,), 90, np.uint8) for size in ((64, 32), (100, 40), (30, 20))]
    found = mend(net, images, [[1, 0, 2], [2, 0, 0]], [[True, False, False], [False, True, True]])
    assert [image.shape for image in found] == [(100, 40, 3), (30, 20, 3)]
    assert (found[0][34:] == 90).all() and (found[1][:10] == 90).all()


ACCELERATOR = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.mark.parametrize("device", ["cpu", ACCELERATOR])
def test_a_mask_over_everything_is_refused_by_name(net, device):
    images = list(some_frames(2).permute(0, 2, 3, 1).numpy())
    for hidden, number in (([[True, True, True]], 0), ([[False, True, True], [True, True, True]], 1)):
        with pytest.raises(ValueError, match=f"hides all of frame {number}, there is nothing to paint from: leave this frame as it is"):
            mend(copy.deepcopy(net).to(device), images, [[0, 1, 1]] * len(hidden), hidden)


def test_a_mask_over_everything_is_refused_before_the_network_sees_it(net):
    """As on an accelerator, where the network does not look at its masks."""
    class Blind:
        settings, complete = net.settings, lambda *args, **options: pytest.fail("the network was asked")
    with pytest.raises(ValueError, match="hides all of frame 0"):
        mend(Blind, list(some_frames(2).permute(0, 2, 3, 1).numpy()), [[0, 1, 1]], [[True, True, True]])


def test_one_frame_and_every_frame_flagged_are_left(net):
    frames = some_frames(4)
    for flags in (np.ones((4, 3), bool), np.eye(4, 3, dtype=bool) | np.array([[0], [0], [0], [1]], bool)):
        mended, report = repair_frames(net, frames, flags)
        assert torch.equal(mended, frames) and set(report.how) == {REPAIRS[3]} and (report.previous == -1).all()
    mended, report = repair_frames(net, frames[:1], np.array([[True, False, False]]))
    assert torch.equal(mended, frames[:1]) and report.how.tolist() == [REPAIRS[3]]
    mended, report = repair_frames(net, frames[:1], np.zeros((1, 3), bool))
    assert torch.equal(mended, frames[:1]) and report.empty


@pytest.mark.parametrize(("frames", "flags", "batch", "message"), [
    (torch.zeros(2, 3, 8, 8), np.zeros((2, 3), bool), 32, "frames must be uint8"), (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), np.zeros((2, 3), bool), 32, "T x 3 x H x W"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.zeros((3, 3), bool), 32, "one row of flags for each frame"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.zeros(2, bool), 32, "flags of shape"), (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.zeros((2, 3), bool), 0, "batch=0")])
def test_wrong_shapes_are_refused(net, frames, flags, batch, message):
    with pytest.raises(ValueError, match=message):
        repair_frames(net, frames, flags, batch)


def test_pasting_keeps_the_frame():
    frame, painted = np.full((9, 4, 3), 7, np.uint8), np.full((9, 4, 3), 200, np.uint8)
    assert (paste_bands(frame, painted, np.zeros(3, bool)) == 7).all() and (frame == 7).all()
    assert paste_bands(frame, painted, np.array([False, True, False]))[:, 0, 0].tolist() == [7] * 3 + [200] * 3 + [7] * 3


# --- tables

def test_the_truth_as_a_table(world, table):
    homes = home_splits(world)
    assert list(table.columns) == [*COLUMNS] and len(table) == 3 * sum(r.length for r in homes)
    flags = tracklet_table(world, table)
    assert list(flags) == list(homes)
    for record in flags:
        assert np.array_equal(flags[record], world.film(record).bands.numpy() > 0.3)
    plain = VideoReIDSet("plain", world.train, world.query, world.gallery)
    with pytest.raises(ValueError, match="plain has no exact masks"):
        true_table(plain)


def test_a_tracklet_of_two_splits_has_one_home(world):
    homes = home_splits(world)
    assert set(world.query) & set(world.gallery) and all(homes[record] == "query" for record in world.query)
    assert len(homes) == len({*world.train, *world.query, *world.gallery})


def test_rows_may_come_in_any_order_and_from_a_table_without_splits(world, table):
    expected = tracklet_table(world, table, column="score")
    for other in (table.sample(frac=1, random_state=1), table.astype({"split": str, "tracklet": str, "band": str}), table.assign(split="")):
        found = tracklet_table(world, other.sort_values("frame", kind="stable") if other is not table else other, column="score")
        assert all(np.array_equal(found[record], values) for record, values in expected.items())


@pytest.mark.parametrize(("change", "message"), [
    (lambda t, name: t[t.tracklet != name], "the table has no tracklet {} of mannequin-mars's train"),
    (lambda t, name: t.drop(t.index[(t.tracklet == name) & (t.frame == 1)]), "does not have each band of each frame of tracklet {} once"),
    (lambda t, name: t.drop(t.index[(t.tracklet == name) & (t.frame == 1) & (t.band == "middle")]), "does not have each band of each frame of tracklet {} once"),
    (lambda t, name: pd.concat([t, t[(t.tracklet == name) & (t.frame == 0)]], ignore_index=True), "does not have each band of each frame of tracklet {} once"),
    (lambda t, name: t.drop(t.index[(t.tracklet == name) & (t.frame == t.frame[t.tracklet == name].max())]), "frames of tracklet {}, mannequin-mars has")])
def test_a_table_that_does_not_fit_is_refused(world, net, table, change, message):
    name = world.train[1].name
    for make in (lambda t: RepairedSet(world, net, t), lambda t: DiscardedSet(world, t)):
        with pytest.raises(ValueError, match=message.format(name)):
            make(change(table, name))


# --- repaired sets

def test_frames_do_not_depend_on_who_reads_what_when(world, net, table):
    forward, backward, middle = (RepairedSet(world, net, table, budget=budget, batch=5) for budget in (1 << 30, 1, 3000))
    places = [(record, n) for record in home_splits(world) for n in range(record.length)]
    found = {place: forward.read_frame(*place) for place in places}
    assert all(np.array_equal(backward.read_frame(*place), found[place]) for place in reversed(places))
    for k in numpy_generator("order").permutation(len(places))[:40]:
        assert np.array_equal(middle.read_frame(*places[k]), found[places[k]])
    assert len(backward._kept) == 1 and middle.held <= 3000 + max(sum(s.nbytes for s in g) for g in forward._kept.values())


def test_other_frames_are_the_sources_bytes(world, net, table):
    made, flags = RepairedSet(world, net, table), tracklet_table(world, table)
    assert (made.train, made.query, made.gallery, made.camera_rule) == (world.train, world.query, world.gallery, world.camera_rule)
    painted = 0
    for record in home_splits(world):
        for n in range(record.length):
            frame, was = made.read_frame(record, n), world.read_frame(record, n)
            if made.is_repaired(record, n):
                painted += 1
                rows = band_rows(64, flags[record][n])
                assert np.array_equal(frame[~rows], was[~rows]) and not np.array_equal(frame[rows], was[rows])
                assert np.array_equal(np.asarray(Image.open(io.BytesIO(made.read_frame_bytes(record, n)))), frame)
            else:
                assert made.read_frame_bytes(record, n) == world.read_frame_bytes(record, n)
    assert painted == repairable(made.report).sum() > 5
    with pytest.raises(IndexError, match="has frames 0 to"):
        made.read_frame(world.train[0], world.train[0].length)


def test_it_is_what_repairing_each_tracklet_gives(world, net, table):
    made, flags = RepairedSet(world, net, table, batch=7), tracklet_table(world, table)
    for record in world.train:
        frames = torch.from_numpy(np.stack(world.read_tracklet(record))).permute(0, 3, 1, 2)
        alone, _ = repair_frames(net, frames, flags[record])
        there = torch.from_numpy(np.stack(made.read_tracklet(record))).permute(0, 3, 1, 2)
        assert (alone.int() - there.int()).abs().max() <= 1


def test_only_the_named_splits_are_repaired(world, net, table):
    everywhere = RepairedSet(world, net, table)
    for which in (("train",), ("gallery", "query"), ("query",)):
        made = RepairedSet(world, net, table, which)
        asked = {record for name in which for record in getattr(world, name)}
        for record in home_splits(world):
            for n in range(record.length):
                assert made.is_repaired(record, n) == (everywhere.is_repaired(record, n) and record in asked)
        assert set(made.report.tracklet) <= {record.name for record in asked}
    part = table[table.split == "train"]
    assert set(RepairedSet(world, net, part, ("train",)).report.split) == {"train"}
    for wrong in (("tset",), ()):
        with pytest.raises(ValueError, match="split"):
            RepairedSet(world, net, table, wrong)


def test_threads_may_read(world, net, table):
    from concurrent.futures import ThreadPoolExecutor
    one, other = RepairedSet(world, net, table, batch=4), RepairedSet(world, net, table, batch=4, budget=1)
    places = [(record, n) for record in world.train for n in range(record.length)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: other.read_frame(*place), places))
    assert all(np.array_equal(frame, one.read_frame(*place)) for place, frame in zip(places, found))


def test_fingerprints_tell_weights_flags_and_splits_apart(world, net, table):
    marks = [RepairedSet(world, net, table).fingerprint, RepairedSet(world, make_net("spatial"), table).fingerprint, RepairedSet(world, net, table, ("train",)).fingerprint,
             RepairedSet(world, net, table.assign(flagged=False)).fingerprint, DiscardedSet(world, table).fingerprint, world.fingerprint]
    assert len(set(marks)) == len(marks) and RepairedSet(world, net, table).fingerprint == marks[0]


# --- discarded sets

@settings(max_examples=25, deadline=None)
@given(flag_arrays)
def test_at_least_one_frame_is_kept(flags):
    scores = numpy_generator("scores", len(flags)).random(flags.shape)
    kept = kept_frames(flags, scores)
    clean = np.flatnonzero(~flags.any(1))
    assert kept.tolist() == clean.tolist() if len(clean) else kept.tolist() == [scores.min(1).argmax()]


def test_a_set_without_its_flagged_frames(world, table):
    made, flags = DiscardedSet(world, table), tracklet_table(world, table)
    whole = {record.name: record for record in home_splits(world)}
    for thin in home_splits(made):
        kept = kept_frames(flags[whole[thin.name]], tracklet_table(world, table, column="score")[whole[thin.name]])
        assert thin.length == len(kept) and (thin.pid, thin.camid) == (whole[thin.name].pid, whole[thin.name].camid)
        for n, m in enumerate(kept):
            assert made.read_frame_bytes(thin, n) == world.read_frame_bytes(whole[thin.name], int(m))
        with pytest.raises(IndexError):
            made.read_frame(thin, thin.length)
    assert made.queries_in_gallery and len(made.query) == len(world.query) and made.num_train_identities == world.num_train_identities
    assert DiscardedSet(world, table, ("train",)).query == world.query
    made.prepare(made.train)


def test_files_and_numbers_of_discarded_tracklets(tmp_path):
    for n in range(4):
        Image.fromarray(np.full((9, 6, 3), 50 * n, np.uint8)).save(tmp_path / f"f{3 * n}.png")
    record = read_tracklet_folder(tmp_path)
    source = FolderTracklets("own", "tracklets", tmp_path, {"train": [record], "query": [], "gallery": []})
    table = score_table([record.name], [torch.tensor([[0.9] * 3, [0.2] * 3, [0.9] * 3, [0.9] * 3])], "train")
    made = DiscardedSet(source, table.assign(flagged=table.score < 0.5))
    assert made.train[0].files == ("f0.png", "f6.png", "f9.png") and made.train[0].numbers == (0, 6, 9)
    assert [int(made.read_frame(made.train[0], n)[0, 0, 0]) for n in range(3)] == [0, 100, 150]


# --- names

def test_descriptions_say_all_that_matters(world, net, table):
    scorer, painter = video_spec(world, video_settings("smoke")), stcnet_spec(world, stcnet_settings("smoke", "spatial"))
    kinds = [repaired_data(world, painter, Flagging("quantile", 0.1, scorer=scorer)), repaired_data(world, painter, Flagging("quantile", 0.2, scorer=scorer)),
             repaired_data(world, painter, Flagging("threshold", 0.1, scorer=scorer)), repaired_data(world, painter, Flagging("truth", 0.1)),
             repaired_data(world, painter, Flagging("truth", 0.1), ("train",)), repaired_data(world, stcnet_spec(world, stcnet_settings("smoke", "ae")), Flagging("truth", 0.1)),
             discarded_data(world, Flagging("truth", 0.1)), discarded_data(world, Flagging("quantile", 0.1, scorer=scorer)), video_data_spec(world),
             repaired_data(world, painter, Flagging("quantile", 0.1, scorer=video_spec(world, video_settings("smoke"), 1)))]
    keys = [RunSpec("video-reid", 1, {}, json.loads(json.dumps(kind))).key for kind in kinds]
    assert len(set(keys)) == len(keys)
    assert kinds[3] == json.loads(json.dumps(kinds[3])) and repaired_data(video_data_spec(world), painter, Flagging("truth", 0.1), ("gallery", "train", "query")) == kinds[3]
    for flags in (Flagging("truth", 0.2), Flagging("quantile", 0.1, False, "median", scorer=scorer)):
        assert Flagging.of(json.loads(json.dumps(flags.describe()))) == flags
    by_hand = RepairedSet(world, net, table)
    assert open_video_data(video_data_spec(by_hand)) is by_hand and next(iter(by_hand.data_spec())) == "repaired"
    with pytest.raises(RunStoreError, match="another process made by hand"):
        open_video_data({"discarded": "by hand", "fingerprint": "0" * 16})


@pytest.mark.parametrize(("options", "message"), [(("quantile", 0.1), "name its run"), (("treshold", 0.1), "Did you mean 'threshold'"), (("quantile", 1.2), "share")])
def test_rules_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        Flagging(*options) if "run" in message else Flagging(*options, scorer=RunSpec("video-reid"))


def test_a_run_on_repaired_data_trains_what_it_needs_and_is_found_again(world, tmp_path):
    store = RunStore(local=tmp_path, shipped=tmp_path / "none")
    small = video_settings("smoke", truncate=3, epochs=1, batch=4)
    scorer, painter = video_spec(world, small), stcnet_spec(world, stcnet_settings("smoke", "spatial", channels=2, iterations=2, batch=4))
    flags = Flagging("quantile", 0.1, scorer=scorer)
    for data in (repaired_data(world, painter, flags), discarded_data(world, flags, ("train",))):
        spec = RunSpec("video-reid", VIDEO_REID_VERSION, asdict(small), data)
        run = store.get(spec, train=True, progress="off")
        assert run.spec.as_dict()["data"] == json.loads(json.dumps(data)) and 0 <= run.metrics["map_step"] <= 1
        made = open_video_data(data, store)
        assert video_data_spec(made) == data and video_spec(made, small).key == spec.key
    assert {status.name for status in store.list()} >= {scorer.name, painter.name} and len(store.list()) == 4
    code = ("import json, sys\nfrom dgnb.run_store import RunStore\nfrom dgnb.vrstc.video_training import open_video_data\n"
            "made = open_video_data(json.loads(sys.argv[1]), RunStore(local=sys.argv[2], shipped=sys.argv[2] + '/none'))\nprint(made.fingerprint)")
    data = repaired_data(world, painter, flags)
    done = subprocess.run([sys.executable, "-c", code, json.dumps(data), str(tmp_path)], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stdout.strip() == open_video_data(data, store).fingerprint, done.stderr


# --- folders

def test_a_repaired_folder(world, net, table, tmp_path):
    report = repair_set(world, net, table, tmp_path / "out")
    made = RepairedSet(world, net, table)
    assert report.equals(made.report) and pd.read_csv(tmp_path / "out" / "repairs.csv").equals(report)
    for record, split in home_splits(world).items():
        folder = tmp_path / "out" / split / f"{record.pid:04d}" / record.name
        files = sorted(folder.iterdir())
        assert len(files) == record.length
        for n, file in enumerate(files):
            assert file.read_bytes() == made.read_frame_bytes(record, n)
            assert file.suffix == (".png" if made.is_repaired(record, n) else ".jpg")
    again = read_tracklet_set(tmp_path / "out")
    assert len(again.train) == len(world.train) and len(again.query) == len(world.query)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}
    repair_set(world, net, table, tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}
    with pytest.raises(ValueError, match="holds repairs of other tracklets"):
        repair_set(world, make_net("spatial"), table, tmp_path / "out")


def test_stopped_at_any_frame_and_taken_up_it_is_the_same(world, net, table, tmp_path, monkeypatch):
    repair_set(world, net, table, tmp_path / "whole", ("train",))
    real, left = RepairedSet.read_frame_bytes, [0]

    def failing(self, record, n):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(self, record, n)

    monkeypatch.setattr(RepairedSet, "read_frame_bytes", failing)
    for allowed in (3, 11, 40, 10**6):
        left[0] = allowed
        try:
            repair_set(world, net, table, tmp_path / "parts", ("train",))
        except Exception as error:
            assert allowed < 10**6 and "No space left" in str(error)
            whole = {name.rpartition("/")[0] for name in files_of(tmp_path / "whole")}
            for folder in (p for p in (tmp_path / "parts").glob("*/*/*") if not p.name.startswith(".")):
                name = str(folder.relative_to(tmp_path / "parts"))
                assert name in whole and len(list(folder.iterdir())) == len(list((tmp_path / "whole" / name).iterdir()))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_killed_in_between_and_taken_up_it_is_the_same(world, net, table, tmp_path):
    code = (f"import sys, time\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport test_vrstc_repair as t\nfrom dgnb.vrstc.repair import RepairedSet\n"
            "world, net = t.make_video_world('mannequin-mars', 'smoke', occlusion={'share': 0.7}, **t.OPTIONS), t.make_net()\n"
            "real = RepairedSet.read_frame_bytes\n"
            "RepairedSet.read_frame_bytes = lambda self, r, n: (time.sleep(0.05), real(self, r, n))[1]\n"
            "t.repair_set(world, net, t.true_table(world, 0.3), sys.argv[1], ('train',))")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    done = lambda: [p for p in (tmp_path / "killed").glob("train/*/*") if not p.name.startswith(".")]
    while len(done()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(done()) < len(world.train)
    repair_set(world, net, table, tmp_path / "killed", ("train",))
    repair_set(world, net, table, tmp_path / "whole", ("train",))
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def own_folder(root: Path, lengths=(5, 4), sizes=((64, 32),), names="frame{:03d}.jpg") -> Path:
    draw = numpy_generator("own")
    for t, length in enumerate(lengths):
        (root / f"walk{t}").mkdir(parents=True)
        for n in range(length):
            size = sizes[n % len(sizes)]
            Image.fromarray(draw.integers(0, 256, size + (3,), np.uint8)).save(root / f"walk{t}" / names.format(n), quality=95)
    return root


def own_set(root: Path):
    records = [read_tracklet_folder(path, name=path.name) for path in sorted(root.iterdir())]
    return FolderTracklets("own", "tracklets", root, {"train": [], "query": [], "gallery": records}, False)


def own_table(source, flagged: dict):
    """A table with the given flags: tracklet -> {frame: bands}."""
    table = score_table([r.name for r in source.gallery], [torch.ones(r.length, 3) for r in source.gallery], "gallery").assign(flagged=False)
    for name, rows in flagged.items():
        for frame, bands in rows.items():
            table.loc[(table.tracklet == name) & (table.frame == frame) & table.band.isin(bands), "flagged"] = True
    return table


def test_own_tracklets_keep_their_names_sizes_and_gaps(net, tmp_path):
    source = own_set(own_folder(tmp_path / "in", (5, 1), ((64, 32), (90, 45), (128, 64)), "c1 {:03d}.jpg"))
    (tmp_path / "in" / "walk0" / "c1 002.jpg").rename(tmp_path / "in" / "walk0" / "c1 900.jpg")
    source = own_set(tmp_path / "in")
    assert source.gallery[0].gaps == 896
    report = repair_set(source, net, own_table(source, {"walk0": {1: ["lower"], 4: ["upper", "middle"]}, "walk1": {0: ["upper"]}}), tmp_path / "out")
    assert report[["tracklet", "frame", "bands", "previous", "next", "how"]].values.tolist() == [
        ["walk0", 1, "lower", 0, 2, REPAIRS[0]], ["walk0", 4, "upper+middle", 3, 3, REPAIRS[1]], ["walk1", 0, "upper", -1, -1, REPAIRS[3]]]
    names = sorted(p.name for p in (tmp_path / "out" / "walk0").iterdir())
    assert names == ["c1 000.jpg", "c1 001.png", "c1 003.jpg", "c1 004.jpg", "c1 900.png"]
    for n, file in enumerate(source.gallery[0].files):
        was = np.asarray(Image.open(tmp_path / "in" / "walk0" / file).convert("RGB"))
        found = np.asarray(Image.open(next((tmp_path / "out" / "walk0").glob(Path(file).stem + ".*"))))
        rows = band_rows(len(was), np.array({1: [0, 0, 1], 4: [1, 1, 0]}.get(n, [0, 0, 0]), bool))
        assert found.shape == was.shape and np.array_equal(found[~rows], was[~rows]) and (not rows.any() or not np.array_equal(found[rows], was[rows]))
    assert read_tracklet_folder(tmp_path / "out" / "walk0").numbers == source.gallery[0].numbers


def test_two_frames_of_one_stem_do_not_overwrite_each_other(net, tmp_path):
    own_folder(tmp_path / "in", (3,), names="{:03d}.jpg")
    shutil.copy(tmp_path / "in" / "walk0" / "001.jpg", tmp_path / "in" / "walk0" / "001.png")
    source = own_set(tmp_path / "in")
    repair_set(source, net, own_table(source, {"walk0": {1: ["lower"]}}), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "walk0").iterdir()) == ["000.jpg", "001.jpg.png", "001.png", "002.jpg"]


def test_an_unreadable_frame_is_named_and_the_rest_goes_on_after_mending(net, tmp_path):
    source = own_set(own_folder(tmp_path / "in", (3, 3)))
    file = tmp_path / "in" / "walk1" / "frame001.jpg"
    good = file.read_bytes()
    file.write_bytes(good[:200])
    table = own_table(source, {"walk1": {1: ["lower"]}, "walk0": {1: ["upper"]}})
    with pytest.raises(ValueError, match="walk1/frame001.jpg: cannot be decoded"):
        repair_set(source, net, table, tmp_path / "out")
    file.write_bytes(good)
    assert len(repair_set(source, net, table, tmp_path / "out")) == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["repairs.csv", "repairs.json", "walk0", "walk1"]
    (tmp_path / "in" / "walk0" / "frame000.jpg").unlink()
    with pytest.raises(ValueError, match="frame000.jpg: cannot be read"):
        repair_set(source, net, table, tmp_path / "other")


def test_boxes_are_cut_out(net, tmp_path):
    (tmp_path / "video").mkdir()
    for n in range(3):
        Image.fromarray(numpy_generator("video", n).integers(0, 256, (80, 90, 3), np.uint8)).save(tmp_path / "video" / f"{n}.png")
    record = TrackletRecord("01/0001", 1, 1, 3, folder=str(tmp_path / "video"), files=("0.png", "1.png", "2.png"), numbers=(0, 1, 2), boxes=((5, 5, 30, 60), (6, 5, 31, 61), (7, 5, 30, 60)))
    source = VideoReIDSet("boxes", [], [], [record])
    table = score_table([record.name], [torch.ones(3, 3)], "gallery").assign(flagged=False)
    table.loc[(table.frame == 1) & (table.band == "lower"), "flagged"] = True
    repair_set(source, net, table, tmp_path / "out")
    files = sorted((tmp_path / "out").rglob("*.png"))
    assert [Image.open(file).size for file in files] == [(30, 60), (31, 61), (30, 60)] and files[0].parent.name == "01-0001"
    assert np.array_equal(np.asarray(Image.open(files[0])), source.read_frame(record, 0))


def test_memory_does_not_grow_with_the_tracklet(net):
    class Long(VideoReIDSet):
        def read_frame(self, tracklet, n):
            return np.full((64, 32, 3), n % 251, np.uint8)

    record = TrackletRecord("long", 1, 1, 800)
    source = Long("long", [], [], [record])
    table = score_table(["long"], [torch.ones(800, 3)], "gallery")
    table["flagged"] = (table.band == "lower") & (table.frame % 2 == 1)
    made, most = RepairedSet(source, net, table, budget=80_000), 0
    for n in range(0, 800, 25):
        made.read_frame(record, n)
        most = max(most, made.held)
    assert len(made._jobs) == 400 and 0 < most <= 80_000
