"""Occlusion from nothing to nearly everything: what is filmed, completed features by hand, and a run from end to end."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgnb.run_store import RunStore
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.pipeline import VRSTCPlan
from dgnb.vrstc.severity import TREATMENTS, completed_features, severity_data, severity_spec, visible_mean
from dgnb.vrstc.video_reid import VideoReIDNetwork
from dgnb.vrstc.video_training import describe_tracklets, open_video_data

torch.set_num_threads(1)
SIZE = (64, 32)


@pytest.fixture(scope="module")
def town():
    return make_video_world("mannequin-mars", "smoke", longest=6, mean_length=5, train_identities=4, distractors=1, junk=1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VideoReIDNetwork(4, "resnet10t", truncate=2).eval()


@given(st.integers(1, 6), st.integers(0, 2**18 - 1))
def test_the_visible_mean_is_a_mean_over_what_is_seen(frames, bits):
    flags = np.array([bits >> n & 1 for n in range(3 * frames)], bool).reshape(frames, 3)
    features = torch.arange(3 * frames * 2, dtype=torch.float64).view(frames, 3, 2) ** 1.5
    found = visible_mean(features, flags)
    for band in range(3):
        seen = [n for n in range(frames) if not flags[n, band]] or range(frames)
        assert torch.allclose(found[band], features[list(seen), band].mean(0))


def test_the_same_walks_with_more_and_less_in_front(town):
    shares = {}
    for duration in (0.0, 0.2, 1.0):
        world = open_video_data(severity_data(town, duration))
        assert world.query == town.query and np.array_equal(world.film(0).twins.cpu(), town.film(0).twins.cpu())
        shares[duration] = (world.occlusions(world.query).hidden > 0.05).mean()
    assert shares[0.0] == 0 < shares[0.2] < shares[1.0]
    with pytest.raises(ValueError, match="0 to 1"):
        severity_data(town, 1.5)


def test_completed_features_without_and_with_flags(town, network):
    records = sorted(town.query)[:3]
    usual = describe_tracklets(network, town, records, SIZE)
    none = {record: np.zeros((record.length, 3), bool) for record in records}
    assert torch.allclose(completed_features(network, town, records, SIZE, none), usual, atol=1e-5)
    some = {record: np.zeros((record.length, 3), bool) for record in records}
    some[records[1]][0, 2] = True
    found = completed_features(network, town, records, SIZE, some)
    assert torch.allclose(found[[0, 2]], usual[[0, 2]], atol=1e-5) and not torch.allclose(found[1], usual[1], atol=1e-4)
    with pytest.raises(ValueError, match="without non-local"):
        completed_features(VideoReIDNetwork(4, "resnet10t", "every-other", truncate=1).eval(), town, records, SIZE, none)


def test_a_severity_is_tested_in_every_way(town, tmp_path):
    store = RunStore(local=tmp_path, shipped=tmp_path)
    plan = VRSTCPlan("smoke", reid={"epochs": 1}, stcnet={"iterations": 2, "channels": 2, "critic_channels": 2})
    hidden, clear = (store.get(severity_spec(plan, town, duration), train=True, progress="off") for duration in (0.6, 0.0))
    assert {f"ap_{name}" for name in TREATMENTS} == hidden.per_query.keys() and list(clear.per_query) == ["ap_raw"]
    assert len({len(values) for values in hidden.per_query.values()} | {len(clear.per_query["ap_raw"])}) == 1
    assert 0 < hidden.metrics["bands_hidden"] < hidden.metrics["frames_hidden"] <= 1
