"""STCnet: settings and variants, the loss over holes, one step, whole trainings, resuming, runs, precision, and what can go wrong."""
import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from dgnb.layers import count_parameters
from dgnb.resuming import Batches, rng_state
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.safe_files import StoreError
from dgnb.scales import SCALES, seed_everything
from dgnb.training import Loop, NonFiniteLoss, make_fabric
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.critics import IDGuider
from dgnb.vrstc.holes import CleanFrames, clean_frames, load_holes, measure, practice_cases
from dgnb.vrstc.stcnet import (STCNET_VARIANTS, STCnet, STCnetSettings, StepSTCnet, compare, hole_l1, load_stcnet, make_judges, make_loader,
                               sample_strips, stcnet_settings, stcnet_settings_of, stcnet_spec, strip_moments, train_stcnet)
from dgnb.vrstc.video_reid import VideoReIDNetwork
from dgnb.vrstc.video_training import video_settings, video_spec

TINY = dict(channels=2, critic_channels=2, batch=4, iterations=4, only_l1=0.25)


def tiny(variant="full", **changes):
    return stcnet_settings("smoke", variant, **(TINY | changes))


@pytest.fixture(scope="module")
def world():
    return make_video_world("mannequin-mars", "smoke")


@pytest.fixture(scope="module")
def guider():
    seed_everything("guider")
    return IDGuider(VideoReIDNetwork(8, "resnet10t", truncate=2), (64, 32))


@pytest.fixture(scope="module")
def batch(world):
    loader = make_loader(world, tiny(), 0, None, None, make_fabric(accelerator="cpu"))
    return next(iter(loader))


def make_loop(settings, batch, precision="32-true", lr=1e-3):
    seed_everything("loop")
    net, judges = STCnet(settings), make_judges(settings)
    optimizers = {"generators": torch.optim.SGD(net.parameters(), lr)}
    if judges:
        optimizers["judges"] = torch.optim.SGD([p for j in judges.values() for p in j.parameters()], lr)
    return Loop(make_fabric(precision=precision, accelerator="cpu"), {"stcnet": net} | judges, optimizers, {}, Batches([batch]))


def train(world, settings, seed=0, guider=None, **options):
    seed_everything("train")
    return train_stcnet(world, settings, seed, guider, **({"progress": "off", "log_every": 1} | options))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# settings

@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("variant", STCNET_VARIANTS)
def test_settings_survive_a_run_key(scale, variant):
    settings = stcnet_settings(scale, variant)
    assert STCnetSettings(**json.loads(json.dumps(asdict(settings)))) == settings
    assert STCnetSettings(**RunSpec("x", 1, asdict(settings)).as_dict()["settings"]) == settings


def test_defaults_are_the_papers():
    paper = stcnet_settings("paper")
    assert paper == STCnetSettings() and (paper.lr, paper.lambda1, paper.lambda2, paper.size, paper.tau, paper.clean) == (1e-4, 1e-3, 0.1, (128, 64), 0.89, "scores")
    assert paper.judges == ("local", "global") and paper.second == "attention" and paper.guided


def test_laptop_is_small():
    settings = stcnet_settings("laptop")
    assert settings.size == (64, 32) and settings.iterations * settings.batch <= 50_000 and count_parameters(STCnet(settings)) < 1.5e6


@pytest.mark.parametrize("changes, words", [
    ({"batch": 1}, "at least 2"), ({"height": 66}, "multiples of 4"), ({"judges": ("locals",)}, "discriminator"), ({"second": "nothing"}, "second"),
    ({"only_l1": 1.5}, "0 to 1"), ({"iterations": 0}, "at least 1"), ({"reach": 0}, "reach"), ({"two_bands": 2}, "two_bands"), ({"clean": "guess"}, "clean"),
    ({"rule": "median"}, "rule"), ({"guider_scale": "huge"}, "guider_scale")])
def test_settings_refuse_nonsense(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)


def test_unknown_names_are_listed():
    for call in (lambda: stcnet_settings("tiny"), lambda: stcnet_settings("smoke", "spa"), lambda: stcnet_settings("smoke", lamda1=1)):
        with pytest.raises(ValueError, match="Valid"):
            call()


# networks and losses

def test_parameter_counts():
    counts = {v: count_parameters(STCnet(stcnet_settings("paper", v))) for v in ("spatial", "tae", "temporal", "full")}
    assert counts == {"spatial": 4_126_083, "tae": 16_238_342, "temporal": 16_238_342, "full": 16_238_342}
    assert {name: count_parameters(j) for name, j in make_judges(stcnet_settings("paper")).items()} == {"local": 6_275_457, "global": 6_275_457}
    assert make_judges(stcnet_settings("paper", local_view="crop"))["local"].size == (64, 64)


@pytest.mark.parametrize("variant", ["spatial", "ae", "tae", "temporal"])
def test_forward_keeps_what_is_seen(variant, batch):
    net = STCnet(tiny(variant))
    coarse, refined = net(batch["frame"], batch["previous"], batch["next"], batch["mask"])
    hole = (batch["mask"] > 0).expand_as(coarse)
    for images in (coarse, refined):
        assert torch.equal(images[~hole], batch["frame"][~hole]) and not torch.equal(images[hole], batch["frame"][hole]) and images.abs().max() <= 1
    assert (coarse is refined) == (variant == "spatial")


@pytest.mark.parametrize("variant", ["spatial", "temporal"])
def test_nothing_leaks_out_of_the_hole(variant, batch):
    net = STCnet(tiny(variant))
    spoiled = torch.where(batch["mask"] > 0, torch.rand_like(batch["frame"]), batch["frame"])
    a, b = (net(frame, batch["previous"], batch["next"], batch["mask"])[1] for frame in (batch["frame"], spoiled))
    assert torch.equal(a, b)


def test_complete_is_forward_in_pieces_and_disturbs_nothing(batch):
    net = STCnet(tiny()).train()
    args = (batch["frame"], batch["previous"], batch["next"], batch["mask"])
    before = rng_state()["torch"]
    done, coarse = net.complete(*args, batch=3), net.complete(*args, coarse=True)
    assert net.training and not done.requires_grad and torch.equal(before, rng_state()["torch"])
    wanted = net(*args)
    assert torch.allclose(done, wanted[1], atol=1e-6) and torch.allclose(coarse, wanted[0], atol=1e-6)


def test_hole_l1_is_a_mean_over_masked_numbers(batch):
    painted, truth, mask = torch.randn(4, 3, 64, 32), batch["frame"], batch["mask"]
    wanted = (painted - truth).abs()[(mask > 0).expand_as(truth)].mean()
    assert torch.isclose(hole_l1(painted, truth, mask), wanted)
    assert hole_l1(painted.bfloat16(), truth, mask).dtype == torch.float32 and hole_l1(painted, truth, 0 * mask) == 0
    twice = torch.cat([painted, painted])
    assert torch.isclose(hole_l1(twice, torch.cat([truth, truth]), torch.cat([mask, mask])), wanted)


# one step

def test_a_step_is_the_papers_equations(batch, guider):
    """The same iteration written out by hand gives the same losses and the same weights."""
    import torch.nn.functional as F
    settings = tiny(only_l1=0.0)
    loop = make_loop(settings, batch)
    nets = {name: copy.deepcopy(m) for name, m in loop.plain_modules.items()}
    terms = StepSTCnet(settings, guider)(batch, loop)

    x, mask, area = batch["frame"], batch["mask"], 3 * batch["mask"].sum()
    x1, x2 = nets["stcnet"](x, batch["previous"], batch["next"], mask)
    judge = lambda name, images: nets[name](images * mask if name == "local" else images).sigmoid()
    d = {name: -(judge(name, x).log() + (1 - judge(name, x2.detach())).log()).mean() for name in ("local", "global")}
    weights = [p for name in d for p in nets[name].parameters()]
    for p, g in zip(weights, torch.autograd.grad(sum(d.values()), weights)):
        p.data -= 1e-3 * g
    wanted = {"l1_coarse": ((x - x1).abs() * mask).sum() / area, "l1_refined": ((x - x2).abs() * mask).sum() / area,
              **{name: -judge(name, x2).log().mean() for name in d}, "identity": F.cross_entropy(guider(x2), batch["label"])}
    total = wanted["l1_coarse"] + wanted["l1_refined"] + 0.001 * (wanted["local"] + wanted["global"]) + 0.1 * wanted["identity"]
    weights = list(nets["stcnet"].parameters())
    for p, g in zip(weights, torch.autograd.grad(total, weights, allow_unused=True)):
        p.data -= 1e-3 * (0 if g is None else g)

    assert set(terms) == {*wanted, "d_local", "d_global"}
    for name, value in (wanted | {f"d_{name}": loss for name, loss in d.items()}).items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    for name in nets:
        for mine, theirs in zip(nets[name].parameters(), loop.plain_modules[name].parameters()):
            assert torch.allclose(mine, theirs, atol=1e-6), name


@pytest.mark.parametrize("variant, names", [
    ("spatial", {"l1_coarse"}), ("ae", {"l1_coarse", "l1_refined"}), ("tae", {"l1_coarse", "l1_refined"}), ("temporal", {"l1_coarse", "l1_refined"}),
    ("local", {"l1_coarse", "l1_refined", "local", "d_local"}), ("global", {"l1_coarse", "l1_refined", "local", "global", "d_local", "d_global"}),
    ("full", {"l1_coarse", "l1_refined", "local", "global", "d_local", "d_global", "identity"})])
def test_variants_have_their_terms(variant, names, batch, guider):
    settings = tiny(variant, only_l1=0.5)
    loop = make_loop(settings, batch)
    step = StepSTCnet(settings, guider)
    early = step(batch, loop)
    loop.iteration = settings.late
    assert set(early) == {"l1_coarse", "l1_refined"} & names and set(step(batch, loop)) == names


def test_l1_alone_leaves_the_judges_alone(batch, guider):
    settings = tiny(only_l1=1.0)
    loop = make_loop(settings, batch)
    before = {name: copy.deepcopy(m) for name, m in loop.plain_modules.items()}
    StepSTCnet(settings, guider)(batch, loop)
    assert not same(before["stcnet"], loop.plain_modules["stcnet"]) and all(same(before[n], loop.plain_modules[n]) for n in ("local", "global"))


def test_the_guider_is_not_trained(batch, guider):
    before = copy.deepcopy(guider)
    loop = make_loop(tiny(only_l1=0.0), batch)
    StepSTCnet(tiny(only_l1=0.0), guider)(batch, loop)
    assert same(before, guider) and not any(m.training for m in guider.modules()) and all(p.grad is None for p in guider.parameters())


def test_crop_view_trains(batch):
    settings = tiny("local", local_view="crop", only_l1=0.0)
    assert np.isfinite([v.item() for v in StepSTCnet(settings)(batch, make_loop(settings, batch)).values()]).all()


def test_bf16_gives_nearly_the_same_losses(batch, guider):
    settings = tiny(only_l1=0.0, channels=8, critic_channels=8)
    full, half = (StepSTCnet(settings, guider)(batch, make_loop(settings, batch, precision)) for precision in ("32-true", "bf16-mixed"))
    for name in full:
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.02), name


# trainings

def test_a_training_learns(world):
    _, log = train(world, tiny("temporal", channels=4, batch=8, iterations=30, lr=5e-3))
    assert np.mean([row["l1_refined"] for row in log[-5:]]) < 0.85 * np.mean([row["l1_refined"] for row in log[:5]])


def test_same_seed_same_network(world, guider):
    a, b, other = (train(world, tiny(), seed, guider)[0] for seed in (0, 0, 1))
    assert same(a, b) and not same(a, other)


@pytest.mark.parametrize("stop", [1, 3])
def test_resume_is_as_if_never_stopped(world, guider, tmp_path, stop):
    def pull(loop):
        if loop.iteration == stop:
            raise KeyboardInterrupt
    settings = tiny(decay_at=(0.5,), flip=0.5, two_bands=0.5, reach=2)
    whole, log = train(world, settings, 0, guider)
    with pytest.raises(KeyboardInterrupt):
        train(world, settings, 0, guider, checkpoint=tmp_path, checkpoint_every=1, callbacks=[(1, pull)])
    broken, again = train(world, settings, 0, guider, checkpoint=tmp_path, checkpoint_every=1)
    plain = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert same(whole, broken) and plain(log) == plain(again)


def test_looking_changes_nothing(world, guider):
    cases = practice_cases(world, world.query, world.size, 2)
    look = lambda loop: {"brightness": loop.plain_modules["stcnet"].complete(cases.frame, cases.previous, cases.next, cases.mask).mean().item()}
    assert same(train(world, tiny(), 0, guider)[0], train(world, tiny(), 0, guider, callbacks=[(1, look)])[0])


def test_rate_falls(world):
    _, log = train(world, tiny("spatial", decay_at=(0.5,), lr=1e-3))
    assert [round(row["lr"], 6) for row in log] == [1e-3, 1e-3, 1e-4, 1e-4] or [round(row["lr"], 6) for row in log] == [1e-3, 1e-4, 1e-4, 1e-4]


def test_scores_of_the_localizer_choose_the_frames(world, guider):
    fabric = make_fabric(accelerator="cpu")
    loader = make_loader(world, tiny(clean="scores", rule="quantile", tau=0.1), 0, guider, None, fabric)
    total = sum(r.length for r in world.train)
    assert 0.6 * total < len(loader.frames) < 0.95 * total
    none = make_loader(world, tiny(clean="all"), 0, None, None, fabric)
    assert len(none.frames) == total and len(make_loader(world, tiny(), 0, None, None, fabric).frames) <= clean_frames(world, world.train).sum()
    with pytest.raises(ValueError, match="localizer needs a pretrained network"):
        make_loader(world, tiny("spatial", clean="scores"), 0, None, None, fabric)
    with pytest.raises(ValueError, match="none of"):
        make_loader(world, tiny(clean="scores", tau=1.1), 0, guider, None, fabric)


def test_a_table_overrides(world):
    table = world.occlusions(world.train)
    fabric = make_fabric(accelerator="cpu")
    table["upper"] = (table.frame > 2).astype(float)
    table["middle"] = table["lower"] = 0.0
    assert (make_loader(world, tiny("spatial"), 0, None, table, fabric).frames.places[:, 1] <= 2).all()


def test_faults(world, guider, tmp_path):
    with pytest.raises(ValueError, match="needs a guider"):
        train(world, tiny())
    with pytest.raises(ValueError, match="tells 8 people apart.*has 9"):
        train(make_video_world("mannequin-mars", "smoke", train_identities=9), tiny(), 0, guider)
    with pytest.raises(ValueError, match="smaller batch"):
        train(world, tiny("spatial", batch=1000))
    with pytest.raises(NonFiniteLoss, match="lower the learning rate"):
        train(world, tiny("spatial", lr=1e30))
    train(world, tiny("temporal"), checkpoint=tmp_path, checkpoint_every=1)
    with pytest.raises(StoreError, match="second|lambda2"):
        train(world, tiny("tae"), checkpoint=tmp_path, checkpoint_every=1)


def test_batch_is_shared_evenly(world):
    class Two:
        world_size, global_rank, device = 2, 1, "cpu"
    assert make_loader(world, tiny(batch=8), 0, None, None, Two()).share == (4, 1, 2, True)
    with pytest.raises(ValueError, match="cannot be shared by 2"):
        make_loader(world, tiny(batch=5), 0, None, None, Two())


# measures and runs

def test_compare(world):
    net, cases = STCnet(tiny("temporal")), practice_cases(world, world.gallery, world.size, 4)
    scores = compare(net, cases)
    assert [*scores] == ["stcnet", "coarse", "neighbour copy", "mean band"] and all(len(s) == len(cases) for s in scores.values())
    args = (cases.frame, cases.previous, cases.next, cases.mask)
    assert scores["stcnet"].equals(measure(cases, net.complete(*args))) and scores["coarse"].equals(measure(cases, net.complete(*args, coarse=True)))


def test_strip_moments():
    assert strip_moments(100) == [5, 25, 100] and strip_moments(1) == [1] and strip_moments(2)[-1] == 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped=tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def small():
    return make_video_world("mannequin-mars", "smoke", test_identities=4, distractors=0, junk=0)


@pytest.fixture(scope="module")
def run(small, store):
    spec = stcnet_spec(small, tiny(), guider=video_settings("smoke", epochs=1, truncate=2))
    return store.get(spec, train=True, weights=True, progress="off")


def test_a_run_has_everything(small, run, store):
    guider = RunSpec(**run.spec.as_dict()["settings"]["guider"])
    assert guider == video_spec(small, video_settings("smoke", epochs=1, truncate=2)) and store.get(guider).metrics["classes"] == 8
    for kind in ("practice", "twins"):
        for name in ("stcnet", "coarse", "neighbour_copy", "mean_band"):
            assert run.metrics[f"{kind}_{name}_psnr"] == pytest.approx(run.per_query[f"{kind}_{name}_psnr"].mean(), rel=1e-4)
            assert 0 < run.metrics[f"{kind}_{name}_l1"] < 1 and run.metrics[f"{kind}_{name}_ssim"] <= 1
        assert len(run.per_query[f"{kind}_gap"]) == run.metrics[f"{kind}_cases"] > 0
    assert run.metrics["frames_seen"] == 16 and {"loss_l1_refined", "loss_identity", "loss_d_local"} <= set(run.metrics)
    strips = sample_strips(run)
    assert [*strips] == ["holes", "truth", "0000001", "0000004"] and len({s.shape for s in strips.values()}) == 1
    assert sum(f["bytes"] for n, f in run.record["files"].items() if n != "weights.safetensors") < 100_000


def test_a_run_gives_its_network_back(small, run):
    net, cases = load_stcnet(run), practice_cases(small, small.query, small.size, 24)
    assert not net.training and net.settings == stcnet_settings_of(run.spec) == tiny()
    assert compare(net, cases)["stcnet"].psnr.mean() == pytest.approx(run.metrics["practice_stcnet_psnr"], abs=1e-3)


def test_a_run_does_not_depend_on_when_its_guider_was_trained(run, tmp_path):
    fresh = RunStore(local=tmp_path, shipped=tmp_path / "none")
    fresh.get(RunSpec(**run.spec.as_dict()["settings"]["guider"]), train=True, weights=True, progress="off")
    torch.rand(5)
    assert fresh.get(run.spec, train=True, progress="off").metrics == run.metrics


def test_specs(world, store, run):
    full, spatial = stcnet_spec(world, tiny()), stcnet_spec(world, tiny("spatial"))
    assert full.as_dict()["settings"]["guider"]["recipe"] == "video-reid" and spatial.as_dict()["settings"]["guider"] is None
    assert stcnet_spec(world, tiny("spatial", clean="scores")).as_dict()["settings"]["guider"] is not None
    keys = {s.key for s in (full, spatial, stcnet_spec(world, tiny(), 1), stcnet_spec(world, tiny(lambda1=0)), stcnet_spec(world, tiny(), guider=video_settings("smoke", epochs=1)))}
    assert len(keys) == 5
    with pytest.raises(RunStoreError, match="video-reid.*stcnet_spec"):
        load_stcnet(store.get(RunSpec(**run.spec.as_dict()["settings"]["guider"]), weights=True))
