"""DG-Net's appearance encoder as the scorer of VRSTC's localizer: readings, one pass for many networks, judgement, and the run."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.augmentation import normalise
from dgnb.clips import TrackletDataset
from dgnb.dgnet.appearance import AppearanceEncoder
from dgnb.dgnet.joint import dgnet_spec
from dgnb.dgnet.step import dgnet_settings
from dgnb.run_store import RunSpec, RunStore
from dgnb.together.scoring import MARGINS, Seer, StripeCode, groups_of, judge_scores, score_bands, scoring_spec, telling
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.against_truth import unseen_people
from dgnb.vrstc.localizer import OcclusionLocalizer
from dgnb.vrstc.localizer_truth import score_auc
from dgnb.vrstc.video_training import video_settings, video_spec
from dgnb.worlds import make_world


@pytest.fixture(scope="module")
def town():
    return make_video_world("mannequin-mars", "smoke", longest=6, mean_length=5, test_identities=3, distractors=1, junk=1, occlusion={"share": 1.0})


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return AppearanceEncoder(4, "resnet10t", 8, truncate=1).eval()


# the reading

def test_a_code_is_the_maximum_of_each_band(encoder):
    frames = normalise(torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        maps, code = encoder.backbone.maps(frames), StripeCode(encoder).maps(frames)
    rows = maps.shape[-2]
    assert code.shape == (2, maps.shape[1], 3, 1)
    for k in range(3):
        assert torch.equal(code[:, :, k, 0], maps[:, :, rows * k // 3:-(-rows * (k + 1) // 3)].amax((2, 3)))


def test_a_code_in_training_mode_is_refused(encoder):
    coat = StripeCode(encoder)
    assert not coat.training
    encoder.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            coat.maps(torch.zeros(1, 3, 64, 32))
    finally:
        encoder.eval()


# many at once

@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_groups_are_all_tracklets_in_order_and_no_larger_than_asked(lengths, most):
    groups = list(groups_of(lengths, most))
    assert np.concatenate(groups).tolist() == list(range(len(lengths)))
    assert all(len(group) == 1 or sum(lengths[n] for n in group) <= most for group in groups)
    assert all(sum(lengths[n] for n in a) + lengths[b[0]] > most for a, b in zip(groups, groups[1:]))  # none could take one more


@pytest.mark.parametrize("frames", [1, 9, 512])
def test_scores_are_the_localizers_whatever_the_group(town, encoder, frames):
    records = unseen_people(town)
    seers = {"net": Seer(encoder, (64, 32)), "colour": Seer(lambda x: x, (64, 32), "distance")}
    found = score_bands(seers, TrackletDataset(town, records, (64, 32)), frames=frames)
    assert set(found) == {"net, mean", "net, median", "colour, mean", "colour, median"}
    for name, (network, centre, measure) in {"net, median": (encoder, "median", "cosine"), "colour, mean": (lambda x: x, "mean", "distance")}.items():
        table = OcclusionLocalizer(network, (64, 32), centre=centre, measure=measure).localize(town, records)
        assert np.allclose(found[name].ravel(), table.score.to_numpy(), atol=1e-5)


def test_networks_of_another_size_are_refused(town, encoder):
    with pytest.raises(ValueError, match="'large' looks at frames of"):
        score_bands({"large": Seer(encoder, (128, 64))}, TrackletDataset(town, unseen_people(town), (64, 32)))


# the judgement

@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_the_judgement_is_that_of_the_parts(seed):
    draw = np.random.default_rng(seed)
    hidden, owner = np.where(draw.random((40, 3)) < 0.4, draw.random((40, 3)), 0.0), np.repeat(np.arange(8), 5)
    hidden[0], hidden[1] = 0, 1
    good, bad = 1 - hidden + 0.3 * draw.random((40, 3)), draw.random((40, 3))
    scores = {"E_a, maximum, mean": good, "colour, mean": bad}
    judged = judge_scores(scores, hidden, owner, 0.2)
    assert set(judged["margins"]) == {"over colour"} and judged["auc"]["colour, mean"][0] == score_auc(bad, hidden >= 0.2)
    assert judged["margins"]["over colour"][0] == pytest.approx(judged["auc"]["E_a, maximum, mean"][0] - judged["auc"]["colour, mean"][0])
    flagged = good < np.quantile(good, 0.1, axis=0)
    assert judged["flags"]["E_a, maximum, mean"]["recall"] == pytest.approx((flagged & (hidden >= 0.2)).sum() / (hidden >= 0.2).sum())


def test_tracklets_to_look_at_are_where_the_two_differ_most():
    hidden, owner = np.tile([[0.0], [1.0]], (4, 1)), np.repeat(np.arange(4), 2)
    hidden[6:] = 0  # the last tracklet shows nothing
    right, wrong = np.tile([[1.0], [0.0]], (4, 1)), np.tile([[0.0], [1.0]], (4, 1))
    ours, other = right.copy(), right.copy()
    ours[2:4], other[4:6] = wrong[2:4], wrong[4:6]
    assert telling(ours, other, hidden, owner).tolist() == [2, 0, 1]
    assert telling(ours, other, np.zeros_like(hidden), owner).tolist() == []


# the run

def test_the_run_measures_all_of_them(town, tmp_path):
    photographs = make_world("mannequin-market", "smoke", train_identities=4, test_identities=3, distractors=2, junk=1)
    encoder = dgnet_spec(photographs, dgnet_settings("smoke", iterations=2), 1)
    spec = scoring_spec(encoder, video_spec(town, video_settings("smoke", epochs=1, frames=2)))
    assert spec.seed == 1 and spec == RunSpec(**spec.as_dict())
    run = RunStore(local=tmp_path, shipped="none").get(spec, train=True, progress="off")
    names = {f"{who}, {reading}, {centre}" for who in ("E_a", "scorer", "teacher") for reading in ("mean", "maximum") for centre in ("mean", "median")}
    assert set(run.metrics["auc"]) == names | {"colour, mean", "colour, median"} and set(run.metrics["margins"]) == set(MARGINS)
    assert run.metrics["tracklets"] == len(unseen_people(town)) and 0 < run.metrics["occluded"] < 1
    for n, index in enumerate(run.per_query["picked"]):
        assert len(run.per_query[f"ours_{n}"]) == len(run.per_query[f"scorer_{n}"]) == town.tracklets[index].length
