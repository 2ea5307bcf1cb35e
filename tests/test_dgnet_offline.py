"""Paint first, learn afterwards: the painted set, the step of E_a alone, whole trainings, runs."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings as budget, strategies as st

from dgnb.augmentation import normalise
from dgnb.baseline import baseline_settings, train_network
from dgnb.dgnet.generating import as_levels
from dgnb.dgnet.joint import DGNet, dgnet_settings, dgnet_spec, evaluate_dgnet, load_dgnet, train_dgnet
from dgnb.dgnet.losses import Generated, Networks, Views, feed_terms, look_at
from dgnb.dgnet.offline import (OfflineStep, PaintedSet, ThreeStreams, learner_settings, load_offline, offline_spec, paint_set, painted_terms,
                                passes_as_online, train_offline)
from dgnb.dgnet.step import TwoStreams, make_networks, make_optimizers
from dgnb.dgnet.teacher import Teacher
from dgnb.resuming import Batches, find_place
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.safe_files import StoreError
from dgnb.sampling import ImageCache
from dgnb.scales import seed_everything
from dgnb.training import Loop, make_fabric
from dgnb.worlds import make_world

TINY = dict(structure_width=2, blocks=1, hidden=8, critic_width=2, dim=16, iterations=4, warmup_start=1, warmup_slope=1.0)


def tiny(variant="released", **changes):
    return dgnet_settings("smoke", variant, **(TINY | changes))


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke")


@pytest.fixture(scope="module")
def network(world):
    seed_everything("teacher")
    return train_network(world, baseline_settings("smoke", epochs=2), progress="off")[0]


@pytest.fixture(scope="module")
def painter(world):
    seed_everything("painter")
    nets = make_networks(tiny(), world.num_train_identities)
    return DGNet(nets.appearance, nets.structure, nets.decoder, tiny()).eval()


@pytest.fixture(scope="module")
def images(world):
    return ImageCache(world, world.train, tiny().size)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped=tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def of(world):
    return dgnet_spec(world, tiny(), teacher=baseline_settings("smoke", epochs=1))


@pytest.fixture(scope="module")
def run(of, store):
    return store.get(offline_spec(of, 2), train=True, progress="off")


def learn(world, network, painter, seed=0, settings=None, **options):
    seed_everything("test", seed)
    return train_offline(world, settings or tiny(), painter, network, 1, seed, progress="off", **options)


def weights(appearance):
    return torch.cat([tensor.flatten().float() for tensor in appearance.state_dict().values()])


# --- the painted set

def test_each_picture_is_the_swap_of_its_donors(painter, images):
    painted = paint_set(painter, images, 2, seed=1)
    assert painted.pixels.dtype == torch.uint8 and len(painted) == 2 * len(images) == len(painted.donors)
    for n in (0, 5, len(painted) - 1):
        clothes, body = (images[int(k)] for k in painted.donors[n])
        alone = as_levels(painter.swap(normalise(clothes)[None], normalise(body)[None]))[0]
        assert (alone.int() - painted[n].int()).abs().max() <= 1
        assert painted.appearance[n] == images.labels[painted.donors[n, 0]] and painted.labels[n] == images.labels[painted.donors[n, 1]]
        assert painted.camids[n] == images.camids[painted.donors[n, 1]]


def test_pictures_are_fixed_by_the_seed(painter, images):
    torch.manual_seed(1)
    first = paint_set(painter, images, 2, seed=3)
    torch.manual_seed(2)
    again, other = paint_set(painter, images, 2, seed=3), paint_set(painter, images, 2, seed=4)
    assert torch.equal(first.pixels, again.pixels) and first.digest == again.digest != other.digest
    assert np.array_equal(first.donors, again.donors) and not np.array_equal(first.donors, other.donors)
    assert not np.array_equal(first.donors[:len(images)], first.donors[len(images):]), "each pass draws anew"


def test_everybody_lends_both_codes_once_a_pass(painter, images):
    for column in paint_set(painter, images, 2).donors.reshape(2, len(images), 2).transpose(0, 2, 1).reshape(4, -1):
        assert sorted(column) == list(range(len(images)))


def test_painting_leaves_the_painter_alone(painter, images):
    before, modes = weights(painter), [m.training for m in painter.modules()]
    paint_set(painter.train(), images)
    assert torch.equal(before, weights(painter)) and all(m.training for m in painter.modules())
    painter.eval()
    assert modes == [m.training for m in painter.modules()]


def test_a_painter_of_another_size_is_refused(painter, world):
    with pytest.raises(ValueError, match="paints 64x32, the images are 32x16"):
        paint_set(painter, ImageCache(world, world.train[:4], (32, 16)))


# --- streams

PAINTED = {}


def streams(world, painter, images, settings=None, seed=0, **options):
    settings = settings or tiny()
    if painter not in PAINTED:
        PAINTED[painter] = paint_set(painter, images, 2)
    return ThreeStreams(TwoStreams(world, settings, seed, **options), PAINTED[painter], settings, seed, **options)


def test_painted_batches_hold_what_the_set_holds(world, painter, images):
    painted = paint_set(painter, images, 2)
    settings = tiny(flip=0.0, pad=0)
    loader = ThreeStreams(TwoStreams(world, settings), painted, settings)
    seen = []
    for batch in loader:
        made = batch["painted"]
        assert len(made["image"]) == 2 * settings.batch and "erased" not in made
        n = made["index"].numpy()
        assert torch.equal(as_levels(made["image"]), painted.pixels[n])
        assert np.array_equal(made["appearance"], painted.appearance[n]) and np.array_equal(made["label"], painted.labels[n])
        seen += n.tolist()
    assert len(seen) == len(set(seen)) == len(loader) * 2 * settings.batch


def test_the_real_streams_are_those_of_the_joint_training(world, painter, images):
    for batch, joint in zip(streams(world, painter, images, seed=5), TwoStreams(world, tiny(), 5), strict=True):
        assert all(torch.equal(batch[side][name], joint[side][name]) for side in "ab" for name in joint[side])


@pytest.mark.parametrize("taken", [7, 26])
def test_streams_find_their_place(world, painter, images, taken):
    whole, broken, again = (Batches(streams(world, painter, images)) for _ in range(3))
    for _ in range(taken):
        next(whole), next(broken)
    find_place(again, broken.state_dict())
    for _ in range(14):
        x, y = next(whole), next(again)
        assert all(torch.equal(x[side][name], y[side][name]) for side in x for name in x[side])


def test_processes_share_each_batch(world, painter, images):
    whole = next(iter(streams(world, painter, images)))
    shares = [next(iter(streams(world, painter, images, world_size=2, rank=rank))) for rank in (0, 1)]
    assert all(torch.equal(whole["painted"][name], torch.cat([share["painted"][name] for share in shares])) for name in whole["painted"])


# --- one step

def one_step(world, network, painter, images, settings):
    seed_everything("step")
    nets = make_networks(settings, world.num_train_identities, Teacher(network))
    loop = Loop(make_fabric(1, accelerator="cpu"), {"appearance": nets.appearance}, {"encoder": make_optimizers(nets, settings)["encoder"]}, {},
                Batches(streams(world, painter, images, settings)))
    loop.iteration = 3
    return nets, loop, next(loop.batches)


def test_only_the_encoder_learns(world, network, painter, images):
    nets, loop, batch = one_step(world, network, painter, images, tiny())
    others = {"painter": painter, "teacher": nets.teacher, "structure": nets.structure, "decoder": nets.decoder, "discriminator": nets.discriminator}
    before, start = {name: weights(part) for name, part in others.items()}, {name: p.clone() for name, p in nets.appearance.named_parameters()}
    losses = OfflineStep(tiny(), nets.teacher)(batch, loop)
    assert set(losses) == {"id", "id_fine", "positive", "prim", "fine"}
    assert all(p.grad is None for part in others.values() for p in part.parameters())
    assert all(torch.equal(before[name], weights(part)) for name, part in others.items())
    assert all(p.grad is not None for p in nets.appearance.parameters())
    moved = {name.removesuffix(".weight") for name, p in nets.appearance.named_parameters() if not torch.equal(p, start[name])}
    assert moved >= {name.removesuffix(".weight") for name in start if name.endswith(".weight")}, "a bias before batch normalisation alone may stay"


@pytest.mark.parametrize("term, head", [("prim", "prim"), ("fine", "fine")])
def test_each_loss_of_painted_people_reaches_one_head(world, network, painter, images, term, head):
    nets, loop, batch = one_step(world, network, painter, images, tiny())
    painted_terms(nets, batch["painted"], tiny().recipe)[term].backward()
    reached = {name.split(".")[0] for name, p in nets.appearance.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {"backbone", head}


@pytest.mark.parametrize("style, statistics, together", [("dynamic", "running", False), ("dynamic", "batch", True), ("static", "running", False), ("two-label", "running", True)])
def test_the_losses_are_those_of_the_online_feed(world, network, painter, images, style, statistics, together):
    """The same pictures, handed over as if they had just been painted from a and b."""
    settings = tiny(teacher_style=style, teacher_statistics=statistics, together=together)
    nets, loop, batch = one_step(world, network, painter, images, tiny())
    nets.teacher = Teacher(network, statistics)
    nets.appearance.eval()
    swaps = torch.cat([batch["a"]["image"], batch["b"]["image"]])
    views = Views.of(batch["a"], batch["b"])
    made = Generated(None, None, swaps, None, None)
    online = feed_terms(nets, views, made, look_at(nets.appearance, swaps.chunk(2), together), settings.recipe)
    (a, b) = views.label
    offline = painted_terms(nets, {"image": swaps, "appearance": torch.cat([a, b]), "label": torch.cat([b, a])}, settings.recipe)
    assert {name: loss.item() for name, loss in online.items()} == pytest.approx({name: loss.item() for name, loss in offline.items()})


def test_before_the_warm_up_painted_people_are_not_looked_at(world, network, painter, images):
    nets, loop, batch = one_step(world, network, painter, images, tiny())
    loop.iteration = 0
    batch["painted"] = None
    assert set(OfflineStep(tiny(), nets.teacher)(batch, loop)) == {"id", "positive"}


# --- trainings

@pytest.mark.parametrize("changes", [{}, {"together": True}, {"start_from_teacher": True, "clip": 1.0}])
def test_until_the_warm_up_it_is_the_joint_training_to_the_bit(world, painter, network, changes):
    """Weights, running statistics, dropout: only painted people may make a difference."""
    early = tiny(iterations=3, warmup_start=3, **changes)
    seed_everything("twins")
    joint = train_dgnet(world, early, 0, network, progress="off")[0].appearance
    seed_everything("twins")
    alone, log, _ = train_offline(world, early, painter, network, progress="off")
    assert "prim" not in log[-1] and torch.equal(weights(joint), weights(alone))


def test_a_training_is_fixed_by_its_seed(world, network, painter):
    (one, log, painted), (two, _, _), (other, _, _) = (learn(world, network, painter, seed) for seed in (0, 0, 1))
    assert torch.equal(weights(one), weights(two)) and not torch.equal(weights(one), weights(other))
    assert [row["iteration"] for row in log] == [1, 2, 3, 4] and "prim" not in log[0] and "prim" in log[-1]
    assert len(painted) == len(world.train)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_stopped_training_goes_on_bit_for_bit(world, network, painter, tmp_path, stop_at):
    def stop(loop):
        if loop.iteration == stop_at + 1:
            raise KeyboardInterrupt
    whole = learn(world, network, painter, checkpoint=tmp_path / "whole", checkpoint_every=1)[0]
    with pytest.raises(KeyboardInterrupt):
        learn(world, network, painter, checkpoint=tmp_path / "broken", checkpoint_every=1, callbacks=[(1, stop)])
    assert torch.equal(weights(whole), weights(learn(world, network, painter, checkpoint=tmp_path / "broken", checkpoint_every=1)[0]))


def test_it_does_not_go_on_with_other_pictures_or_settings(world, network, painter, tmp_path):
    learn(world, network, painter, checkpoint=tmp_path, checkpoint_every=1)
    seed_everything("another painter")
    nets = make_networks(tiny(), world.num_train_identities)
    with pytest.raises(StoreError, match="painted pictures are not those"):
        learn(world, network, DGNet(nets.appearance, nets.structure, nets.decoder, tiny()), checkpoint=tmp_path)
    with pytest.raises(StoreError, match="alpha"):
        learn(world, network, painter, settings=tiny(alpha=0.4), checkpoint=tmp_path)


def test_the_paper_recipe_learns_too(world, network, painter):
    log = learn(world, network, painter, settings=learner_settings(tiny("paper")))[1]
    assert "prim" in log[-1] and np.isfinite(log[-1]["prim"])


# --- settings and runs

def test_learner_settings():
    assert learner_settings(tiny()) == tiny() and learner_settings(tiny(feed="off")) == tiny()
    assert replace(learner_settings(tiny("paper")).recipe, feed="attached") == tiny("paper").recipe
    with pytest.raises(ValueError, match="prim = 0"):
        learner_settings(tiny(prim=0.0))


def test_passes():
    assert passes_as_online(dgnet_settings("laptop"), 3200) == 8 and passes_as_online(dgnet_settings("paper"), 12_936) == 10 and passes_as_online(tiny(), 48) == 1


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(1, 500), st.integers(2, 16))
@budget(max_examples=40, deadline=None)
def test_passes_are_enough_and_none_too_many(more, start, images, batch):
    settings = tiny(iterations=start + more, warmup_start=start, batch=batch)
    passes = passes_as_online(settings, images, most=10**9)
    assert passes * images >= more * 2 * batch and (passes == 1 or (passes - 1) * images < more * 2 * batch)


def test_keys(world, of):
    specs = [offline_spec(of), offline_spec(of, 2), offline_spec(dgnet_spec(world, tiny(), seed=1)), offline_spec(dgnet_spec(world, tiny(alpha=0.4)))]
    assert len({spec.key for spec in specs}) == 4 and specs[0].seed == 0 and specs[2].seed == 1
    assert offline_spec(of).key == offline_spec(RunSpec(**of.as_dict())).key and specs[0].as_dict()["data"] == of.as_dict()["data"]


def test_impossible_runs_are_refused(world, of):
    with pytest.raises(ValueError, match="passes must be at least 1"):
        offline_spec(of, 0)
    with pytest.raises(RunStoreError, match="no teacher"):
        offline_spec(dgnet_spec(world, tiny(feed="off")))
    with pytest.raises(RunStoreError, match="not of 'dgnet'"):
        offline_spec(offline_spec(of))


def test_a_run_keeps_what_it_measured(run, of, world, store):
    settings = tiny()
    assert run.metrics["images_seen"] == 4 * 4 * settings.batch and run.metrics["painted"] == 2 * len(world.train)
    assert run.metrics["painted_seen"] == 2 * settings.batch * (settings.iterations - settings.warmup_start - 1)
    model = load_offline(run)
    results, _ = evaluate_dgnet(model, world)
    for feature in ("prim", "fine", "both"):
        assert run.metrics[f"{feature}_map_step"] == pytest.approx(results[feature].map_step, abs=1e-6)
        assert np.allclose(run.per_query[f"ap_step_{feature}"], results[feature].ap_step, equal_nan=True)
    joint = store.get(of)
    assert {f"ap_step_{feature}" for feature in ("prim", "fine", "both")} <= run.per_query.keys() and run.per_query.keys() == joint.per_query.keys()
    assert run.metrics["parameters"] == sum(p.numel() for p in load_dgnet(store.get(of, weights=True)).appearance.parameters())


def test_a_run_can_be_made_again(run, of, tmp_path):
    again = RunStore(local=tmp_path, shipped=tmp_path / "none").get(offline_spec(of, 2), train=True, progress="off")
    assert again.metrics == run.metrics and torch.equal(weights(load_offline(again)), weights(load_offline(run)))


def test_a_run_of_another_recipe_is_refused(of, run, store):
    with pytest.raises(RunStoreError, match="offline_spec"):
        load_offline(store.get(of))
    with pytest.raises(RunStoreError, match="not of 'dgnet'"):
        load_dgnet(run)
