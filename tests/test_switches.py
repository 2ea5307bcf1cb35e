"""The switches of both methods: each row is a setting that exists and differs, schedules shrink together, and a row runs from end to end."""
from dataclasses import asdict

import numpy as np
import pytest
import torch

from dgnb.catalogue import load_catalogue
from dgnb.dgnet import switches as painting
from dgnb.dgnet.step import dgnet_settings
from dgnb.image_sets import load_image_set, write_image_set
from dgnb.layers import count_parameters
from dgnb.run_store import RunStore
from dgnb.video_worlds import make_video_world
from dgnb.vrstc import switches as repairing
from dgnb.vrstc.attention import TemporalAttentionGenerator
from dgnb.vrstc.second_stages import EXCHANGES, SpaceTimeGenerator, second_stage
from dgnb.vrstc.step import STCnet, stcnet_settings
from dgnb.worlds import make_world

torch.set_num_threads(1)


@pytest.fixture()
def store(tmp_path):
    return RunStore(local=tmp_path, shipped=tmp_path)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu", "paper"])
def test_every_dgnet_switch_changes_what_it_says_and_nothing_else(scale):
    base = asdict(painting.switched_settings("released", scale))
    assert painting.switched_settings("released", scale) == dgnet_settings(scale)
    flat = lambda one: {k: v for k, v in one.items() if k != "recipe"} | one["recipe"]
    for row, switch in painting.SWITCHES.items():
        own = flat(asdict(painting.switched_settings(row, scale)))
        changed = {name for name in own if own[name] != flat(base)[name]}
        if row == "paper":
            assert {"gan", "detach_code", "code1", "judge", "feed", "reencode", "loss_kind"} <= changed
        elif not (row == "apart" and scale in ("gpu", "paper", "smoke")):
            assert changed == set(switch.changes), row


def test_a_short_training_has_all_its_schedules_shortened():
    whole, short = dgnet_settings("laptop"), painting.switched_settings("static", "laptop", 0.3)
    assert (short.iterations, short.warmup_start) == (600, 150) and short.decay_at == whole.decay_at
    risen = lambda one: one.warmup_start + one.prim / one.warmup_slope
    assert risen(short) == pytest.approx(0.3 * risen(whole))
    assert painting.switched_settings("no-warm-up", "laptop", 0.3).warmup_start == 0
    assert repairing.switched_plan("white", "laptop", 0.3).completion.iterations == 750
    with pytest.raises(ValueError, match="pseudo"):
        painting.switched_settings("pseudoo")
    with pytest.raises(ValueError, match="space-time"):
        repairing.switched_plan("space-tme")


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu", "paper"])
def test_every_stcnet_switch_changes_what_it_says_and_nothing_else(scale):
    base = asdict(stcnet_settings(scale))
    assert repairing.switched_plan("full", scale).completion == stcnet_settings(scale)
    for row, switch in repairing.SWITCHES.items():
        own = asdict(repairing.switched_plan(row, scale).completion)
        assert {name for name in own if own[name] != base[name]} <= set(switch.changes), row
    laptop = repairing.switched_plan("full", "laptop").completion
    assert all(repairing.switched_plan(row, "laptop").completion != laptop for row in repairing.SWITCHES if row != "full")


@pytest.mark.parametrize("kind", EXCHANGES)
def test_our_second_stages_use_all_three_frames_and_leave_the_rest_alone(kind):
    torch.manual_seed(0)
    net = STCnet(stcnet_settings("smoke", second=kind, channels=4)).train()
    frame, before, behind = (torch.rand(2, 3, 64, 32) * 2 - 1 for _ in range(3))
    mask = torch.zeros(2, 1, 64, 32)
    mask[:, :, 20:44] = 1
    before.requires_grad_(), behind.requires_grad_()
    for parameter in net.temporal.parameters():  # blocks that start as the identity, made to do something
        torch.nn.init.normal_(parameter, std=0.05) if (parameter == 0).all() else None
    _, painted = net(frame, before, behind, mask)
    assert torch.equal(torch.where(mask > 0, 0, painted), torch.where(mask > 0, 0, frame))
    (painted * mask).square().sum().backward()
    assert before.grad.abs().sum() > 0 and behind.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in net.temporal.parameters())


def test_where_they_begin():
    """Both blocks begin as the stage that passes the neighbours on; early attention has the weights of the paper's stage and other answers."""
    make = lambda kind: (torch.manual_seed(3), second_stage(kind, 4, (1, 2, 4, 8), 10.0, "centres"))[1]
    frames = [torch.rand(2, 3, 32, 16) for _ in range(3)]
    plain, late = make("neighbours"), make("attention")
    for kind in ("non-local", "space-time"):
        built = make(kind).eval()
        built.load_state_dict(plain.state_dict(), strict=False)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(built.features(*frames), plain.features(*frames)))
    early = make("early attention")
    assert {k: v.shape for k, v in early.state_dict().items()} == {k: v.shape for k, v in late.state_dict().items()}
    assert torch.equal(early.features(*frames)[0], late.features(*frames)[0]) and not torch.allclose(early.features(*frames)[1], late.features(*frames)[1])
    assert type(late) is TemporalAttentionGenerator and isinstance(early, SpaceTimeGenerator)


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_the_matched_control_has_the_size_of_three_encoders_and_sees_no_neighbour(scale):
    sizes = {kind: count_parameters(STCnet(stcnet_settings(scale, second=kind))) for kind in ("neighbours", "alone", "alone matched")}
    assert abs(sizes["alone matched"] / sizes["neighbours"] - 1) < 0.04 < sizes["alone"] / sizes["neighbours"] - 1
    net = STCnet(stcnet_settings("smoke", second="alone matched", channels=4)).eval()
    frames, mask = [torch.rand(1, 3, 64, 32) for _ in range(4)], torch.zeros(1, 1, 64, 32)
    mask[:, :, 20:44] = 1
    assert torch.equal(net(*frames[:3], mask)[1], net(frames[0], frames[3], frames[2], mask)[1])


def test_a_dgnet_row_is_trained_and_measured(store):
    people = make_world("mannequin-market", scale="smoke", train_identities=4, test_identities=8, distractors=2, junk=2)
    settings = painting.switched_settings("static", "smoke", 0.2)
    run = store.get(painting.switch_spec(people, settings, pairs=6, outline=2), train=True, progress="off")
    trained = store.get(run.spec.__class__(**run.spec.as_dict()["settings"]["of"]))
    assert np.allclose(run.per_query["ap_both"], trained.per_query["ap_step_both"][trained.per_query["counted"]], atol=1e-3)
    assert run.per_query["psnr"].shape == run.per_query["colour"].shape == (6,) and np.isfinite(run.per_query["colour"].astype(float)).all()
    assert len(painting.switch_pictures(run)) == 6 and painting.switch_pictures(run)[0].shape == (64, 32, 3)
    assert sum(file.stat().st_size for file in run.folder.iterdir()) < 40_000


def test_a_row_of_a_real_set_has_no_swaps(tmp_path):
    write_image_set(make_world("mannequin-market", scale="smoke", train_identities=4, test_identities=4), tmp_path / "set")
    people = load_image_set("market1501", tmp_path / "set")
    assert painting.switch_spec(people, painting.switched_settings("static")).settings["swaps"] is None


def test_the_catalogue_lists_the_switches():
    catalogue = load_catalogue()
    for name, module in {"dgnet-switches": painting, "stcnet-switches": repairing}.items():
        assert list(catalogue[name].choices["rows"]) == [row for row in module.SWITCHES if row != module.REFERENCE]
        assert all(set(scale.parameters.get("rows", [])) <= set(module.SWITCHES) for scale in catalogue[name].scales.values() if scale)


def test_an_stcnet_row_is_trained_and_measured(store):
    town = make_video_world("mannequin-mars", "smoke", longest=6, mean_length=5, train_identities=4, distractors=1, junk=1)
    plan = repairing.switched_plan("space-time", "smoke", 0.1)
    run = store.get(repairing.switch_spec(town, plan, 6), train=True, progress="off")
    assert run.per_query["psnr"].shape == (6,) and len(repairing.switch_pictures(run)) == len(run.per_query["shown"])
    assert 0 <= run.per_query["ap"].astype(float).mean() <= 1 and run.metrics["rank1"] >= 0
    assert sum(file.stat().st_size for file in run.folder.iterdir()) < 40_000
    with pytest.raises(ValueError, match="search=True"):
        repairing.switch_spec(type("Real", (), {"name": "a real set"})(), plan, search=False)
