"""What the drawings of VRSTC are made from: which frames are shown, what attention is asked, and where a point of the surface went."""
import numpy as np
import pytest
import torch

from dgnb.run_store import RunSpec, RunStore
from dgnb.tracklets import TrackletRecord
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.against_truth import pictures
from dgnb.vrstc.glimpses import SurfaceMap, _cuts, _ends_up, attention_rows, best_window, counterparts, glimpse_spec, matches_spec, surface_map
from dgnb.vrstc.pipeline import VRSTCPlan, kinds_of_video, stages
from dgnb.vrstc.step import STCnet, stcnet_settings

TINY = VRSTCPlan("smoke", reid={"epochs": 1, "frames": 2}, stcnet={"channels": 2, "critic_channels": 2, "batch": 4, "iterations": 4})


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", "smoke", longest=8, mean_length=6, distractors=2, junk=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped="none")


def get(store, spec):
    return store.get(spec, train=True, progress="off")


# which frames

def table(*rows):
    """Flags of a tracklet: one word for each frame, such as "lower", "upper+lower" or ""."""
    return np.array([["upper" in row, "middle" in row, "lower" in row] for row in rows])


def window_of(*tracklets, length=5):
    records = [TrackletRecord(f"t{n}", 1, 1, len(rows), n) for n, rows in enumerate(tracklets)]
    flags = {record: table(*rows) for record, rows in zip(records, tracklets)}
    scores = {record: np.where(mine, 0.5, 0.9) for record, mine in flags.items()}
    return best_window(flags, scores, length), scores


def test_the_window_is_clean_at_its_ends():
    window, _ = window_of(["lower"] * 3 + [""] * 4, ["", "", "lower", "lower", "lower", "", ""])
    assert window.record.name == "t1" and window.start == 1 and (window.frame, window.previous, window.next) == (3, 1, 5) and window.rows == slice(1, 6)


def test_one_band_is_preferred_and_more_frames():
    assert window_of(["", "lower", "upper", "lower", ""], ["", "lower", "lower", "", ""])[0].record.name == "t1"
    assert window_of(["", "lower", "", "", ""], ["", "lower", "lower", "lower", ""])[0].record.name == "t1"


def test_short_tracklets_and_none_at_all():
    window, _ = window_of(["", "lower", ""])
    assert (window.start, window.length, window.frame) == (0, 3, 1)
    with pytest.raises(ValueError, match="flag a larger share"):
        window_of([""] * 6)
    with pytest.raises(ValueError, match="no frame is flagged and can be repaired"):
        window_of(["lower"] * 6)


def test_cuts_lie_between_flagged_and_not():
    record = TrackletRecord("t", 1, 1, 3, 0)
    flags, scores = {record: table("lower", "", "")}, {record: np.array([[0.9, 0.9, 0.5], [0.8, 0.9, 0.7], [0.9, 0.9, 0.9]])}
    assert _cuts(flags, scores, [record]).tolist() == pytest.approx([0.8, 0.9, 0.6])  # a band without flags: just its lowest score


# surfaces

@pytest.mark.parametrize("size", [(64, 32), (128, 64)])
def test_the_surface_covers_the_silhouette(world, size):
    record = max(world.query, key=lambda one: one.length)
    surface = surface_map(world, record.index, [0, 3], size)
    assert torch.equal(surface.slot >= 0, world.film(record, [0, 3], size=size).silhouette.cpu())


def test_a_point_is_its_own_counterpart_and_follows_a_shift(world):
    record = max(world.query, key=lambda one: one.length)
    one = surface_map(world, record.index, [0], (64, 32))
    pixels = np.argwhere(one.slot[0].numpy() >= 0)[::9]
    pair = lambda change: SurfaceMap(*(torch.cat([values, change(values)]) for values in (one.slot, one.along, one.around, one.girth)))
    assert np.array_equal(counterparts(pair(lambda v: v), pixels), pixels)
    inside = pixels[(pixels[:, 1] < 30)]
    assert np.array_equal(counterparts(pair(lambda v: v.roll(2, 2)), inside), inside + [0, 2])
    gone = pair(lambda v: torch.full_like(v, -1))
    assert (counterparts(gone, pixels) == -1).all() and (counterparts(pair(lambda v: v), np.array([[0, 0]])) == -1).all()


# attention

def test_rows_of_attention_find_a_copy():
    net = STCnet(stcnet_settings("smoke")).eval()
    frame = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = attention_rows(net, frame, {"previous": frame, "next": frame.roll(8, 2)}, (9, 4))
    assert np.unravel_index(found["cosine_previous"].argmax(), (16, 8)) == (9, 4) and found["cosine_previous"].max() == pytest.approx(1, abs=1e-4)  # encoders start alike
    assert np.unravel_index(found["weights_next"].argmax(), (16, 8)) == (11, 4) and found["weights_next"].sum() == pytest.approx(1, abs=1e-5)
    assert {value.shape for value in found.values()} == {(16, 8)}


def test_hits_and_mass():
    rows = torch.full((1, 12, 12), 0.0)
    rows[0, 5, 6] = 1.0  # cell (1, 2) of 3 x 4 asks and looks at (1, 2)
    found = _ends_up(rows[0], np.array([[1, 1], [1, 1]]), np.array([[0, 3], [1, 0]]), (3, 4))
    assert found["hit"].tolist() == [1.0, 0.0] and found["exact"].tolist() == [0.0, 0.0] == found["stays"].tolist() and found["mass"].tolist() == pytest.approx([1 / (4 / 12), 0.0])
    even = _ends_up(torch.full((12, 12), 1 / 12), np.array([[1, 1]]), np.array([[1, 1]]), (3, 4))
    assert even["mass"].tolist() == pytest.approx([1.0])


# runs

def test_a_glimpse_is_of_the_repaired_set(world, store):
    data = kinds_of_video(TINY, world)["repaired"]
    run = get(store, glimpse_spec(data))
    index, start, frame, previous, following = run.per_query["place"].tolist()
    record = world.tracklets[index]
    filmed, repaired, twin = (pictures(run, name) for name in ("filmed", "repaired", "twin"))
    assert len(filmed) == len(repaired) == len(twin) == len(run.per_query["flags"]) <= 5 and run.per_query["flags"][frame].any()
    assert np.abs(filmed[0].astype(int) - world.read_frame(record, start)).mean() < 3 and previous != frame != following
    changed = np.abs(repaired[frame].astype(int) - filmed[frame]).mean((1, 2)) > 8
    assert changed.any() and len(pictures(run, "view")) == 3 and len(pictures(run, "stage")) == 2
    below = run.per_query["scores"] < run.per_query["cuts"]
    assert np.array_equal(below, run.per_query["flags"])
    counted = {name: run.per_query[name].sum() for name in ("flagged", "flagged_hidden", "others", "others_hidden")}
    people = sorted({r for r in (*world.query, *world.gallery) if r.pid > 0})
    truth = world.occlusions(people)[["upper", "middle", "lower"]].to_numpy() >= 0.2
    assert counted["flagged_hidden"] + counted["others_hidden"] == truth.sum() and counted["flagged"] + counted["others"] == truth.size


def test_matches_are_shares(world, store):
    run = get(store, matches_spec(stages(TINY, world)["stcnet"], 6))
    for name in ("coarse_hit", "truth_hit", "fresh_hit", "place_hit", "coarse_exact", "place_exact", "fresh_stays"):
        assert ((0 <= run.per_query[name]) & (run.per_query[name] <= 1)).all(), name
    assert run.metrics["cases"] >= run.metrics["cases_with_questions"] > 0 and (run.per_query["questions"] > 0).all()
    far = run.per_query["far"] > 0
    assert np.array_equal(np.isfinite(run.per_query["coarse_far_hit"]), far) and not run.per_query["place_far_hit"][far].any()  # who has moved is not in place
    assert (run.per_query["coarse_exact"] <= run.per_query["coarse_hit"]).all() and (run.per_query["far"] <= run.per_query["questions"]).all()


def test_names_follow_what_they_are_about(world):
    data = kinds_of_video(TINY, world)["repaired"]
    assert glimpse_spec(data).key != glimpse_spec(data, length=4).key and isinstance(matches_spec(stages(TINY, world)["stcnet"]), RunSpec)


def test_a_set_on_disk_has_a_glimpse_and_no_truth(world, store, tmp_path):
    from dgnb.video_files import write_video_set
    from dgnb.video_sets import load_video_set
    write_video_set(world, tmp_path / "mars")
    real = load_video_set("mars", tmp_path / "mars", strict=False)
    plan = VRSTCPlan("smoke", reid=TINY.reid, stcnet={**TINY.stcnet, "clean": "scores", "rule": "quantile", "tau": 0.1})
    run = get(store, glimpse_spec(kinds_of_video(plan, real)["repaired"]))
    assert not pictures(run, "twin") and "flagged_hidden" not in run.per_query and len(pictures(run, "repaired")) == len(run.per_query["flags"])
    with pytest.raises(Exception, match="no exact masks and no twins"):
        get(store, matches_spec(stages(plan, real)["stcnet"], 2))
