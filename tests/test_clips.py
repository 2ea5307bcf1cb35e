"Clips: the stride rule, one flip a clip, repeatability, resuming, whole tracklets in pieces."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgnb.augmentation import Augmentation, Draws, denormalise, draw_parameters, normalise
from dgnb.clips import (CLIP_AUGMENTATIONS, ClipLoader, TrackletCache, TrackletDataset, chunks, clip_frames, clip_loader, draw_clips, load_clips,
                        tracklet_features, whole_tracklets)
from dgnb.own_tracklets import read_tracklet_folder
from dgnb.sampling import ShuffledSampler
from dgnb.tracklets import TrackletRecord, VideoReIDSet

torch.set_num_threads(1)
SIZE = (16, 8)


class Numbered(VideoReIDSet):
    "Tracklets whose pixels say which frame of which tracklet they are, and which column."

    def __init__(self, lengths, identities=3):
        super().__init__("numbered", [TrackletRecord(f"{k:03d}", 1 + k % identities, 1 + k % 2, int(n), index=k) for k, n in enumerate(lengths)], (), ())

    def read_frame(self, tracklet, n):
        image = np.zeros((*SIZE, 3), np.uint8)
        image[..., 0], image[..., 1], image[..., 2] = tracklet.index, n, np.arange(SIZE[1])[None]
        return image


LENGTHS = (40, 33, 32, 31, 9, 4, 3, 1, 100, 12)


@pytest.fixture(scope="module")
def cache():
    source = Numbered(LENGTHS)
    return TrackletCache(source, source.train, SIZE)


lengths = st.lists(st.integers(1, 120), min_size=1, max_size=8)


@given(lengths, st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_the_rule_of_strides(length, frames, stride, seed):
    u = np.random.default_rng(seed).random((len(length), 1 + max(frames, frames * stride - 1)))
    picked = clip_frames(length, u, frames, stride)
    assert picked.shape == (len(length), frames) and picked.min() >= 0 and (picked.max(1) < length).all()
    for total, row in zip(length, picked):
        if total >= frames * stride:
            assert (np.diff(row) == stride).all()
        elif total >= frames:
            assert (np.diff(row) > 0).all()
        else:
            assert set(row) == set(range(total)) and (np.diff(row) >= 0).all()


def test_every_start_comes_up_equally_often():
    count = 20_000
    draws = Draws(0, np.arange(count), np.zeros(count, np.int64))
    starts = np.bincount(draw_clips(np.full(count, 40), draws)[:, 0], minlength=16)
    assert len(starts) == 16 and np.abs(starts / count - 1 / 16).max() < 0.01
    short = draw_clips(np.full(count, 20), draws)
    assert np.abs(np.bincount(short.reshape(-1), minlength=20) / (4 * count) - 0.05).max() < 0.005


def test_clips_depend_on_seed_epoch_tracklet_and_visit_alone(cache):
    draws = lambda epoch=0, visit=0, index=(0, 8): Draws(epoch, np.array(index), np.full(len(index), visit))
    base = draw_clips(cache.lengths[[0, 8]], draws())
    assert np.array_equal(base[1:], draw_clips(cache.lengths[[8]], draws(index=(8,))))
    others = [draw_clips(cache.lengths[[0, 8]], draws(epoch=1)), draw_clips(cache.lengths[[0, 8]], draws(visit=1)), draw_clips(cache.lengths[[0, 8]], draws(), seed=1)]
    assert all(not np.array_equal(base, other) for other in others)


def test_frames_are_those_asked_for_and_flipped_together(cache):
    draws = Draws(3, np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), np.int64))
    batch = load_clips(cache, draws, seed=5)
    levels = denormalise(batch["clip"])
    assert batch["clip"].shape == (len(LENGTHS), 4, 3, *SIZE) and batch["clip"].dtype == torch.float32
    assert torch.equal(levels[:, :, 0, 0, 0], batch["index"][:, None].expand(-1, 4).to(torch.uint8))
    assert torch.equal(levels[:, :, 1, 0, 0], batch["frames"].to(torch.uint8))
    first_column = levels[:, :, 2, 0, 0]
    flipped = first_column == SIZE[1] - 1
    assert (flipped | (first_column == 0)).all() and (flipped == flipped[:, :1]).all()  # one flip a clip
    assert np.array_equal(flipped[:, 0].numpy(), draw_parameters(CLIP_AUGMENTATIONS["flip"], SIZE, 5, draws, "clip").flip)
    assert 0 < flipped[:, 0].sum() < len(LENGTHS)


def test_one_crop_a_clip(cache):
    draws = Draws(0, np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), np.int64))
    levels = denormalise(load_clips(cache, draws, augmentation=Augmentation(flip=0, pad=40, erase=0))["clip"])
    shift = levels[:, :, 2, 0]
    assert (shift == shift[:, :1]).all() and (levels[:, 0, 2, 0] != torch.arange(SIZE[1], dtype=torch.uint8)).any()


def test_cache_and_data_set_give_the_same(cache):
    lazy = TrackletDataset(cache.source, cache.records, SIZE)
    draws = Draws(1, np.array([7, 2, 2, 9]), np.array([0, 0, 1, 0]))
    a, b = load_clips(cache, draws, stride=2), load_clips(lazy, draws, stride=2)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("sampler, batch", [("shuffled", 3), ("identities", 4)])
def test_stopped_and_resumed_anywhere(cache, sampler, batch):
    make = lambda: clip_loader(cache, batch_size=batch, sampler=sampler, clips_per_identity=2, stride=3, seed=4)
    loader, whole = make(), []
    for b, _ in zip(loader.forever(), range(7)):
        whole.append(b)
    for stop in range(7):
        first, second = make(), make()
        for _, b in zip(range(stop), first.forever()):
            pass
        second.load_state_dict(first.state_dict())
        for ours, theirs in zip(second.forever(), whole[stop:]):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_epochs_show_every_tracklet_once(cache):
    loader = clip_loader(cache, batch_size=5, seed=0)
    orders = [torch.cat([b["index"] for b in loader]).tolist() for _ in range(2)]
    assert all(sorted(order) == list(range(len(LENGTHS))) for order in orders) and orders[0] != orders[1]


def test_processes_share_every_batch(cache):
    whole = [b["frames"] for b in clip_loader(cache, batch_size=4, drop_last=True)]
    parts = [[b["frames"] for b in clip_loader(cache, batch_size=2, rank=rank, world_size=2)] for rank in (0, 1)]
    assert all(torch.equal(w, torch.cat([a, b])) for w, a, b in zip(whole, *parts))


def test_resuming_with_other_settings_is_refused(cache):
    state = clip_loader(cache, batch_size=2).state_dict()
    for change in ({"stride": 4}, {"frames": 2}, {"augmentation": "none"}, {"batch_size": 3}):
        with pytest.raises(ValueError, match="cannot resume the data loader"):
            clip_loader(cache, **{"batch_size": 2, **change}).load_state_dict(state)


@given(st.integers(1, 400), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_chunks_cover_a_tracklet_once(length, most):
    pieces = chunks(length, most)
    assert [n for piece in pieces for n in piece] == list(range(length))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1 and len(pieces) == -(-length // most)


@pytest.mark.parametrize("most, batch_frames", [(32, 256), (5, 16), (1, 1), (200, 7)])
def test_whole_tracklets_show_every_frame_once(cache, most, batch_frames):
    seen = []
    for batch in whole_tracklets(cache, most, batch_frames):
        levels = denormalise(batch["clip"])
        assert batch["clip"].shape[1] <= most and (len(batch["clip"]) == 1 or batch["clip"].shape[0] * batch["clip"].shape[1] <= batch_frames)
        assert torch.equal(levels[:, 0, 0, 0, 0].long(), batch["index"])
        seen += list(zip(levels[:, :, 0, 0, 0].reshape(-1).tolist(), levels[:, :, 1, 0, 0].reshape(-1).tolist()))
    assert sorted(seen) == [(k, n) for k, length in enumerate(LENGTHS) for n in range(length)]


def test_features_are_means_over_all_frames(cache):
    mean = lambda clip: clip.mean((1, 3, 4))
    features = tracklet_features(mean, cache, most=7)
    for index, record in enumerate(cache.records):
        frames = np.stack(cache.source.read_tracklet(record)).transpose(0, 3, 1, 2)
        assert torch.allclose(features[index], normalise(torch.from_numpy(frames)).mean((0, 2, 3)), atol=1e-4)


def test_frames_of_different_sizes_are_resized(tmp_path):
    for n, size in enumerate(((16, 8), (40, 30), (9, 9))):
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / f"{n}.png")
    source = VideoReIDSet("mixed", (read_tracklet_folder(tmp_path, 1),), (), ())
    assert TrackletCache(source, source.train, (24, 12)).pixels.shape == (3, 3, 24, 12)
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"1\.png: cannot be decoded"):
        TrackletCache(source, source.train, (24, 12))


@pytest.mark.parametrize("make, message", [
    (lambda c: ClipLoader(c, ShuffledSampler(len(c)), frames=0), "frames >= 1 and stride >= 1"),
    (lambda c: ClipLoader(c, ShuffledSampler(len(c)), 99), "do not fill one batch of 99"),
    (lambda c: clip_loader(c, sampler="pairs"), "unknown sampler 'pairs'"),
    (lambda c: clip_loader(c, batch_size=2, augmentation="dgnet"), "unknown clip augmentation 'dgnet'"),
    (lambda c: TrackletDataset(c.source, (), SIZE), "has none in this split"), (lambda c: chunks(0), "cannot be cut")])
def test_wrong_settings_are_refused(cache, make, message):
    with pytest.raises(ValueError, match=message):
        make(cache)
