"""DG-Net's appearance encoder as STCnet's guide: mean codes, the guide itself, and the run."""
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dgnb.augmentation import normalise
from dgnb.dgnet.appearance import AppearanceEncoder
from dgnb.dgnet.joint import dgnet_spec
from dgnb.dgnet.step import dgnet_settings
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.together.guiding import AppearanceGuider, guiding_settings, guiding_spec, load_guided, mean_codes, recognised, sensed, senses_spec
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.critics import check_guider, identity_loss
from dgnb.vrstc.holes import twin_cases
from dgnb.vrstc.stcnet import stcnet_settings, stcnet_spec, train_stcnet, training_flags
from dgnb.vrstc.video_training import training_tracklets, video_settings, video_spec
from dgnb.worlds import make_world

TINY = stcnet_settings("smoke", channels=2, critic_channels=2, batch=4, iterations=4)


@pytest.fixture(scope="module")
def town():
    return make_video_world("mannequin-mars", "smoke", longest=6, mean_length=5, train_identities=4, distractors=1, junk=1)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return AppearanceEncoder(4, "resnet10t", 8, truncate=2).eval()


@pytest.fixture(scope="module")
def tracklets(town):
    return training_tracklets(town, (64, 32))


@pytest.mark.parametrize("frames", [1, 7, 512])
def test_mean_codes_are_means_over_all_frames_of_a_person(encoder, tracklets, frames):
    found = mean_codes(encoder, tracklets, frames)
    owner = np.repeat(tracklets.labels, tracklets.lengths)
    with torch.no_grad():
        codes = encoder.codes(normalise(tracklets.pixels))
    assert len(found) == 4
    for label in range(4):
        assert torch.allclose(found[label], codes[torch.as_tensor(owner == label)].mean(0), atol=1e-4)


def test_a_guide_scores_by_the_angle_from_the_middle(encoder, tracklets):
    codes = mean_codes(encoder, tracklets)
    guide, images = AppearanceGuider(encoder, (64, 32), codes, 0.5), tracklets.pixels[:5].float() / 127.5 - 1
    found = guide(images)
    with torch.no_grad():
        own = encoder.codes(normalise(tracklets.pixels[:5]))
    assert torch.allclose(found, F.cosine_similarity(own[:, None] - codes.mean(0), codes - codes.mean(0), dim=-1) / 0.5, atol=1e-4)
    assert found.abs().max() <= 2 + 1e-5 and guide.num_classes == 4
    larger = F.interpolate(images, (128, 64), mode="bilinear")
    assert guide(larger).shape == (5, 4)


def test_a_guide_gives_gradients_to_pixels_and_none_to_weights(encoder, tracklets):
    guide = AppearanceGuider(encoder, (64, 32), mean_codes(encoder, tracklets)).train()
    images = (tracklets.pixels[:2].float() / 127.5 - 1).requires_grad_()
    identity_loss(guide(images), torch.tensor([0, 1])).backward()
    assert images.grad.abs().sum() > 0 and not guide.training and all(p.grad is None for p in guide.parameters())


def test_a_guide_of_fewer_people_is_refused(encoder, tracklets, town):
    guide = AppearanceGuider(encoder, (64, 32), mean_codes(encoder, tracklets)[:3])
    with pytest.raises(ValueError, match="tells 3 people apart"):
        check_guider(guide, town)
    with pytest.raises(ValueError, match="tells 3 people apart"):
        train_stcnet(town, TINY, guider=guide, progress="off")


def test_training_mode_is_refused(tracklets):
    with pytest.raises(ValueError, match="training mode"):
        mean_codes(AppearanceEncoder(4, "resnet10t", 8, truncate=2), tracklets)


def test_a_guide_serves_the_localizer_too(encoder, tracklets, town):
    guide = AppearanceGuider(encoder, (64, 32), mean_codes(encoder, tracklets))
    table = training_flags(tracklets, replace(TINY, clean="scores", rule="quantile", tau=0.2), guide)
    assert len(table) == 3 * tracklets.lengths.sum() and 0.1 < table.flagged.mean() < 0.3
    assert 0 <= recognised(guide, town) <= 1


def test_the_run_is_that_of_stcnet_but_for_the_guide(town, tmp_path):
    photographs = make_world("mannequin-market", "smoke", train_identities=4, test_identities=3, distractors=2, junk=1)
    spec = guiding_spec(town, TINY, dgnet_spec(photographs, dgnet_settings("smoke", iterations=2)))
    assert guiding_settings(spec) == TINY and spec == RunSpec(**spec.as_dict())
    run = RunStore(local=tmp_path, shipped="none").get(spec, train=True, weights=True, progress="off")
    assert 0 <= run.metrics["recognised"] <= 1 and len(run.per_query["twins_tracklet"]) == len(run.per_query["twins_stcnet_psnr"])
    other = RunStore(local=tmp_path, shipped="none").get(stcnet_spec(town, TINY), train=True, weights=True, progress="off")
    assert run.log.l1_coarse[0] == pytest.approx(other.log.l1_coarse[0], rel=1e-4)  # the same start, the same exercises
    assert np.array_equal(run.per_query["twins_gap"], other.per_query["twins_gap"])  # and the same cases
    assert not load_guided(run).training
    with pytest.raises(RunStoreError, match="not of 'stcnet-appearance'"):
        load_guided(other)


def test_nothing_to_replace_is_refused(town):
    with pytest.raises(ValueError, match="no guider"):
        guiding_spec(town, stcnet_settings("smoke", "global"), stcnet_spec(town, TINY))


def test_a_guide_is_asked_about_the_frame_and_about_its_twin(encoder, tracklets, town):
    guide, cases = AppearanceGuider(encoder, (64, 32), mean_codes(encoder, tracklets)), twin_cases(town, town.train, (64, 32), 6)
    label = torch.arange(len(cases)) % 4
    found = sensed(guide, cases, label, batch=4)
    for name, images in (("occluded", cases.frame), ("truth", cases.truth)):
        assert np.allclose(found[name], F.cross_entropy(guide(images), label, reduction="none").detach(), atol=1e-5)
    assert not np.allclose(found["occluded"], found["truth"])


def test_the_run_asks_both_guides_about_the_same_frames(town, tmp_path):
    photographs = make_world("mannequin-market", "smoke", train_identities=4, test_identities=3, distractors=2, junk=1)
    spec = senses_spec(dgnet_spec(photographs, dgnet_settings("smoke", iterations=2)), video_spec(town, video_settings("smoke", epochs=1, frames=2, batch=4)), count=6)
    run = RunStore(local=tmp_path, shipped="none").get(spec, train=True, progress="off")
    arrays = run.per_query
    assert {len(values) for values in arrays.values()} == {run.metrics["cases"]} and run.metrics["cases"] <= 6
    assert arrays["tracklet"].max() + 1 == run.metrics["tracklets"] and {"E_a_truth", "E_a_occluded", "own_truth", "own_occluded"} <= arrays.keys()
    assert 0 <= run.metrics["recognised_E_a"] <= 1 and 0 <= run.metrics["recognised_own"] <= 1
