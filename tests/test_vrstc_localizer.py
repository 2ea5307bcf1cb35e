"Occlusion localizer: bands, centres, scores, rules, streaming over tracklets, tables, whole sets, and measures against exact masks."
import io
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from dgnb.backbones import build_backbone, build_network
from dgnb.clips import TrackletDataset
from dgnb.occluders import band_edges
from dgnb.scales import seed_everything
from dgnb.tracklets import TrackletRecord, VideoReIDSet
from dgnb.video_worlds import make_video_world
from dgnb.vrstc import score_tables
from dgnb.vrstc.localizer import (BANDS, CENTRES, COLUMNS, OcclusionLocalizer, Rule, ahead, band_crops, band_features, band_names, cropped_band_features, flag_bands,
                                  frame_maps, occlusion_scores, score_table, tracklet_centre)
from dgnb.vrstc.localizer_truth import auc_by_share, auc_interval, roc_curve, score_auc, with_truth
from dgnb.vrstc.score_plots import draw_scores
from dgnb.vrstc.score_tables import flag_report, frame_flags, localize_set, read_scores, write_scores
from dgnb.vrstc.video_reid import VideoReIDNetwork

torch.set_num_threads(1)
SIZE = (24, 12)


class Noise(VideoReIDSet):
    "Tracklets of noise that depends on the tracklet and the frame; distinct splits, and queries inside the gallery."

    def __init__(self, lengths):
        records = [TrackletRecord(f"{k:04d}", 1 + k % 3, 1 + k % 2, int(n), index=k) for k, n in enumerate(lengths)]
        third = len(records) // 3
        super().__init__("noise", records[:third] or records, records[third:2 * third], records[third:])

    def read_frame(self, tracklet, n):
        return np.random.default_rng([tracklet.index, n]).integers(0, 256, (*SIZE, 3), np.uint8)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, 1, 1), nn.ReLU()).eval()


def reference(localizer, source, record):
    "Frame by frame, band by band, in float64: eq. 11 and 12 in plain words."
    features = []
    for n in range(record.length):
        frame = torch.from_numpy(source.read_frame(record, n).transpose(2, 0, 1).copy())[None]
        features.append(localizer.features(frame)[0].double().numpy())
    features, scores = np.stack(features), np.zeros((record.length, localizer.bands))
    for t, k in product(range(record.length), range(localizer.bands)):
        mine = features[:, k]
        rest = np.delete(mine, t, 0) if record.length > 1 else mine
        unit = mine / np.linalg.norm(mine, axis=1, keepdims=True)
        centre = {"mean": mine.mean(0), "median": np.median(mine, 0), "others": rest.mean(0), "directions": unit.mean(0)}[localizer.centre]
        scores[t, k] = mine[t] @ centre / np.linalg.norm(mine[t]) / np.linalg.norm(centre) if localizer.measure == "cosine" else -np.linalg.norm(mine[t] - centre)
    return scores


# bands


def test_the_map_of_the_paper_is_pooled_over_rows_that_overlap():
    rows = torch.arange(16.0)[None, None, :, None].expand(2, 5, 16, 8)
    assert band_features(rows)[1, :, 3].tolist() == [2.5, 7.5, 12.5] and band_features(rows).shape == (2, 3, 5)


@given(st.integers(1, 6), st.integers(0, 30), st.integers(1, 9))
def test_bands_that_divide_are_plain_means(bands, extra, columns):
    maps = torch.randn(2, 3, bands * (1 + extra % 4), columns)
    assert torch.allclose(band_features(maps, bands), maps.unflatten(2, (bands, -1)).mean((3, 4)).transpose(1, 2), atol=1e-5)


@given(st.floats(0.01, 1), st.integers(1, 20))
def test_any_width_leaves_columns_symmetric_about_the_middle(width, columns):
    maps = torch.arange(float(columns)).expand(1, 1, 3, columns)
    found = band_features(maps, 3, width)
    assert found.isfinite().all() and torch.allclose(found, torch.tensor((columns - 1) / 2), atol=1e-4)


@given(st.integers(6, 300), st.integers(1, 6))
def test_crops_have_one_height_cover_the_frame_and_stay_near_their_band(height, bands):
    crops = band_crops(torch.arange(float(height))[None, None, :, None].expand(2, 3, height, 2), bands).unflatten(0, (2, bands))
    firsts, size, edges = crops[0, :, 0, 0, 0].tolist(), crops.shape[3], band_edges(height, bands)
    assert size == -(-height // bands) and torch.equal(crops[0], crops[1])
    assert firsts[0] == 0 and crops[0, -1, 0, -1, 0] == height - 1 and all(a + size >= b for a, b in zip(firsts, firsts[1:]))
    assert all(abs(first - edge) <= bands for first, edge in zip(firsts, edges)) and (crops[0, :, 0, 1:] - crops[0, :, 0, :-1] == 1).all()


def test_cropped_features_do_not_see_other_bands():
    maps, frames = net(), torch.randn(3, 3, 24, 12)
    changed = frames.clone()
    changed[:, :, 16:] = 0
    a, b = (cropped_band_features(maps, x) for x in (frames, changed))
    assert torch.equal(a[:, :2], b[:, :2]) and not torch.equal(a[:, 2], b[:, 2])
    assert not torch.equal(band_features(maps(frames))[:, 1], band_features(maps(changed))[:, 1])


def test_cropped_features_are_those_of_each_crop_alone():
    maps, frames = net(), torch.randn(4, 3, 23, 12)
    found = cropped_band_features(maps, frames, 3, 0.5)
    for n, k in product(range(4), range(3)):
        top = min(band_edges(23)[k], 23 - 8)
        assert torch.allclose(found[n, k], band_features(maps(frames[n:n + 1, :, top:top + 8]), 1, 0.5)[0, 0], atol=1e-5)


def test_bands_have_names_and_refuse_small_maps():
    assert band_names() == BANDS and band_names(2) == ("band 1", "band 2")
    with pytest.raises(ValueError, match="2 rows has no 3 bands"):
        band_features(torch.zeros(1, 4, 2, 9))


@pytest.mark.parametrize("build", [lambda: VideoReIDNetwork(3, "resnet10t", truncate=3), lambda: build_network(3, "resnet10t", truncate=3),
                                   lambda: build_backbone("resnet10t", truncate=3), net], ids=["video", "image", "backbone", "function"])
def test_maps_of_any_network(build):
    network = build().eval()
    with torch.no_grad():
        found = frame_maps(network)(torch.randn(2, 3, 32, 16))
    assert found.ndim == 4 and len(found) == 2
    with pytest.raises(ValueError, match="training mode"):
        frame_maps(network.train())


def test_frames_do_not_see_each_other_even_with_non_local_blocks():
    network = VideoReIDNetwork(3, "resnet10t", places={"layer1": (0,)}, truncate=2).eval()
    nn.init.ones_(network.body.nonlocals["layer1_0"].norm.weight)
    frames, maps = torch.randn(4, 3, 32, 16), frame_maps(network)
    with torch.no_grad():
        assert torch.allclose(maps(frames)[:1], maps(frames[:1]), atol=1e-5)


# centres and scores


tracklets = hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5)), elements=st.floats(-5, 5).map(lambda x: round(x, 2)))


@given(tracklets)
@settings(max_examples=150, deadline=None)
def test_centres_are_those_of_numpy(values):
    features = torch.from_numpy(values)
    assert np.allclose(tracklet_centre(features, "mean")[0], values.mean(0)) and np.allclose(tracklet_centre(features, "median")[0], np.median(values, 0))
    others = tracklet_centre(features, "others").numpy()
    for t in range(len(values)):
        assert np.allclose(others[t], np.delete(values, t, 0).mean(0) if len(values) > 1 else values[t])


@given(tracklets, st.sampled_from(CENTRES), st.floats(0.01, 100), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_scores_are_bounded_and_know_neither_scale_nor_order(values, centre, scale, seed):
    features = torch.from_numpy(values)
    scores = occlusion_scores(features, centre)
    assert scores.shape == values.shape[:2] and scores.abs().max() <= 1
    nonzero = (tracklet_centre(features, centre).norm(dim=-1) > 1e-6).expand_as(scores)
    assert torch.allclose(occlusion_scores(features * scale, centre)[nonzero], scores[nonzero], atol=1e-6)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(values)))
    assert torch.allclose(occlusion_scores(features[order], centre)[nonzero[order]], scores[order][nonzero[order]], atol=1e-6)


@given(tracklets, st.floats(0.01, 100))
def test_directions_gives_every_frame_one_vote(values, scale):
    features = torch.from_numpy(values)
    louder = features.clone()
    louder[0] *= scale
    sure = (tracklet_centre(features, "directions").norm(dim=-1) > 1e-6).expand(values.shape[:2])
    assert torch.allclose(occlusion_scores(features, "directions")[sure], occlusion_scores(louder, "directions")[sure], atol=1e-6)


@pytest.mark.parametrize("centre, measure", [way for way in product(CENTRES, ("cosine", "distance")) if way != ("directions", "distance")])
def test_one_frame_equal_frames_and_two(centre, measure):
    alone = float(measure == "cosine")
    frame = torch.rand(1, 3, 7) + 0.1
    assert (occlusion_scores(frame, centre, measure) == alone).all() and (occlusion_scores(0 * frame, centre, measure) == alone).all()
    assert torch.allclose(occlusion_scores(frame.expand(5, 3, 7), centre, measure), torch.tensor(alone), atol=1e-5)
    assert not flag_bands(occlusion_scores(frame, centre)).any()
    if measure == "distance" or centre == "directions":
        two = occlusion_scores(torch.randn(2, 3, 7), centre, measure)
        assert torch.allclose(two[0], two[1], atol=1e-5), "of two frames neither is the unusual one"


def test_a_minority_does_not_move_the_median_and_a_majority_wins():
    person, car = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 9.0])
    of = lambda cars, centre: occlusion_scores(torch.stack([car] * cars + [person] * (7 - cars))[:, None], centre)[:, 0]
    assert torch.allclose(of(3, "median"), torch.tensor([0.0] * 3 + [1.0] * 4), atol=1e-6)
    assert of(1, "mean")[0] > of(1, "mean")[-1], "one loud frame outvotes six in the printed mean"
    assert of(1, "directions")[0] < of(1, "directions")[-1] and (of(4, "median")[:4] > of(4, "median")[4:].max()).all()


def test_scores_refuse_what_cannot_be_scored():
    for bad in (torch.tensor([[[1.0, float("nan")]]]), torch.tensor([[[1.0, float("inf")]]] * 2)):
        with pytest.raises(ValueError, match="NaN or infinity"):
            occlusion_scores(bad)
    with pytest.raises(ValueError, match="without frames"):
        occlusion_scores(torch.zeros(0, 3, 4))
    for wrong in (dict(centre="middle"), dict(measure="euclid")):
        with pytest.raises(ValueError, match="Valid: "):
            occlusion_scores(torch.ones(2, 3, 4), **wrong)
    with pytest.raises(ValueError, match="no length"):
        occlusion_scores(torch.ones(2, 3, 4), "directions", "distance")


def test_a_zero_feature_among_others_is_unlike_anything():
    assert occlusion_scores(torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]]))[:, 0].tolist() == [0.0, 1.0, 1.0]


# rules


def test_flags_are_strictly_below_and_may_be_everywhere():
    scores = torch.tensor([[0.89, 0.88, 0.2], [0.9, -1.0, 0.1]])
    assert flag_bands(scores).tolist() == [[False, True, True], [False, True, True]]
    assert flag_bands(scores.numpy().astype(float) * 0 + 0.5, (0.5, 0.6, 0.4)).tolist() == [[False, True, False]] * 2
    assert flag_bands(scores, 1.1).all() and not flag_bands(scores, -1).any()


scores_table = st.lists(st.floats(-1, 1), min_size=3, max_size=60).map(lambda s: pd.DataFrame({"band": [BANDS[n % 3] for n in range(len(s))], "score": np.array(s, np.float32)}))


@given(scores_table, st.floats(0, 1), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_quantile_flags_no_more_than_its_share_and_a_little_less(table, share, per_band):
    rule = Rule("quantile", share, per_band)
    flags, groups = rule.flags(table), [table.band == b for b in BANDS] if per_band else [slice(None)]
    for group in groups:
        mine, values = flags[group], table.score[group].to_numpy()
        assert mine.sum() <= np.ceil(share * (len(mine) - 1)) + 1e-9
        if len(set(values)) == len(values):
            assert mine.sum() >= np.floor(share * (len(mine) - 1) - 1e-6)  # a cut between neighbours may round to the lower one
    assert (flags == (table.score.to_numpy() < table.band.map(rule.cuts(table)).to_numpy())).all()


def test_rules_by_hand():
    table = pd.DataFrame({"band": pd.Categorical(["upper", "lower"] * 3, BANDS), "score": [0.95, 0.9, 0.85, 0.7, 0.97, 0.5]})
    assert Rule().flags(table).tolist() == [False, False, True, True, False, True] and Rule().cuts(table) == {"upper": 0.89, "lower": 0.89}
    assert Rule("quantile", 0.5).flags(table).tolist() == [False, False, True, False, False, True]
    assert Rule("quantile", 0.0).flags(table).sum() == 0 and len(Rule("quantile", 0.5).flags(table.iloc[:0])) == 0
    for wrong in (dict(kind="quantil"), dict(kind="quantile", value=1.5), dict(value=float("nan"))):
        with pytest.raises(ValueError):
            Rule(**wrong)


# the localizer


LENGTHS = (5, 1, 2, 9, 4, 7, 1, 3)


@pytest.fixture(scope="module")
def noise():
    return Noise(LENGTHS)


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("reading", ["map", "crop"])
def test_streaming_is_frame_by_frame(noise, centre, reading):
    localizer = OcclusionLocalizer(net(), SIZE, reading, centre, batch_frames=4)
    tracklets = TrackletDataset(noise, noise.gallery, SIZE)
    found = dict(localizer.tracklet_scores(tracklets))
    assert sorted(found) == list(range(len(tracklets)))
    for n, record in enumerate(tracklets.records):
        assert np.allclose(found[n], reference(localizer, noise, record) if record.length > 1 else 1, atol=2e-5)


@pytest.mark.parametrize("options", [dict(batch_frames=1), dict(batch_frames=1000), dict(workers=3, batch_frames=2), dict(bands=2), dict(width=0.5), dict(measure="distance"),
                                     dict(keep=2), dict(keep=4, centre="others"), dict(keep=2, centre="directions", batch_frames=3), dict(keep=3, measure="distance", centre="others")], ids=str)
def test_no_setting_of_memory_or_speed_changes_a_score(noise, options):
    localizer = OcclusionLocalizer(net(), SIZE, **options)
    tracklets = TrackletDataset(noise, noise.gallery, SIZE)
    for n, scores in localizer.tracklet_scores(tracklets):
        if tracklets.records[n].length > 1:
            assert np.allclose(scores, reference(localizer, noise, tracklets.records[n]), atol=2e-5)


def test_the_median_of_a_long_tracklet_is_that_of_evenly_spaced_frames():
    frames = torch.randint(0, 256, (21, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    localizer = OcclusionLocalizer(net(), SIZE, centre="median", keep=5)
    features = localizer.features(frames)
    assert torch.allclose(localizer.scores(frames), F.cosine_similarity(features, tracklet_centre(features[::5], "median"), dim=-1), atol=1e-5)


def test_memory_does_not_grow_with_the_tracklet():
    held, peak = [], []

    class Endless:
        "A tracklet of many frames that never exist together."
        lengths = np.array([4000])

        def fetch(self, index, frames):
            assert len(index) <= 64
            return torch.from_numpy(np.random.default_rng(int(frames[0])).integers(0, 256, (len(index), 3, *SIZE), np.uint8)), np.arange(len(index))

    class Watched(OcclusionLocalizer):
        def features(self, frames):
            import weakref
            found = super().features(frames)
            held.append(weakref.ref(found))
            peak.append(sum(r() is not None and len(r()) for r in held))
            return found

    for centre in CENTRES:
        (_, scores), = Watched(net(), SIZE, centre=centre, batch_frames=64, keep=128).tracklet_scores(Endless())
        assert scores.shape == (4000, 3) and scores.abs().max() <= 1
    assert max(peak) <= 128 + 3 * 64


def test_one_pass_of_the_network_per_frame_and_full_batches(noise):
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x

    list(OcclusionLocalizer(Counting().eval(), SIZE, batch_frames=6).tracklet_scores(TrackletDataset(noise, noise.gallery, SIZE)))
    total = sum(r.length for r in noise.gallery)
    assert sum(seen) == total and len(seen) == -(-total // 6)


def test_the_table(noise):
    localizer, ticks = OcclusionLocalizer(net(), SIZE, keep=3, rule=Rule("quantile", 0.2)), []
    table = localizer.localize(noise, noise.gallery, "gallery", ticks.append)
    assert tuple(table.columns) == COLUMNS and len(table) == 3 * sum(r.length for r in noise.gallery) and ticks[-1] == sum(r.length for r in noise.gallery)
    assert list(table.tracklet.unique()) == [r.name for r in noise.gallery] and set(table.split) == {"gallery"}
    for record in noise.gallery:
        part = table[table.tracklet == record.name]
        assert part.frame.tolist() == np.repeat(np.arange(record.length), 3).tolist() and part.band.tolist() == [*BANDS] * record.length
        if record.length > 1:
            assert np.allclose(part.score, reference(localizer, noise, record).ravel(), atol=2e-5)
    single = table[table.tracklet.isin([r.name for r in noise.gallery if r.length == 1])]
    assert (single.score == 1).all() and not single.flagged.any() and table.flagged.any()
    assert localizer.localize(noise).tracklet.nunique() == len(noise.train)


def test_the_localizer_refuses(noise):
    localizer = OcclusionLocalizer(net(), SIZE)
    with pytest.raises(ValueError, match="same size"):
        localizer.localize(TrackletDataset(noise, noise.gallery, (48, 24)))
    with pytest.raises(ValueError, match="training mode"):
        replace(localizer, network=net().train()).localize(noise)
    with pytest.raises(ValueError, match="no frames"):
        list(localizer.tracklet_scores(TrackletDataset(noise, [TrackletRecord("empty", 1, 1, 0)], SIZE)))
    with pytest.raises(ValueError, match="no frames"):
        localizer.scores(torch.zeros(0, 3, *SIZE, dtype=torch.uint8))
    broken = net()
    broken[0].bias.data[0] = float("nan")
    for keep in (2, 100):
        with pytest.raises(ValueError, match="NaN or infinity"):
            replace(localizer, network=broken, keep=keep).localize(noise)
    for wrong in (dict(reading="maps"), dict(centre="x"), dict(measure="x"), dict(centre="directions", measure="distance"), dict(batch_frames=0), dict(keep=1), dict(workers=-1), dict(width=0), dict(bands=0)):
        with pytest.raises(ValueError):
            replace(localizer, **wrong)


def test_an_unreadable_frame_is_named_also_from_a_thread(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.png").write_bytes(b"no picture")
    record = TrackletRecord("x", 1, 1, 1, folder=str(tmp_path / "x"), files=("1.png",))
    source = VideoReIDSet("broken", [record], (), ())
    for workers in (0, 2):
        with pytest.raises(ValueError, match="1.png"):
            OcclusionLocalizer(net(), SIZE, workers=workers).localize(source)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_ahead_keeps_order_is_lazy_and_passes_errors(workers):
    asked = []
    assert list(ahead(lambda n: n * n, range(7), workers)) == [n * n for n in range(7)]
    stream = ahead(lambda n: asked.append(n) or n, range(100), workers)
    assert next(stream) == 0 and len(asked) <= workers + 1
    stream.close()
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda n: 1 // (2 - n), range(5), workers))


# tables, files, whole sets


def test_frames_and_report_by_hand():
    table = pd.DataFrame({"split": "query", "tracklet": ["a"] * 6 + ["b"] * 3, "frame": [0, 0, 0, 1, 1, 1, 0, 0, 0], "band": [*BANDS] * 3,
                          "score": 0.5, "flagged": [False] * 5 + [True] + [True] * 3})
    assert frame_flags(table).occluded.tolist() == [False, True, True]
    assert flag_report(table) == {"bands": 4 / 9, "frames": 2 / 3, "tracklets": 1.0, "without an unoccluded frame": 1}


def test_equal_names_in_two_splits_stay_apart():
    table = pd.DataFrame({"split": ["train", "query"], "tracklet": "0001/0001", "frame": 0, "band": "upper", "score": 0.5, "flagged": [True, False]})
    assert frame_flags(table).occluded.tolist() == [True, False] and flag_report(table)["tracklets"] == 0.5


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_files_give_back_what_was_written(noise, tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    table = OcclusionLocalizer(net(), SIZE, rule=Rule("quantile", 0.3)).localize(noise, noise.gallery, "NA")
    write_scores(table, tmp_path / f"t{ending}")
    back = read_scores(tmp_path / f"t{ending}")
    for name in COLUMNS:
        assert back[name].tolist() == table[name].tolist(), name
    assert [p.name for p in tmp_path.iterdir()] == [f"t{ending}"] and (Rule("quantile", 0.3).flags(back) == back.flagged).all()


def test_files_say_what_is_wrong(noise, tmp_path):
    table = OcclusionLocalizer(net(), SIZE).localize(noise)
    write_scores(table, tmp_path / "t.csv.gz")
    whole = (tmp_path / "t.csv.gz").read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "hole.csv").write_text("split,tracklet,frame,band,score,flagged\ntrain,a,0,upper,,True\n")
    for name in ("cut.csv.gz", "other.csv", "hole.csv"):
        with pytest.raises(ValueError, match=re.escape(name)):
            read_scores(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_scores(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=".csv, .csv.gz, .parquet"):
        write_scores(table, tmp_path / "t.txt")


def test_parquet_without_pyarrow_is_one_line(noise, tmp_path, monkeypatch):
    def absent(*args, **kwargs):
        raise ImportError("no pyarrow")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", absent)
    with pytest.raises(ValueError, match="pyarrow"):
        write_scores(OcclusionLocalizer(net(), SIZE).localize(noise), tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part_frames", [1, 7, 10**6])
def test_a_set_has_each_tracklet_once_whatever_the_parts(noise, part_frames):
    table = localize_set(OcclusionLocalizer(net(), SIZE, rule=Rule("quantile", 0.2)), noise, part_frames=part_frames, progress="off")
    assert len(table) == 3 * sum(LENGTHS) and not table.duplicated(["split", "tracklet", "frame", "band"]).any()
    split = table.drop_duplicates("tracklet").set_index("tracklet").split.to_dict()
    assert split == {r.name: "train" if r in noise.train else "query" if r in noise.query else "gallery" for r in {*noise.train, *noise.gallery}}
    assert (Rule("quantile", 0.2).flags(table) == table.flagged).all() and table.tracklet.dtype == "category"
    for record in noise.gallery:
        if record.length > 1:
            assert np.allclose(table[table.tracklet == record.name].score, reference(OcclusionLocalizer(net(), SIZE), noise, record).ravel(), atol=2e-5)


class Stopping(OcclusionLocalizer):
    "Counts frames, and is interrupted after some."
    seen, limit = 0, 10**9

    def features(self, frames):
        if self.seen >= self.limit:
            raise KeyboardInterrupt
        self.seen += len(frames)
        return super().features(frames)


def test_an_interrupted_set_is_taken_up(noise, tmp_path):
    path, whole = tmp_path / "scores.csv.gz", localize_set(OcclusionLocalizer(net(), SIZE), noise, part_frames=6, progress="off")
    first, second, other = (Stopping(net(seed), SIZE, batch_frames=3) for seed in (0, 0, 1))
    first.limit = 20
    with pytest.raises(KeyboardInterrupt):
        localize_set(first, noise, path, part_frames=6, progress="off")
    assert not path.exists() and list((tmp_path / "scores.csv.gz.parts").iterdir())
    aside = localize_set(other, noise, path, part_frames=6, progress="off")
    assert other.seen == sum(LENGTHS) and not np.allclose(aside.score, whole.score)
    again = localize_set(second, noise, path, part_frames=6, progress="off")
    assert 0 < second.seen < sum(LENGTHS) and np.allclose(again.score, whole.score, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv.gz"] and read_scores(path).score.tolist() == again.score.tolist()


def test_parts_belong_to_weights_and_settings(noise):
    base = OcclusionLocalizer(net(), SIZE)
    key = lambda localizer: score_tables._key(localizer, noise, 100)
    assert key(base) == key(replace(base, network=net(), batch_frames=7, workers=2, rule=Rule(value=0.5)))
    others = [replace(base, **change) for change in (dict(network=net(1)), dict(reading="crop"), dict(centre="median"), dict(width=0.5), dict(bands=2), dict(keep=9), dict(measure="distance"))]
    assert len({key(base), *map(key, others)}) == 8 and key(base) != score_tables._key(base, Noise((4, 4, 4)), 100)
    function = replace(base, network=lambda x: x)
    assert key(function) != key(function)


def test_a_wrong_ending_is_refused_before_anything_is_scored(noise, tmp_path):
    localizer = Stopping(net(), SIZE)
    with pytest.raises(ValueError, match=".parquet"):
        localize_set(localizer, noise, tmp_path / "scores.xls", progress="off")
    assert localizer.seen == 0


def test_progress_lines(noise, capsys):
    localize_set(OcclusionLocalizer(net(), SIZE), noise, progress="lines")
    assert f"{sum(LENGTHS)}/{sum(LENGTHS)} (100 %)" in capsys.readouterr().err


def test_score_table_refuses_nothing():
    with pytest.raises(ValueError, match="no tracklet"):
        score_table([], [])


# measures


flat = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), st.booleans(), st.integers(0, 4)), min_size=2, max_size=60)


@given(flat)
@settings(max_examples=150, deadline=None)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    scores, occluded, _ = map(np.array, zip(*rows))
    pairs = [(a < b) + 0.5 * (a == b) for a in scores[occluded] for b in scores[~occluded]]
    assert np.isclose(score_auc(scores, occluded), np.mean(pairs) if pairs else np.nan, equal_nan=True)
    assert np.isclose(score_auc(-scores, occluded), 1 - score_auc(scores, occluded), equal_nan=True)
    assert np.isclose(score_auc(np.exp(7 * scores), occluded), score_auc(scores, occluded), equal_nan=True)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(lambda rows: len({kind for _, kind in rows}) == 2))
@settings(deadline=None)
def test_the_roc_counts_what_each_threshold_flags_and_its_area_is_the_auc(rows):
    scores, occluded = np.array([score / 6 for score, _ in rows]), np.array([kind for _, kind in rows])
    roc = roc_curve(scores, occluded)
    assert roc.threshold.is_monotonic_increasing and set(roc.threshold) == {*scores, np.inf}
    for row in roc.itertuples():
        flagged = flag_bands(scores, row.threshold)
        assert np.isclose(row.hits, flagged[occluded].mean()) and np.isclose(row.false_alarms, flagged[~occluded].mean())
    area = ((roc.hits + roc.hits.shift()) / 2 * roc.false_alarms.diff()).sum()
    assert np.isclose(area, score_auc(scores, occluded)) and roc.iloc[0, 1:].tolist() == [0, 0] and roc.iloc[-1, 1:].tolist() == [1, 1]


def test_a_roc_takes_tables_of_any_shape_and_refuses_what_has_none():
    perfect = roc_curve(np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([[True, False], [True, False]]))
    assert perfect.hits.tolist() == [0, 0.5, 1, 1, 1] and perfect.false_alarms.tolist() == [0, 0, 0, 0.5, 1]
    for bad, words in ((lambda: roc_curve([0.1, 0.2], [True, True]), "of one kind"), (lambda: roc_curve([], []), "of one kind"), (lambda: roc_curve([0.1], [True, False]), "1 scores for 2 bands"),
                       (lambda: roc_curve([np.nan, 0.1], [True, False]), "NaN")):
        with pytest.raises(ValueError, match=words):
            bad()


def test_auc_at_its_ends():
    assert score_auc([0.1, 0.2, 0.8], [True, True, False]) == 1 and score_auc([0.9, 0.2], [True, False]) == 0 and score_auc([0.5, 0.5], [True, False]) == 0.5
    assert np.isnan(score_auc([], [])) and np.isnan(score_auc([1.0], [True])) and score_auc(np.array([[0.1, 0.9]]), np.array([[True, False]])) == 1


@given(flat)
@settings(max_examples=60, deadline=None)
def test_a_drawn_set_of_tracklets_is_weighed_as_if_it_were_copied(rows):
    from dgnb.vrstc.localizer_truth import _weighted_auc
    scores, occluded, group = map(np.array, zip(*rows))
    times = np.arange(5) % 3
    copied = np.repeat(np.arange(len(rows)), times[group])
    weighted = _weighted_auc(np.unique(scores, return_inverse=True)[1], occluded, times[group].astype(float))
    assert np.isclose(weighted, score_auc(scores[copied], occluded[copied]), equal_nan=True)


def test_intervals_hold_the_value_and_pair_the_draws():
    rng = np.random.default_rng(0)
    group, occluded = np.repeat(np.arange(40), 10), rng.random(400) < 0.3
    noisy = rng.normal(size=400) - 0.8 * occluded
    found = auc_interval(noisy, occluded, group, resamples=300)
    assert found.low < found.mean < found.high and found.mean == score_auc(noisy, occluded) and found.queries == 40
    assert auc_interval(noisy, occluded, group, resamples=300) == found != auc_interval(noisy, occluded, group, resamples=300, seed=1)
    same = auc_interval(noisy, occluded, group, other=2 * noisy + 1, resamples=50)
    assert same.mean == same.low == same.high == 0
    better = auc_interval(noisy - 3 * occluded, occluded, group, other=noisy, resamples=100)
    assert better.low > 0 and np.isclose(better.mean, score_auc(noisy - 3 * occluded, occluded) - found.mean)
    twice = auc_interval(np.tile(noisy, 4), np.tile(occluded, 4), np.tile(group, 4), resamples=300)
    assert np.isclose(twice.high - twice.low, found.high - found.low), "copies of a tracklet's bands are no new evidence"


def test_measures_refuse():
    for bad in (lambda: score_auc([0.1], [True, False]), lambda: score_auc([np.nan, 0.1], [True, False]), lambda: auc_interval([0.1, 0.2], [True, True], [0, 1]),
                lambda: auc_interval([0.1, 0.2], [True, False], [0]), lambda: auc_interval([0.1, 0.2], [True, False], [0, 1], other=[0.1])):
        with pytest.raises(ValueError):
            bad()


def test_by_share_by_hand():
    occluded = np.array([1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1], bool)
    groups = np.array([0] * 5 + [1] * 5 + [2] * 4 + [3] * 4)
    scores = np.array([0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2])
    table = auc_by_share(scores, occluded, groups, (0, 0.5, 1))
    assert table.auc.tolist() == [1.0, 0.0] and table.groups.tolist() == [1, 1] and table.occluded.tolist() == [1, 4]


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", scale="smoke", seed=1, train_identities=2, test_identities=6, test_tracklets=2, distractors=0, junk=0, occlusion=dict(share=1.0, duration=(0.1, 0.4)))


def test_truth_beside_scores(world):
    records = world.gallery[:5]
    localizer = OcclusionLocalizer(lambda frames: frames, (64, 32), measure="distance", centre="median", rule=Rule("quantile", 0.2))
    table = with_truth(localizer.localize(world, records), world.occlusions(records))
    expected = world.occlusions(records)
    for record in records:
        mine, truth = table[table.tracklet == record.name], expected[expected.tracklet == record.name]
        assert np.array_equal(mine.hidden.to_numpy().reshape(-1, 3), truth[list(BANDS)].to_numpy())
    with pytest.raises(ValueError, match="exactly one row"):
        with_truth(table, world.occlusions(records[:2]))
    with pytest.raises(ValueError, match="exactly one row"):
        with_truth(table, pd.concat([expected, expected]))


def test_colour_finds_occluders_and_the_median_does_not_lose_to_the_mean(world):
    records = list(world.gallery)
    found = {}
    for centre in ("mean", "median"):
        localizer = OcclusionLocalizer(lambda frames: frames, (64, 32), measure="distance", centre=centre)
        table = with_truth(localizer.localize(world, records), world.occlusions(records))
        found[centre] = score_auc(table.score, table.hidden >= 0.2)
    assert found["mean"] > 0.7 and found["median"] >= found["mean"] - 0.01


# pictures


@pytest.mark.parametrize("length", [1, 5, 40])
def test_pictures(length):
    rng = np.random.default_rng(0)
    frames, scores, hidden = rng.integers(0, 256, (length, *SIZE, 3), np.uint8), rng.random((length, 3)), rng.random((length, 3))
    fig = draw_scores(list(frames), scores, (0.3, 0.5, 0.7), hidden, hidden[:, 0, None, None] * np.ones((1, *SIZE)) > 0.5)
    fig.savefig(io.BytesIO(), format="png")
    lines = [ax for ax in fig.axes if ax.get_ylabel()]
    assert [ax.get_ylabel() for ax in lines] == list(BANDS) and len(fig.axes[0].images) <= 16
    for k, ax in enumerate(lines):
        crossed = [line.get_xdata() for line in ax.lines if line.get_marker() == "X"]
        assert crossed[0].tolist() == np.flatnonzero(scores[:, k] < (0.3, 0.5, 0.7)[k]).tolist()


def test_pictures_refuse():
    for frames, scores in (([], np.zeros((0, 3))), ([np.zeros((4, 4, 3), np.uint8)], np.zeros((2, 3))), ([np.zeros((4, 4, 3), np.uint8)], np.zeros(1))):
        with pytest.raises(ValueError, match="T x bands"):
            draw_scores(frames, scores)


def test_the_trained_network_in_one_line():
    seed_everything("test")
    network = VideoReIDNetwork(3, "resnet10t", truncate=2).eval()
    scores = OcclusionLocalizer(network, (64, 32)).scores(torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8))
    assert scores.shape == (4, 3) and (scores <= 1).all() and (scores > 0).all(), "features behind a ReLU have no negative cosines"
