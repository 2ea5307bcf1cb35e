"""STCnet and the re-ID network in one loop: the control, the feed, interruption, and the run."""
from dataclasses import replace

import pytest
import torch

from dgnb.augmentation import normalise
from dgnb.run_store import RunStore, RunStoreError
from dgnb.scales import deterministic, seed_everything
from dgnb.together.online import ClipsAndHoles, Feed, completed_clips, in_step, load_online, online_spec, train_online
from dgnb.training import make_fabric
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.pipeline import VRSTCPlan, scores, stages
from dgnb.vrstc.stcnet import STCnet, make_loader, stcnet_settings
from dgnb.vrstc.video_training import clip_loader, train_video_network, training_tracklets, video_settings

REID = video_settings("smoke", epochs=2, frames=2, batch=4)


@pytest.fixture(scope="module")
def town():
    deterministic(1)
    return make_video_world("mannequin-mars", "smoke", longest=5, mean_length=5, train_identities=4, distractors=1, junk=1)


@pytest.fixture(scope="module")
def paint(town):
    return in_step(stcnet_settings("smoke", "local", channels=2, critic_channels=2, batch=4, only_l1=0.3), REID, town)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def trained(town, paint, feed):
    seed_everything("video-reid", 3)
    return train_online(town, REID, paint, feed, 3, progress="off")


def test_without_a_feed_it_is_the_network_that_was_trained_alone(town, paint):
    seed_everything("video-reid", 3)
    alone, _ = train_video_network(town, REID, 3, progress="off")
    network, net, log = trained(town, paint, Feed(0))
    assert same(alone, network) and not any("fed" in row for row in log)
    fed, other, log = trained(town, paint, Feed(0.5, 0.5))
    assert not same(alone, fed) and same(net, other)  # the feed reaches the re-ID network, and STCnet never notices
    assert "fed" not in log[0] and log[-1]["fed"] > 0


def test_the_feed_begins_when_it_should(town, paint):
    late, never = trained(town, paint, Feed(0.5, 1.0))[0], trained(town, paint, Feed(0))[0]
    assert same(late, never)


def test_completed_clips_are_the_frames_with_their_holes_painted(town, paint):
    holes = next(iter(make_loader(town, paint, 0, None, None, make_fabric())))
    torch.manual_seed(0)
    net, before = STCnet(paint), torch.get_rng_state()
    clips = completed_clips(net, holes, (64, 32))
    assert clips.shape == (4, 1, 3, 64, 32) and not clips.requires_grad and net.training
    assert torch.equal(before, torch.get_rng_state())
    given = normalise((holes["frame"] + 1) * 127.5)
    outside = (holes["mask"] == 0).expand(-1, 3, -1, -1)
    assert torch.allclose(clips[:, 0][outside], given[outside], atol=1e-4) and not torch.allclose(clips[:, 0][~outside], given[~outside], atol=1e-2)
    assert completed_clips(net, holes, (128, 64)).shape[-2:] == (128, 64)


def test_both_streams_find_their_place_again(town, paint):
    def make():
        clips = clip_loader(training_tracklets(town, (64, 32)), batch_size=4, frames=2, stride=3)
        return ClipsAndHoles(clips, make_loader(town, paint, 0, None, None, make_fabric()))
    first, second = make(), make()
    steps = 3 * len(first) + 1
    seen, states = [], []
    batches = (batch for _ in range(5) for batch in first)
    for _ in range(steps):
        batch = next(batches)
        seen.append((batch["clips"]["index"].tolist(), batch["holes"]["index"].tolist()))
        states.append(first.state_dict())
    for place in (0, len(first) - 1, len(first)):
        second.load_state_dict(states[place])
        again = (batch for _ in range(5) for batch in second)
        for wanted in seen[place + 1:place + 3]:
            batch = next(again)
            assert (batch["clips"]["index"].tolist(), batch["holes"]["index"].tolist()) == wanted


def test_an_interrupted_training_ends_where_it_would_have(town, paint, tmp_path):
    whole = trained(town, paint, Feed(0.5, 0.5))

    class Stop(Exception):
        pass

    def stop(loop):
        if loop.iteration == 7:
            raise Stop

    options = {"progress": "off", "checkpoint": tmp_path, "checkpoint_every": 3}
    seed_everything("video-reid", 3)
    with pytest.raises(Stop):
        train_online(town, REID, paint, Feed(0.5, 0.5), 3, callbacks=[(1, stop)], **options)
    seed_everything("something else")
    again = train_online(town, REID, paint, Feed(0.5, 0.5), 3, **options)
    assert same(whole[0], again[0]) and same(whole[1], again[1]) and whole[2][-1]["fed"] == again[2][-1]["fed"]


@pytest.mark.parametrize(("change", "message"), [({"alpha": -1}, "alpha is 0 or more"), ({"start": 1.5}, "from 0 to 1")])
def test_feeds_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Feed(**change)


def test_settings_out_of_step_are_refused(town, paint):
    with pytest.raises(ValueError, match="use in_step"):
        train_online(town, REID, replace(paint, iterations=paint.iterations + 1), progress="off")
    with pytest.raises(ValueError, match="do not fill a batch"):
        in_step(paint, replace(REID, batch=10_000), town)


def test_the_run_keeps_both_networks_and_is_tested_like_its_control(town, tmp_path):
    store = RunStore(local=tmp_path, shipped="none")
    plan = VRSTCPlan("smoke", reid={"epochs": 2, "frames": 2, "batch": 4}, stcnet={"channels": 2, "critic_channels": 2, "batch": 4})
    control = store.get(stages(plan, town)["pretrain"], train=True, weights=True, progress="off")
    runs = {alpha: store.get(online_spec(town, plan.first, plan.completion, Feed(alpha)), train=True, weights=True, progress="off") for alpha in (0.0, 0.2)}
    assert runs[0.0].spec.as_dict()["settings"]["guider"] == control.spec.as_dict()
    mine = runs[0.0].weights("network")
    assert all(torch.equal(mine[name], value) for name, value in control.weights().items())
    assert scores(runs[0.0]).tolist() == scores(control).tolist() and len(scores(runs[0.2])) == len(scores(control))
    assert runs[0.2].metrics["fed"] > 0 and runs[0.2].metrics["completions"]["twins_cases"] > 0
    network, net = load_online(runs[0.2])
    assert not network.training and not net.training
    with pytest.raises(RunStoreError, match="not of 'online-repair'"):
        load_online(control)
