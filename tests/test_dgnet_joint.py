"""Joint training of DG-Net: settings, the two streams, one step, whole trainings, runs, processes, precision, and what can go wrong."""
import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dgnb.baseline import baseline_settings, make_network, train_network
from dgnb.dgnet import joint
from dgnb.dgnet.joint import (DGNET_SCALES, DGNet, can_be_evaluated, dgnet_settings, dgnet_spec, evaluate_dgnet, load_dgnet, sample_donors,
                              sample_sheets, settings_of, teacher_settings, train_dgnet)
from dgnb.dgnet.losses import RECIPES, TERMS, Networks, Recipe, Views
from dgnb.dgnet.step import JointStep, TwoStreams, limit_gradient, make_networks, make_optimizers
from dgnb.dgnet.teacher import Teacher
from dgnb.image_sets import load_image_set, write_image_set
from dgnb.resuming import Batches, rng_state
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.safe_files import StoreError
from dgnb.scales import seed_everything
from dgnb.training import Loop, NonFiniteLoss, make_fabric
from dgnb.worlds import make_world

TINY = dict(structure_width=2, blocks=1, hidden=8, critic_width=2, dim=16, warmup_start=0, warmup_slope=1.0)
PARTS = ("appearance", "structure", "decoder", "discriminator")


def tiny(variant="released", **changes):
    return dgnet_settings("smoke", variant, **(TINY | {"iterations": 3} | changes))


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke")


@pytest.fixture(scope="module")
def network(world):
    return teacher_network(world)


def teacher_network(world):
    """A teacher that has learned a little, so that its labels say something."""
    seed_everything("teacher")
    return train_network(world, baseline_settings("smoke", epochs=8), progress="off")[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped=tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def spec(world):
    return dgnet_spec(world, tiny(), teacher=baseline_settings("smoke", epochs=1))


@pytest.fixture(scope="module")
def run(spec, store):
    return store.get(spec, train=True, progress="off")


def trained(world, settings, network, seed=0, **options):
    seed_everything("test", seed)
    return train_dgnet(world, settings, seed, network, progress="off", **options)


def weights(nets) -> torch.Tensor:
    return torch.cat([x.flatten().float() for part in PARTS for x in getattr(nets, part).state_dict().values()])


def one_step(world, network, settings, precision="32-true", double=False):
    """Networks, their loop at an iteration with all losses on, and a batch; E_a keeps its own statistics and drops nothing."""
    seed_everything("step")
    nets = make_networks(settings, world.num_train_identities, Teacher(network))
    nets.appearance.eval()
    parts = {name: getattr(nets, name).double() if double else getattr(nets, name) for name in PARTS}
    loop = Loop(make_fabric(1, precision=precision, accelerator="cpu"), parts, make_optimizers(nets, settings), {}, Batches(TwoStreams(world, settings)))
    loop.iteration = 3
    return nets, loop, next(loop.batches)


# --- settings

@pytest.mark.parametrize("scale", DGNET_SCALES)
@pytest.mark.parametrize("variant", RECIPES)
def test_settings_survive_their_spec(scale, variant):
    settings = dgnet_settings(scale, variant)
    source = make_world("mannequin-market", scale="smoke", size=settings.size)
    spec = dgnet_spec(source, settings)
    assert settings_of(RunSpec(**json.loads(json.dumps(spec.as_dict())))) == settings
    assert spec.as_dict()["settings"]["teacher"]["recipe"] == "baseline"


def test_the_teacher_is_the_baseline_of_the_same_scale():
    for scale in ("smoke", "laptop", "gpu"):
        assert teacher_settings(dgnet_settings(scale)) == baseline_settings(scale)
    assert teacher_settings(dgnet_settings("paper", weights="0123456789ab")) == baseline_settings("paper", weights="0123456789ab")
    assert teacher_settings(dgnet_settings("laptop", height=128, width=64)).size == (128, 64)


def test_every_setting_and_switch_is_part_of_the_key(world):
    changes = [{}, {"gan": "hinge"}, {"feed": "off"}, {"alpha": 0.4}, {"iterations": 5}, {"start_from_teacher": True}]
    assert len({dgnet_spec(world, tiny(**change)).key for change in changes}) == len(changes)
    other = dgnet_spec(world, tiny(), teacher=baseline_settings("smoke", epochs=2))
    assert other.key != dgnet_spec(world, tiny()).key != dgnet_spec(world, tiny(), seed=1).key


@pytest.mark.parametrize("change, message", [
    ({"batch": 1}, "at least 2"), ({"dilations": (3, 6, 9)}, r"\(1, 2, 3\)"), ({"height": 66}, "multiples of 4"), ({"iterations": 0}, "iterations"),
    ({"warmup_slope": 5.0}, "warmup_slope"), ({"gann": "log"}, "Did you mean 'gan'"), ({"feed": "offf"}, "Did you mean 'off'")])
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny(**change)


def test_world_and_settings_of_different_sizes_are_refused(world):
    with pytest.raises(ValueError, match="64x32"):
        dgnet_spec(world, dgnet_settings("gpu"))


# --- two streams

def test_streams_are_independent_repeatable_and_end_together(world):
    settings = tiny()
    streams = TwoStreams(world, settings, seed=3)
    epoch = [(b["a"]["index"].tolist(), b["b"]["index"].tolist()) for b in streams]
    assert epoch == [(b["a"]["index"].tolist(), b["b"]["index"].tolist()) for b in TwoStreams(world, settings, seed=3)]
    assert len(epoch) == len(streams) == len(world.train) // settings.batch and all(len(a) == len(b) == settings.batch for a, b in epoch)
    for side in zip(*epoch):
        assert len({i for batch in side for i in batch}) == len(epoch) * settings.batch
    assert sum(a != b for a, b in epoch) > len(epoch) / 2
    assert (streams.a.epoch, streams.a.batch) == (streams.b.epoch, streams.b.batch) == (1, 0)


def test_streams_find_their_place(world):
    settings = tiny()
    for taken in (1, len(TwoStreams(world, settings)), len(TwoStreams(world, settings)) + 2):
        whole, broken = Batches(TwoStreams(world, settings)), Batches(TwoStreams(world, settings))
        for _ in range(taken):
            next(whole), next(broken)
        from dgnb.resuming import find_place

        again = Batches(TwoStreams(world, settings))
        find_place(again, broken.state_dict())
        for _ in range(3):
            x, y = next(whole), next(again)
            assert all(torch.equal(x[side][name], y[side][name]) for side in "ab" for name in x[side])


def test_processes_share_each_batch(world):
    whole = next(iter(TwoStreams(world, tiny())))
    shares = [next(iter(TwoStreams(world, tiny(), world_size=2, rank=rank))) for rank in (0, 1)]
    for side in "ab":
        for name in whole[side]:
            assert torch.equal(whole[side][name], torch.cat([share[side][name] for share in shares]))
    with pytest.raises(ValueError, match="shared by 4"):
        TwoStreams(world, tiny(), world_size=4)


# --- one step

def test_each_half_of_the_step_moves_its_own_networks(world, network):
    nets, loop, batch = one_step(world, network, tiny())
    step, views = JointStep(tiny(), nets.teacher), Views.of(batch["a"], batch["b"])
    flat = lambda: {name: torch.cat([p.detach().flatten().clone() for p in getattr(nets, name).parameters()]) for name in PARTS}
    start = flat()
    made, _ = step.teach_critic(nets, views, loop)
    middle = flat()
    step.teach_others(nets, views, made, {name: s(3) for name, s in step.schedules.items()}, loop)
    end = flat()
    assert [not torch.equal(start[n], middle[n]) for n in PARTS] == [False, False, False, True]
    assert [not torch.equal(middle[n], end[n]) for n in PARTS] == [True, True, True, False]


@pytest.mark.parametrize("coin", [True, False])
def test_sharing_a_pass_gives_the_update_of_separate_passes(world, network, monkeypatch, coin):
    """The released recipe lets judge and student share one pass of E_a; with two passes every gradient is the same."""
    found = []
    for decoupled in (True, False):
        monkeypatch.setattr(Recipe, "decoupled", property(lambda self: decoupled))
        monkeypatch.setattr(JointStep, "coin", lambda self, iteration: coin)
        nets, loop, batch = one_step(world, network, tiny(), "64-true", double=True)  # in 32 bits near-ties of maxima are decided by rounding
        batch = {side: {k: v.double() if v.is_floating_point() else v for k, v in views.items()} for side, views in batch.items()}
        nets.appearance.backbone.train()
        losses = JointStep(tiny(), nets.teacher.double())(batch, loop)
        grads = {name: torch.cat([p.grad.flatten() for p in getattr(nets, name).parameters() if p.grad is not None]) for name in PARTS}
        buffers = torch.cat([b.flatten().float() for b in nets.appearance.buffers()])
        found.append(({name: value.item() for name, value in losses.items()}, grads, buffers))
    (losses, grads, buffers), (losses2, grads2, buffers2) = found
    assert losses == pytest.approx(losses2, rel=1e-5, abs=1e-9) and {*losses} == {*TERMS, "d", "r1"}
    for name in PARTS:
        assert (grads[name] - grads2[name]).norm() <= 1e-6 * grads[name].norm(), name
    assert torch.allclose(buffers, buffers2, atol=1e-6)


def test_the_coin_is_fair_and_a_function_of_the_iteration():
    step = JointStep(tiny(), seed=4)
    sides = [step.coin(i) for i in range(1000)]
    assert 420 < sum(sides) < 580 and sides == [JointStep(tiny(), seed=4).coin(i) for i in range(1000)]
    assert sides != [JointStep(tiny(), seed=5).coin(i) for i in range(1000)]


# --- trainings

@pytest.mark.slow
@pytest.mark.parametrize("variant", RECIPES)
def test_both_recipes_learn_to_rebuild(world, network, variant):
    rates = {"backbone_lr": 0.002, "head_lr": 0.005} if variant == "paper" else {}  # its feed reaches G: at high rates G pleases the teacher instead of rebuilding
    settings = tiny(variant, structure_width=4, hidden=16, iterations=40, lr=3e-3, decay_at=(), warmup_start=8, **rates)
    _, log = trained(world, settings, network, log_every=4)
    assert log[-1]["img1"] < 0.9 * log[0]["img1"]
    assert "prim" not in log[1] and "prim" in log[2] and "prim" in log[-1]
    assert ("cycle" in log[-1]) == ("positive" in log[-1]) == (variant == "released")


def test_start_values(world, network):
    """Cross entropies at ln K, G's adversarial loss at 12 and D's at 6 (all but `id_c` of one direction are sums over two)."""
    _, log = trained(world, tiny(iterations=1), network, log_every=1)
    for name in ("id", "positive", "id_c"):
        assert log[0][name] == pytest.approx(2 * np.log(8), rel=0.05)
    assert log[0]["adv"] == pytest.approx(12, rel=0.02) and log[0]["d"] == pytest.approx(6, rel=0.02)


def test_same_seed_same_bits(world, network):
    runs = [trained(world, tiny(iterations=2), network, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(weights(runs[0]), weights(runs[1])) and not torch.equal(weights(runs[0]), weights(runs[2]))


def test_rates_decay_at_their_shares(world, network):
    _, log = trained(world, tiny(iterations=5, decay_at=(0.4, 0.8)), network, log_every=1)
    assert [row["lr/generator"] for row in log] == pytest.approx([5e-4, 5e-5, 5e-5, 5e-6, 5e-6])  # a row shows the rate of the next iteration


def test_without_feed_no_teacher_is_needed(world):
    settings = tiny(feed="off", iterations=1)
    assert dgnet_spec(world, settings).as_dict()["settings"]["teacher"] is None
    _, log = trained(world, settings, None, log_every=1)
    assert "prim" not in log[0] and "img1" in log[0]


def test_start_from_teacher(world, network):
    settings = tiny(start_from_teacher=True, backbone_lr=0.0, weight_decay=0.0, iterations=1)
    nets, _ = trained(world, settings, network)
    assert all(torch.equal(x, y) for x, y in zip(nets.appearance.backbone.parameters(), network.backbone.parameters()))
    with pytest.raises(ValueError, match="same backbone and truncate"):
        trained(world, tiny(start_from_teacher=True, truncate=1), network)


def test_looking_does_not_disturb(world, network):
    """The same bits with and without a callback that paints and describes."""
    def look(loop):
        model = DGNet(*[loop.plain_modules[name] for name in PARTS[:3]], tiny())
        images = sample_donors(world, (64, 32), 2)[0]
        model.swap(images, images), model.features(images), torch.rand(3)

    with_look, without = (trained(world, tiny(iterations=2), network, callbacks=calls)[0] for calls in ([(1, look)], []))
    assert torch.equal(weights(with_look), weights(without))


# --- runs

def test_a_run_keeps_what_the_results_need(run, world, store):
    plan = run.spec.as_dict()["settings"]
    assert (store.local / RunSpec(**plan["teacher"]).name).is_dir()
    for feature in ("prim", "fine", "both"):
        assert 0 <= run.metrics[f"{feature}_map_step"] <= 1 and 0 <= run.metrics[f"{feature}_rank1"] <= 1
        assert run.metrics[f"{feature}_map_step"] == pytest.approx(run.per_query[f"ap_step_{feature}"][run.per_query["counted"]].mean(), abs=1e-6)
        assert len(run.per_query[f"first_rank_{feature}"]) == len(world.query)
    assert run.per_query["nearest"].shape == (len(world.query), 10)
    assert run.metrics["images_seen"] == 3 * 4 * 4
    assert {f"loss_{name}" for name in TERMS} <= {*run.metrics} and {*TERMS} <= {*run.log.columns}
    assert sum(facts["bytes"] for name, facts in run.record["files"].items() if name != "weights.safetensors") < 100_000
    sheets = sample_sheets(run)
    assert [*sheets] == ["appearance", "structure", "0000003"] and all(sheet.shape == (64, 6 * 32, 3) for sheet in sheets.values())


def test_scores_belong_to_the_kept_weights(run, world):
    model = load_dgnet(run)
    assert not model.training and {name.split(".")[0] for name in run.weights()} == {*PARTS[:3]}
    results, near = evaluate_dgnet(model, world)
    for feature, result in results.items():
        assert result.map_step == pytest.approx(run.metrics[f"{feature}_map_step"], abs=1e-6)
    assert np.array_equal(near, run.per_query["nearest"])


def test_the_start_does_not_depend_on_when_the_teacher_was_trained(run, spec, store, tmp_path):
    """A store in which the teacher is there already, and one in which it is trained first."""
    other = RunStore(local=tmp_path, shipped=tmp_path / "none")
    other.get(RunSpec(**spec.as_dict()["settings"]["teacher"]), train=True, progress="off")
    again = other.get(spec, train=True, progress="off")
    assert all(torch.equal(x, y) for x, y in zip(run.weights().values(), again.weights().values()))


def test_swap_and_features_leave_the_model_as_it_was(run):
    model = load_dgnet(run).train()
    seed_everything("x")
    images = torch.randn(3, 3, 64, 32)
    state = rng_state()["torch"]
    painted, (prim, fine) = model.swap(images, images.flip(0)), model.features(images)
    assert painted.shape == images.shape and not painted.requires_grad and model.training and torch.equal(state, rng_state()["torch"])
    assert torch.allclose(prim.norm(dim=1), torch.ones(3), atol=1e-5) and prim.shape == fine.shape == (3, 16)
    assert torch.allclose(painted[:1], model.swap(images[:1], images.flip(0)[:1]), atol=1e-5) 


# --- precision and processes

def test_bf16_losses_stay_near_those_of_32_bits(world, network):
    logs = {}
    for precision in ("32-true", "bf16-mixed"):
        _, logs[precision] = trained(world, tiny(dropout=(0.0, 0.0), iterations=3), network, log_every=1,
                                     fabric=make_fabric(1, precision=precision, accelerator="cpu"))
    for exact, rough in zip(logs["32-true"], logs["bf16-mixed"]):
        for name in (*TERMS, "d"):
            if name in exact:
                assert rough[name] == pytest.approx(exact[name], rel=0.02, abs=0.002), (exact["iteration"], name)


PROCESSES = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from test_dgnet_joint import *
world = make_world("mannequin-market", scale="smoke")
network = make_network(baseline_settings("smoke"), world.num_train_identities)
network.load_state_dict(torch.load({weights!r}))
fabric = make_fabric(2, accelerator="cpu")
found = two(world, network, fabric)
if fabric.global_rank == 0:
    torch.save(found, {out!r})
fabric.barrier()
"""


def two(world, network, fabric, statistics="running"):
    """Losses (mean over processes) and gradients of one step, in 64 bits, E_a on its running statistics without dropout."""
    settings = tiny(batch=4)
    seed_everything("two")
    nets = make_networks(settings, world.num_train_identities, Teacher(network).double())
    if statistics == "running":
        nets.appearance.eval()
    parts = {name: getattr(nets, name).double() for name in PARTS}
    streams = TwoStreams(world, settings, world_size=fabric.world_size, rank=fabric.global_rank)
    loop = Loop(fabric, parts, make_optimizers(nets, settings), {}, Batches(streams))
    loop.iteration = 3
    batch = {side: {k: v.double() if v.is_floating_point() else v for k, v in views.items()} for side, views in next(loop.batches).items()}
    losses = JointStep(settings, nets.teacher)(batch, loop)
    losses = {name: float(fabric.all_reduce(value.detach().double(), reduce_op="mean")) for name, value in losses.items()}
    return losses, {name: torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None]) for name, part in parts.items()}


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(world, network, tmp_path):
    """Everything agrees where E_a uses its running statistics; with batch statistics its codes, and so all else, differ."""
    script = tmp_path / "two.py"
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    script.write_text(PROCESSES.format(tests=str(Path(__file__).parent), weights=str(tmp_path / "teacher.pt"), out=str(tmp_path / "found.pt")))
    subprocess.run([sys.executable, str(script)], check=True, capture_output=True, timeout=300,
                   env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])})
    losses, grads = torch.load(tmp_path / "found.pt")
    whole_losses, whole_grads = two(world, copy.deepcopy(network), make_fabric(1, accelerator="cpu"))
    assert losses == pytest.approx(whole_losses, rel=1e-6, abs=1e-12)
    for name in PARTS:
        assert (grads[name] - whole_grads[name]).norm() <= 1e-6 * whole_grads[name].norm(), name


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_dgnet_joint import *
spec = dgnet_spec(make_world("mannequin-market", scale="smoke"), tiny(iterations=14, warmup_start=4, warmup_slope=0.2), teacher=baseline_settings("smoke", epochs=1))
RunStore(local=sys.argv[1], shipped=sys.argv[1] + "-none").get(spec, train=True, progress="off")
"""


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent)), str(folder)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bits(tmp_path):
    """kill -9 during the warm-up of a run, then the same command: weights and log equal an uninterrupted run's."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    other, process = start(whole), start(broken)
    deadline = time.time() + 240
    reached = lambda: max((int(p.name[:9]) for p in broken.glob("dgnet-*.part/checkpoint/*.sha256")), default=0)
    while reached() < 6 and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(broken.glob("dgnet-*.part")) and not list(broken.glob("dgnet-*/record.json"))
    again = start(broken)
    for one in (other, again):
        assert one.wait(timeout=300) == 0, one.stderr.read().decode()[-2000:]
    runs = [next(folder.glob("dgnet-*")) for folder in (whole, broken)]
    assert json.loads((runs[1] / "record.json").read_text())["resumed"] and not json.loads((runs[0] / "record.json").read_text())["resumed"]
    for name in ("weights.safetensors", "per_query.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    logs = [[{k: v for k, v in row.items() if k != "seconds"} for row in json.loads((r / "log.json").read_text())] for r in runs]
    assert logs[0] == logs[1] and len(logs[0]) == 14


# --- what can go wrong

def changed(world, **splits):
    """The world with other records in some splits."""
    other = copy.copy(world)
    other.__dict__.pop("label_of", None)
    for name, records in splits.items():
        object.__setattr__(other, name, tuple(records))
    return other


def test_a_teacher_of_other_people_or_none(world, network):
    other = make_world("mannequin-market", scale="smoke", train_identities=9)
    with pytest.raises(ValueError, match="8 people apart, .* has 9"):
        trained(other, tiny(), network)
    with pytest.raises(ValueError, match="needs a teacher"):
        trained(world, tiny(), None)


def test_an_identity_with_one_image_is_its_own_positive(world, network):
    first = world.train[0].pid
    lonely = changed(world, train=[r for n, r in enumerate(world.train) if r.pid != first or n == 0])
    settings = tiny(flip=0.0, pad=0)
    alone = [n for n, r in enumerate(lonely.train) if r.pid == first]
    rows = [(b["a"]["index"][k].item(), b["a"]["positive_index"][k].item(), torch.equal(b["a"]["image"][k], b["a"]["positive"][k]))
            for b in TwoStreams(lonely, settings) for k in range(settings.batch)]
    assert len(alone) == 1 and any(i == alone[0] for i, _, _ in rows)
    assert all((i == p) == same == (i == alone[0]) for i, p, same in rows)
    trained(lonely, tiny(iterations=2), network)


def test_a_last_batch_of_one_is_dropped_and_a_small_set_is_refused(world, network):
    odd = changed(world, train=world.train[:9])
    assert [len(b["a"]["label"]) for b in TwoStreams(odd, tiny())] == [4, 4]
    with pytest.raises(ValueError, match="9 images do not fill one batch of 16"):
        TwoStreams(odd, tiny(batch=16))


def test_one_camera_leaves_a_run_without_scores(world, store, monkeypatch):
    """Nothing can be found, so nothing is measured; the weights are kept all the same."""
    single = changed(world, **{split: [replace(r, camid=1) for r in getattr(world, split)] for split in ("train", "query", "gallery")})
    assert can_be_evaluated(world) and not can_be_evaluated(single)
    monkeypatch.setattr(joint, "open_data", lambda data: single)
    with pytest.warns(UserWarning, match="another camera; the run is kept"):
        kept = store.get(dgnet_spec(world, tiny(feed="off", iterations=1), seed=5), train=True, progress="off")
    assert "not measured" in kept.metrics["retrieval"] and "both_map_step" not in kept.metrics and not kept.per_query
    assert load_dgnet(kept).swap(*sample_donors(world, (64, 32), 2)).shape == (2, 3, 64, 32)


def test_junk_and_distractors_are_no_counterparts(world):
    unknown = changed(world, query=[replace(r, pid=0) for r in world.query])
    assert not can_be_evaluated(unknown) and not can_be_evaluated(changed(world, query=[]))


def test_a_corrupt_jpeg_is_named(world, network, tmp_path):
    write_image_set(world, tmp_path / "set")
    victim = Path(load_image_set("market1501", tmp_path / "set").train[7].path)
    victim.write_bytes(victim.read_bytes()[:80])
    with pytest.raises(ValueError, match=f"{victim.name}.*Replace the file"):
        trained(load_image_set("market1501", tmp_path / "set"), tiny(), network)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loss_that_is_no_number_says_what_to_do(world, network, precision):
    with pytest.raises(NonFiniteLoss, match="at iteration .*lower the learning rate, warm up, or use 32-bit"):
        trained(world, tiny(lr=1e30, iterations=4), network, log_every=1, fabric=make_fabric(1, precision=precision, accelerator="cpu"))


def test_a_checkpoint_of_another_recipe_is_refused(world, network, tmp_path):
    released, paper = tiny(iterations=2), tiny("paper", iterations=2)
    trained(world, released, network, checkpoint=tmp_path, checkpoint_every=1)
    with pytest.raises(StoreError, match="made with loss_kind = 'released', this training has 'paper'"):
        trained(world, paper, network, checkpoint=tmp_path)
    with pytest.raises(StoreError, match="does not fit module"):
        trained(world, replace(released, structure_width=4), network, checkpoint=tmp_path)


def test_a_run_of_another_recipe_is_no_dgnet(run, store):
    teacher = store.get(RunSpec(**run.spec.as_dict()["settings"]["teacher"]), weights=True)
    with pytest.raises(RunStoreError, match="recipe 'baseline', not of 'dgnet'"):
        load_dgnet(teacher)


def test_missing_imagenet_weights_are_named(world, network):
    with pytest.raises(RunStoreError, match="weights_name"):
        trained(world, tiny(weights="0123456789ab"), network)


# a limit to the gradient


def moved(gradient, clip):
    """What one step of plain descent does to two weights of which the second has no gradient."""
    weight, idle = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([{"params": [weight]}, {"params": [idle], "lr": 5.0}], lr=1.0)
    limit_gradient(optimizer, clip)
    weight.grad = torch.tensor(gradient)
    optimizer.step()
    assert not idle.any()
    return weight.detach()


@pytest.mark.parametrize("gradient", [[0.3, 0.4], [0.0, 0.0], [1.2, 1.6], [3e4, -4e4]])
def test_a_long_gradient_is_shortened_and_keeps_its_direction(gradient):
    step, wanted = -moved(gradient, 2.0), torch.tensor(gradient)
    assert torch.allclose(step, wanted * min(1.0, 2.0 / max(float(wanted.norm()), 1e-12)), rtol=1e-4)


def test_the_limit_is_a_setting_of_all_three_optimizers(world):
    count = lambda settings: [len(o._optimizer_step_pre_hooks) for o in make_optimizers(make_networks(settings, 3), settings).values()]
    assert count(tiny()) == [0, 0, 0] and count(tiny(clip=1.0)) == [1, 1, 1] and dgnet_settings("laptop").clip == 30 and dgnet_settings("paper").clip == 0
    with pytest.raises(ValueError, match="clip must be at least 0"):
        tiny(clip=-1.0)
