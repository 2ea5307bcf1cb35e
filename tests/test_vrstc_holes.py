"""Exercises for STCnet: clean frames, neighbours, seeded and resumable batches, cases with known answers, baselines and measures."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.clips import TrackletCache, TrackletDataset
from dgnb.resuming import Batches, find_place
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.holes import (CleanFrames, HoleLoader, Holes, baselines, clean_frames, draw_bands, measure, pick_neighbours, practice_cases,
                              twin_cases)
from dgnb.vrstc.localizer import BANDS
from dgnb.vrstc.spatial import compose, to_levels, to_signed


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", "smoke")


@pytest.fixture(scope="module")
def cache(world):
    return TrackletCache(world, world.train, world.size)


@pytest.fixture(scope="module")
def frames(world, cache):
    return CleanFrames(cache, clean_frames(world, world.train))


def test_clean_frames_by_truth_and_by_table_in_any_order(world):
    clean = clean_frames(world, world.train)
    table = world.occlusions(world.train)
    assert (clean == (table[list(BANDS)].max(axis=1) == 0).to_numpy()).all() and 0 < clean.sum() < len(clean)
    shuffled = table.sample(frac=1, random_state=0)
    assert (clean == clean_frames(world, world.train, shuffled)).all()
    assert (clean == clean_frames(world, world.train, shuffled.assign(**{b: shuffled[b] > 0 for b in BANDS}))).all()
    long = shuffled.melt(["tracklet", "frame"], list(BANDS), "band", "share").assign(flagged=lambda t: t.share > 0).astype({"tracklet": "category"})
    assert (clean == clean_frames(world, world.train, long)).all()
    some = world.train[4:9]
    offset = sum(r.length for r in world.train[:4])
    assert (clean_frames(world, some, shuffled) == clean[offset:offset + sum(r.length for r in some)]).all()


def test_clean_frames_limit(world):
    strict, mild = clean_frames(world, world.train), clean_frames(world, world.train, limit=0.3)
    assert mild.sum() > strict.sum() and (mild | ~strict).all()


def test_clean_frames_refuses(world):
    table = world.occlusions(world.train)
    with pytest.raises(ValueError, match=f"lacks 1 of {len(table)} frames, the first of tracklet {table.tracklet.iloc[20]}"):
        clean_frames(world, world.train, table.drop(20))
    with pytest.raises(ValueError, match="all, truth"):
        clean_frames(world, world.train, "guess")
    with pytest.raises(ValueError, match="no exact masks.*table of flags"):
        clean_frames(type("Set", (), {"name": "files"})(), world.train)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data(), st.integers(1, 4), st.sampled_from(["nearest", "adjacent"]))
def test_neighbours(clean, data, distance, among):
    clean = np.array(clean)
    n = data.draw(st.integers(0, len(clean) - 1))
    usable = [i for i in range(len(clean)) if i != n and (clean[i] or among == "adjacent")]
    found = pick_neighbours(clean, n, distance, among)
    if not usable:
        assert found is None
        return
    before, after = found
    assert n not in found and before in usable and after in usable
    if min(usable) < n:
        assert before < n
        enough = [i for i in usable if i <= n - distance]
        assert before == (max(enough) if enough else min(usable))
    if max(usable) > n:
        assert after > n
        enough = [i for i in usable if i >= n + distance]
        assert after == (min(enough) if enough else max(usable))
    if min(usable) > n or max(usable) < n:
        assert before == after


def test_frames_without_neighbour_are_left_out(world):
    one = [replace(r, length=1) for r in world.train[:2]]
    short = TrackletDataset(world, [*one, world.train[2]], world.size)
    clean = np.ones(2 + world.train[2].length, bool)
    assert set(CleanFrames(short, clean).places[:, 0]) == {2}
    with pytest.raises(ValueError, match="none of 2 frames.*has a neighbour"):
        CleanFrames(TrackletDataset(world, one, world.size), np.ones(2, bool))
    alone = np.zeros(world.train[0].length, bool)
    alone[0] = True
    mine = TrackletDataset(world, world.train[:1], world.size)
    assert len(CleanFrames(mine, alone, "adjacent")) == 1
    with pytest.raises(ValueError, match="none of"):
        CleanFrames(mine, alone, "nearest")


def test_a_batch_is_what_it_says(world, cache, frames):
    batch = next(iter(HoleLoader(frames, 16, Holes(two_bands=0.5), seed=4)))
    for row in range(16):
        t, n = frames.places[batch["index"][row]]
        before, after = pick_neighbours(frames.clean[t], n, 1, "adjacent")
        for name, position in (("frame", n), ("previous", before), ("next", after)):
            assert torch.equal(batch[name][row], to_signed(torch.from_numpy(world.read_frame(world.train[t], int(position)).transpose(2, 0, 1).copy())))
        assert batch["label"][row] == world.label_of[world.train[t].pid] and frames.clean[t][n]
    rows = batch["mask"][:, 0].amax(-1)
    assert torch.equal(batch["mask"][:, 0].amin(-1), rows) and set(rows.sum(1).int().tolist()) <= {21, 22, 42, 43}


def test_flip_turns_frame_and_neighbours_together(frames):
    plain, turned = (next(iter(HoleLoader(frames, 32, Holes(flip=p), seed=1))) for p in (0.0, 1.0))
    for name in ("frame", "previous", "next"):
        assert torch.equal(turned[name], plain[name].flip(-1))
    half = next(iter(HoleLoader(frames, 64, Holes(flip=0.5), seed=1)))
    plain = next(iter(HoleLoader(frames, 64, Holes(), seed=1)))
    same = [torch.equal(a, b) for a, b in zip(half["frame"], plain["frame"])]
    assert 16 < sum(same) < 48 and same == [torch.equal(a, b) for a, b in zip(half["next"], plain["next"])]


def test_reach_draws_farther_neighbours(frames):
    near, far = (torch.cat([(b["frame"] - b["next"]).abs().mean((1, 2, 3)) for b in HoleLoader(frames, 32, Holes(reach=r), seed=1)]).mean() for r in (1, 4))
    assert far > 1.1 * near


def test_bands_have_equal_chance():
    u = np.random.default_rng(0).random((20_000, 2))
    one, mixed = draw_bands(u), draw_bands(u, 0.25)
    assert (one.sum(1) == 1).all() and np.abs(one.mean(0) - 1 / 3).max() < 0.02
    assert set(mixed.sum(1)) == {1, 2} and abs((mixed.sum(1) == 2).mean() - 0.25) < 0.02 and (draw_bands(u, 1.0).sum(1) == 2).all()


@pytest.mark.parametrize("stop", [0, 3, 9, 14])
def test_resumes_exactly(frames, stop):
    make = lambda: Batches(HoleLoader(frames, 16, Holes(two_bands=0.2, flip=0.5, reach=2), seed=5))
    whole, again = make(), make()
    for _ in range(stop):
        next(whole)
    torch.rand(3), np.random.rand(3)
    find_place(again, whole.state_dict())
    for _ in range(11):
        a, b = next(whole), next(again)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_resuming_with_other_holes_is_refused(frames):
    loader = HoleLoader(frames, 16, seed=5)
    with pytest.raises(ValueError, match="holes"):
        HoleLoader(frames, 16, Holes(two_bands=0.1), seed=5).load_state_dict(loader.state_dict())


def test_seeds_differ_and_every_frame_comes_once(frames):
    loader = HoleLoader(frames, 8, seed=0)
    seen = torch.cat([b["index"] for b in loader])
    assert len(seen.unique()) == len(seen) == len(frames) // 8 * 8
    other = torch.cat([b["index"] for b in HoleLoader(frames, 8, seed=1)])
    second = torch.cat([b["index"] for b in loader])
    assert not torch.equal(seen, other) and not torch.equal(seen, second)


def test_two_processes_share_a_batch(frames):
    whole = next(iter(HoleLoader(frames, 16, seed=2)))
    halves = [next(iter(HoleLoader(frames, 8, seed=2, rank=r, world_size=2))) for r in (0, 1)]
    assert all(torch.equal(whole[name], torch.cat([h[name] for h in halves])) for name in whole)


def test_holes_refuse_nonsense(frames):
    for bad in (dict(two_bands=1.5), dict(flip=-1), dict(reach=0), dict(among="near")):
        with pytest.raises(ValueError):
            Holes(**bad)
    with pytest.raises(ValueError, match="smaller batch"):
        HoleLoader(frames, len(frames) + 1)


@pytest.fixture(scope="module")
def cases(world):
    return practice_cases(world, world.gallery, world.size, 8), twin_cases(world, world.gallery, world.size, 8)


def test_practice_cases_are_clean_frames(world, cases):
    practice, _ = cases
    table = world.occlusions(world.gallery).set_index(["tracklet", "frame"])
    assert torch.equal(practice.frame, practice.truth) and len(practice) == 8 and practice.where.tracklet.is_unique
    for _, row in practice.where.iterrows():
        assert table.loc[(row.tracklet, row.frame), list(BANDS)].max() == 0
    again = practice_cases(world, world.gallery, world.size, 8)
    assert torch.equal(again.frame, practice.frame) and torch.equal(again.mask, practice.mask)


def test_twin_cases_are_truly_occluded(world, cases):
    real = cases[1]
    records = {r.name: r for r in world.gallery}
    for n, row in real.where.iterrows():
        film = world.film(records[row.tracklet])
        share = film.bands[row.frame].numpy()
        assert (row[list(BANDS)].to_numpy(bool) == (share > 0.1)).all()
        assert torch.equal(to_levels(real.truth[n]), film.twins[row.frame].permute(2, 0, 1))
        assert torch.equal(to_levels(real.frame[n]), film.images[row.frame].permute(2, 0, 1))
        clean = (film.bands.numpy() <= 0).all(1)
        before, after = pick_neighbours(clean, row.frame)
        assert torch.equal(to_levels(real.previous[n]), film.images[before].permute(2, 0, 1))
        assert row.gap == min(abs(row.frame - before), abs(row.frame - after))


def test_baselines_change_only_the_hole(cases):
    for some in cases:
        hole = (some.mask > 0).expand_as(some.frame)
        for name, painted in baselines(some).items():
            source = some.nearer if name == "neighbour copy" else some.average
            assert torch.equal(painted[~hole], some.frame[~hole]) and torch.equal(painted[hole], source[hole])


def test_measures_look_inside_the_hole_only(cases):
    practice = cases[0]
    hole = practice.mask > 0
    noisy = (practice.frame + 0.2 * torch.randn(practice.frame.shape)).clamp(-1, 1)
    assert (measure(practice, torch.where(hole, practice.frame, noisy)).psnr == 60).all()
    scores = measure(practice, torch.where(hole, noisy, practice.frame))
    wrong = (to_levels(noisy).double() - to_levels(practice.truth).double()) / 255
    area = hole.sum((1, 2, 3)) * 3
    assert np.allclose(scores.l1, ((wrong.abs() * hole).sum((1, 2, 3)) / area).numpy())
    assert np.allclose(scores.psnr, (-10 * torch.log10((wrong.square() * hole).sum((1, 2, 3)) / area)).numpy())
    assert (scores.ssim < 1).all()


def test_cases_refuse_where_there_is_nothing(world):
    clear = make_video_world("mannequin-mars", "smoke", occlusion={"share": 0.0})
    with pytest.raises(ValueError, match="partly occluded"):
        twin_cases(clear, clear.query[:3], clear.size, 4)
    with pytest.raises(ValueError, match="two unoccluded frames"):
        practice_cases(world, [replace(world.query[0], length=1)], world.size, 4, pd.DataFrame({"tracklet": [world.query[0].name], "frame": [0], **{b: [False] for b in BANDS}}))
