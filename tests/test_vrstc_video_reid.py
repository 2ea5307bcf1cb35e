"""Video re-ID: average, non-local blocks and their places, pieces of long tracklets, settings, recipe, rules of the sets, faults."""
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings as examples, strategies as st
from PIL import Image
from torch import nn

from dgnb.backbones import build_backbone
from dgnb.baseline import weights_name
from dgnb.clips import TrackletCache, TrackletDataset, tracklet_features
from dgnb.layers import count_parameters
from dgnb.own_tracklets import read_tracklet_set
from dgnb.run_store import RunStore, RunStoreError
from dgnb.scales import SCALES, seed_everything
from dgnb.video_files import write_video_set
from dgnb.video_sets import load_video_set
from dgnb.video_worlds import make_video_world
from dgnb.vrstc import video_training
from dgnb.vrstc.video_reid import NonLocalBlock, VideoBackbone, VideoReIDNetwork, attention_weights, nonlocal_places, temporal_average
from dgnb.vrstc.video_training import (OPENERS, VIDEO_REID_SCALES, VideoSettings, describe_tracklets, evaluate_video, load_video_network, make_video_network,
                                       open_video_data, rate_schedule, train_video_network, training_tracklets, video_data_spec, video_settings, video_spec)

TINY = {"backbone": "resnet10t", "truncate": 2}


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", "smoke")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped=tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def run(world, store):
    return store.get(video_spec(world, video_settings("smoke", places="every-other", **TINY)), train=True, progress="off")


def small(places="none", classes=7, awake=True, **options) -> VideoReIDNetwork:
    """A small network in evaluation mode whose non-local blocks, if any, do something."""
    seed_everything("small", str(places))
    network = VideoReIDNetwork(classes, "resnet10t", places, truncate=1, **options).eval()
    for block in network.body.nonlocals.values():
        block.norm.weight.data.fill_(float(awake))
    return network


# the average

@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
@examples(max_examples=40, deadline=None)
def test_the_average_is_no_worse_than_its_frames(clips, frames, seed):
    g = torch.Generator().manual_seed(seed)
    features, truth = torch.randn(clips, frames, 5, generator=g, dtype=torch.float64), torch.randn(clips, 1, 5, generator=g, dtype=torch.float64)
    error = (temporal_average(features) - truth[:, 0]).square().sum(1)
    assert (error <= (features - truth).square().sum(2).mean(1) + 1e-12).all()


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
@examples(max_examples=40, deadline=None)
def test_discarded_frames_do_not_count(clips, frames, seed):
    g = torch.Generator().manual_seed(seed)
    features, keep = torch.randn(clips, frames, 5, generator=g, dtype=torch.float64), torch.rand(clips, frames, generator=g) < 0.4
    found = temporal_average(features, keep)
    for row, f, k in zip(found, features, keep):
        assert torch.allclose(row, (f[k] if k.any() else f).mean(0))


# the block

def explicit(block, x, frames):
    """The block by its definition, cell by cell."""
    inner, pooled = block.theta.out_channels, lambda m: block.pool(m)
    clips = []
    for clip in x.split(frames):
        q = block.theta(clip).permute(0, 2, 3, 1).reshape(-1, inner) * block.scale
        k, v = (pooled(conv(clip)).permute(0, 2, 3, 1).reshape(-1, inner) for conv in (block.phi, block.g))
        rows = torch.stack([(q[i] @ k.T).softmax(0) @ v for i in range(len(q))])
        clips.append(rows.reshape(frames, *x.shape[2:], inner).permute(0, 3, 1, 2))
    return x + block.norm(block.out(torch.cat(clips)))


@pytest.mark.parametrize("pool", (True, False))
@pytest.mark.parametrize("scaled", (True, False))
@pytest.mark.parametrize("frames,height,width", ((1, 1, 1), (1, 4, 2), (3, 5, 3), (4, 8, 4)))
def test_fused_attention_is_the_explicit_softmax(pool, scaled, frames, height, width):
    seed_everything("block", frames, height, pool)
    block = NonLocalBlock(12, pool, scaled)
    block.norm.weight.data.fill_(1)
    block.eval()
    x = torch.randn(2 * frames, 12, height, width, requires_grad=True)
    a, b = block(x, frames), explicit(block, x, frames)
    assert (a - b).abs().max() < 1e-5
    weight = torch.randn(a.shape)
    parameters = [x, *block.theta.parameters(), *block.g.parameters()]
    for one, two in zip(*(torch.autograd.grad((z * weight).sum(), parameters) for z in (a, b))):
        assert torch.allclose(one, two, atol=1e-4, rtol=1e-4)


def test_attention_weights_are_those_of_the_block():
    seed_everything("weights")
    block, x = NonLocalBlock(8).eval(), torch.randn(6, 8, 4, 3)
    nn.init.ones_(block.norm.weight)
    weights = attention_weights(block, x, 3)
    assert weights.shape == (2, 3, 4, 3, 3, 2, 2) and torch.allclose(weights.sum((-3, -2, -1)), torch.ones(2, 3, 4, 3))
    values = block.pool(block.g(x)).unflatten(0, (2, 3))
    y = torch.einsum("bthwsij,bscij->btchw", weights, values).flatten(0, 1)
    assert torch.allclose(block(x, 3), x + block.norm(block.out(y)), atol=1e-5)


@pytest.mark.parametrize("training", (True, False))
def test_a_new_block_is_the_identity(training):
    seed_everything("identity")
    block, x = NonLocalBlock(16).train(training), torch.randn(8, 16, 8, 4)
    assert torch.equal(block(x, 4), x)


def test_shuffled_frames_give_shuffled_maps_and_clips_do_not_mix():
    seed_everything("order")
    block, x, order = NonLocalBlock(8).eval(), torch.randn(8, 8, 4, 4), torch.tensor([3, 0, 2, 1])
    nn.init.ones_(block.norm.weight)
    assert torch.allclose(block(x[:4], 4)[order], block(x[:4][order], 4), atol=1e-5)
    assert torch.allclose(block(x, 4)[:4], block(x[:4], 4), atol=1e-5)


def test_the_matrix_is_not_kept():
    block, x, kept = NonLocalBlock(8), torch.randn(8, 8, 32, 16), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        block(x, 8)
    assert sum(kept) < 8 * 512 * 8 * 128 * 4 / 2  # half of the matrix


@pytest.mark.parametrize("frames", (3, 0))
def test_maps_that_are_no_clips_are_refused(frames):
    with pytest.raises(ValueError, match="no clips"):
        NonLocalBlock(8)(torch.randn(8, 8, 4, 4), frames)


# places

def test_vrstc_has_five_blocks_and_the_published_number_of_weights():
    with torch.device("meta"):
        plain, five = VideoReIDNetwork(625), VideoReIDNetwork(625, places="every-other")
    assert list(five.body.nonlocals) == ["layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"]
    assert count_parameters(five) - count_parameters(plain) == 7_358_464 and count_parameters(plain) == 24_788_657
    assert plain.classifier.in_features == 2048


@pytest.mark.parametrize("people,weights", [(625, 24_788_657), (702, 24_946_430), (150, 23_815_382)])
def test_each_set_has_a_guider_head_of_its_own(people, weights):
    with torch.device("meta"):
        net = VideoReIDNetwork(people)
    assert count_parameters(net) == weights == 24_788_657 + (people - 625) * (2048 + 1) and count_parameters(net.classifier) == people * (2048 + 1)


def test_the_pooling_of_answers_reaches_the_blocks_and_adds_no_weights():
    with torch.device("meta"):
        pooled, whole = VideoReIDNetwork(5, "resnet10t", "every-other"), VideoReIDNetwork(5, "resnet10t", "every-other", pool=False)
    kinds = lambda net: {type(block.pool) for block in net.body.nonlocals.values()}
    assert kinds(pooled) == {nn.MaxPool2d} and kinds(whole) == {nn.Identity} and count_parameters(pooled) == count_parameters(whole)


@pytest.mark.parametrize("name,rule,expected", [
    ("resnet50", "every-other", {"layer2": (1, 3), "layer3": (1, 3, 5)}), ("resnet50", "before-last", {"layer2": (2,), "layer3": (4,)}), ("resnet50", "none", {}),
    ("resnet18", "every-other", {"layer2": (1,), "layer3": (1,)}), ("resnet18", "before-last", {"layer2": (0,), "layer3": (0,)}),
    ("resnet10t", "every-other", {"layer2": (0,), "layer3": (0,)}), ("resnet10t", {"layer1": [0]}, {"layer1": (0,)})])
def test_places_follow_the_rule(name, rule, expected):
    with torch.device("meta"):
        net = build_backbone(name)
    assert nonlocal_places(net, rule) == expected


@pytest.mark.parametrize("places,words", [({"layer2": (1, 3)}, "block 1 of layer2, which has 1"), ("before-last", "deeper network"), ({"layer3": (-1,)}, "block -1"),
                                          ({"layer9": (0,)}, "layer9, which has 0"), ("every", "Did you mean")])
def test_places_that_do_not_exist_are_refused(places, words):
    with pytest.raises(ValueError, match=words):
        VideoBackbone(build_backbone("resnet10t"), places)


def test_a_truncated_network_keeps_the_rule_for_what_is_left():
    assert nonlocal_places(build_backbone("resnet10t", truncate=2)) == {"layer2": (0,)}
    with pytest.raises(ValueError, match="layer2, which has 0"):
        nonlocal_places(build_backbone("resnet10t", truncate=3))


@pytest.mark.parametrize("name", ("resnet10t", "resnet18", "resnet26"))
def test_channels_are_those_of_the_maps(name):
    network = VideoReIDNetwork(3, name, "every-other").eval()
    assert network(torch.randn(1, 2, 3, 32, 16)).shape == (1, 3)


def test_five_sleeping_blocks_change_nothing():
    awake = small("every-other", awake=False)
    plain = small("none")
    plain.load_state_dict({k: v for k, v in awake.state_dict().items() if "nonlocals" not in k})
    clips = torch.randn(2, 3, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(awake(clips), plain(clips))


# the network

def test_frames_vote_and_the_loss_starts_at_log_k():
    network, clips = small(classes=40), torch.randn(4, 3, 3, 64, 32)
    with torch.no_grad():
        scores = network(clips)
        assert torch.allclose(scores, network.classifier(network.frame_features(clips)).mean(1), atol=1e-5)
    assert abs(F.cross_entropy(scores, torch.arange(4)).item() - math.log(40)) < 0.1


@pytest.mark.parametrize("places,same", (("none", True), ("every-other", False)))
def test_pieces_matter_with_non_local_blocks_only(places, same):
    network, clips = small(places), 2 * torch.randn(1, 11, 3, 64, 32) * torch.linspace(0, 2, 11)[:, None, None, None]
    with torch.no_grad():
        whole, cut = network.features(clips, 11), network.features(clips, 4)
    assert ((whole - cut).norm() / whole.norm() < 1e-5) == same


def test_a_tracklet_of_one_frame_is_that_frame():
    network, clip = small("every-other"), torch.randn(1, 1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(network.features(clip), network.frame_features(clip)[:, 0])


@pytest.mark.parametrize("clips,words", [(torch.zeros(2, 3, 64, 32), "images\\[:, None\\]"), (torch.zeros(1, 2, 3, 64, 32, dtype=torch.uint8), "normalise"),
                                         (torch.zeros(1, 0, 3, 64, 32), "B x T x 3")])
def test_wrong_input_is_explained(clips, words):
    with pytest.raises(ValueError, match=words):
        small()(clips)


def test_another_number_of_people_is_refused():
    assert small(classes=7).check(7).num_classes == 7
    with pytest.raises(ValueError, match="knows 7 people and the training set has 8"):
        small(classes=7).check(8)
    with pytest.raises(ValueError, match="at least one class"):
        VideoReIDNetwork(0, "resnet10t")


# settings and data

def test_the_paper_is_the_default():
    s = video_settings("paper")
    assert s == VideoSettings() and set(VIDEO_REID_SCALES) == set(SCALES)
    assert (s.backbone, s.last_stride, s.size, s.frames, s.batch, s.lr, s.weight_decay, s.epochs, s.augmentation) == ("resnet50", 1, (256, 128), 4, 32, 3e-4, 5e-4, 150, "flip")
    rate = rate_schedule(s, 10)
    assert [round(rate(n), 6) for n in (0, 499, 500, 999, 1000, 1499)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("changes,words", [({"epoch": 3}, "Did you mean 'epochs'"), ({"frames": 0}, "frames must be at least 1"), ({"places": "all"}, "unknown placement"),
                                           ({"augmentation": "flop"}, "Did you mean 'flip'")])
def test_wrong_settings_are_explained(changes, words):
    with pytest.raises(ValueError, match=words):
        video_settings("smoke", **changes)


def test_a_worlds_description_opens_it_again():
    for one in (make_video_world("mannequin-ilids", "smoke", split=3), make_video_world("mannequin-mars", "smoke", seed=2, occlusion={"share": 0.9, "duration": (0.1, 0.2)})):
        assert open_video_data(json.loads(json.dumps(video_data_spec(one)))).fingerprint == one.fingerprint


def test_names_differ_where_runs_differ(world):
    base = video_spec(world, video_settings())
    others = [video_spec(world, video_settings(places="every-other")), video_spec(world, video_settings(), seed=1), video_spec(world, video_settings(stride=2)),
              *(video_spec(make_video_world("mannequin-ilids", "smoke", split=k), video_settings()) for k in range(10)),
              video_spec(make_video_world("mannequin-mars", "smoke", occlusion={"share": 0.1}), video_settings())]
    assert len({base.key, *(o.key for o in others)}) == 15
    with pytest.raises(ValueError, match="make it with size"):
        video_spec(world, video_settings("paper"))


def test_a_set_on_disk_is_found_again_and_changes_are_noticed(world, tmp_path, monkeypatch):
    write_video_set(world, tmp_path / "set")
    source = load_video_set("mars", tmp_path / "set")
    data = video_data_spec(source)
    assert open_video_data(data) is source
    monkeypatch.setattr(video_training, "_OPENED", {})  # as in another process
    assert open_video_data(data).fingerprint == source.fingerprint
    with open(source.train[0].path(0), "ab") as file:
        file.write(b"more")
    with pytest.raises(RunStoreError, match="has changed"):
        open_video_data(data)
    with pytest.raises(RunStoreError, match="open it first"):
        open_video_data({"video_set": "mars", "fingerprint": "0" * 16})


def test_other_lessons_can_bring_sets_of_their_own(world, monkeypatch):
    class Repaired(type(world)):
        def data_spec(self):
            return {"repaired": "x"}

    monkeypatch.setitem(OPENERS, "repaired", lambda data: world)
    made = object.__new__(Repaired)
    assert open_video_data(video_data_spec(made)) is world
    with pytest.raises(ValueError, match="kind of video data"):
        open_video_data({"nothing": 1})


def test_weights_that_are_not_here_are_an_error(tmp_path):
    with pytest.raises(RunStoreError, match="weights_name"):
        make_video_network(video_settings(weights="0123456789ab"), 3)
    from safetensors.torch import save_file

    first = make_video_network(video_settings(), 3)
    save_file({k: v.contiguous() for k, v in first.body.backbone.state_dict().items()}, tmp_path / "w.safetensors")
    second = make_video_network(video_settings(weights=weights_name(tmp_path / "w.safetensors")), 3)
    assert all(torch.equal(a, b) for a, b in zip(first.body.backbone.state_dict().values(), second.body.backbone.state_dict().values()))


# training and testing

def test_memory_decides_how_frames_are_kept_and_nothing_else(world):
    lazy, eager = training_tracklets(world, (64, 32), budget=0), training_tracklets(world, (64, 32))
    assert type(lazy) is TrackletDataset and type(eager) is TrackletCache


def test_the_recipe_learns_and_its_scores_belong_to_its_weights(run, world):
    assert abs(run.log["id"][0] - math.log(world.num_train_identities)) < 1 and run.log["id"].iloc[-1] < run.log["id"][0]
    tested = evaluate_video(load_video_network(run, world), world, (64, 32))
    assert tested.result.map_step == pytest.approx(run.metrics["map_step"], abs=1e-5)
    assert np.allclose(tested.result.ap_step, run.per_query["ap_step"], atol=1e-4)
    assert run.metrics["classes"] == 8 and run.metrics["rank1"] <= run.metrics["rank20"] and "searched among the gallery" in run.metrics["query_rule"]
    assert len(run.per_query["first_rank"]) == len(world.query) and run.log["lr"].iloc[-1] == pytest.approx(1e-4)


def test_mars_queries_never_find_themselves(run, world):
    place = {record: n for n, record in enumerate(world.gallery)}
    assert all(place[q] not in row for q, row in zip(world.query, run.per_query["nearest"]))


def test_training_twice_gives_the_same_bits(world):
    found = []
    for _ in range(2):
        seed_everything("again", 0)
        found.append(train_video_network(world, video_settings("smoke", epochs=1, places="every-other", **TINY), progress="off")[0].state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_run_is_not_loaded_for_another_set(run):
    with pytest.raises(ValueError, match="knows 8 people and the training set has 9"):
        load_video_network(run, make_video_world("mannequin-mars", "smoke", train_identities=9))


def test_descriptions_are_of_length_one_and_bounded_in_memory(run, world):
    network, given, records = load_video_network(run), [], world.gallery[:5]
    inner = network.body.maps
    network.body.maps = lambda frames, clip: given.append(len(frames)) or inner(frames, clip)
    found = describe_tracklets(network, world, records, (64, 32), chunk=3, batch_frames=6)
    assert max(given) <= 6 and sum(given) == sum(r.length for r in records)
    assert torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-5)
    assert not network.training and network.train() and describe_tracklets(network, world, records[:1], (64, 32)).shape == (1, network.classifier.in_features) and network.training


def test_tracklets_of_one_frame_and_frames_of_all_sizes(tmp_path):
    g = np.random.default_rng(0)
    for person in range(4):
        for tracklet in range(3):
            folder = tmp_path / f"p{person}" / f"t{tracklet}"
            folder.mkdir(parents=True)
            for n in range(1 if tracklet == 0 else 5):
                pixels = g.integers(0, 255, (int(g.integers(40, 90)), int(g.integers(20, 50)), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{n:03d}.png")
    source = read_tracklet_set(tmp_path)
    network, log = train_video_network(source, video_settings("smoke", batch=3, epochs=1, places="every-other", **TINY), progress="off")
    assert all(math.isfinite(row["id"]) for row in log)
    found = describe_tracklets(network, source, source.gallery, (64, 32))
    assert torch.isfinite(found).all() and len(found) == len(source.gallery)
    assert 0 <= evaluate_video(network, source, (64, 32)).result.map_step <= 1


def test_average_of_pieces_equals_the_average_of_frames(world):
    network, data = small("none"), TrackletDataset(world, world.train[:3], (64, 32))
    whole, cut = (tracklet_features(lambda c: network.features(c, 99), data, most) for most in (99, 2))
    assert torch.allclose(whole, cut, atol=1e-5)
