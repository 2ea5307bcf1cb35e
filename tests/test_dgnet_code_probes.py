"""Probes of DG-Net's codes: the same numbers as the plain probe, paired comparisons with known answers, and the recipe."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.dgnet.code_probes import CELLS, DualRidge, code_probes_spec, code_skills, codes_of, compare_codes, read_codes, skill_difference
from dgnb.dgnet.joint import DGNet, dgnet_spec
from dgnb.dgnet.step import dgnet_settings, make_networks
from dgnb.probes import make_target, probe, ridge_weights
from dgnb.run_store import RunStore
from dgnb.worlds import make_world

torch.set_num_threads(1)
PEOPLE = np.repeat(np.arange(20), 5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([0.1, 1.0, 1000.0]))
def test_both_sides_of_the_ridge_agree(seed, width, penalty):
    rng = np.random.default_rng(seed)
    x, y, new = rng.normal(size=(12, width)), rng.normal(size=(12, 2)), rng.normal(size=(3, width))
    assert np.allclose(DualRidge(x @ x.T, y).predict(new @ x.T, [penalty])[0], new @ ridge_weights(x, y, [penalty])[0])


@pytest.mark.parametrize("width", [3, 250])
def test_many_factors_at_once_are_read_as_one_by_one(width):
    rng = np.random.default_rng(width)
    codes = rng.normal(size=(100, width)) + 3
    targets = {"height": make_target("height", codes[:, 0] + rng.normal(size=100)), "yaw": make_target("yaw", rng.uniform(0, 360, 100)),
               "bag": make_target("bag", np.where(codes[:, 1] > 3, "backpack", "none"))}
    for name, table in read_codes(codes, targets, PEOPLE, 4, seed=3).items():
        slow = probe(codes, targets[name], PEOPLE, 4, seed=3)
        assert np.allclose(table, slow) and (table.index == slow.index).all()


def test_too_few_people_are_refused():
    with pytest.raises(ValueError, match="2 people cannot be split into 5 folds"):
        read_codes(np.zeros((4, 2)), {"height": make_target("height", np.arange(4.0))}, np.repeat([0, 1], 2))


def test_a_difference_is_that_of_the_mean_skills():
    rng = np.random.default_rng(0)
    constant = rng.uniform(1, 2, (3, 40))
    first, second = 0.2 * constant, 0.5 * constant
    found = skill_difference(first, second, constant)
    assert found.mean == pytest.approx(0.3) and found.low == pytest.approx(0.3) and found.high == pytest.approx(0.3) and found.spread is None
    seeds = skill_difference(np.stack([first, 0.3 * constant]), np.stack([second, second]), constant)
    assert seeds.mean == pytest.approx(0.25) and seeds.seeds == 2 and seeds.spread == pytest.approx(np.std([0.3, 0.2], ddof=1))


def test_a_draw_without_variation_says_nothing():
    constant = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = skill_difference(np.zeros((2, 3)), constant, constant)
    assert found.mean == 1.0 and 0.5 <= found.low <= found.high <= 1.0


def test_noise_is_no_difference_and_the_interval_is_over_people():
    rng = np.random.default_rng(1)
    constant = np.ones((2, 60))
    a, b = rng.uniform(0, 1, (2, 60)), rng.uniform(0, 1, (2, 60))
    found = skill_difference(a, b, constant)
    assert found.low < 0 < found.high or abs(found.mean) > 0.05
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std((b - a).mean(0)) / np.sqrt(60), rel=0.1)
    with pytest.raises(ValueError, match="not of the same factors and people"):
        skill_difference(a, b[:, :-1], constant)


def test_large_maps_are_averaged_and_the_model_stays_as_it_was():
    world, chosen = make_world("mannequin-market", scale="smoke", size=(128, 64)), dgnet_settings("smoke", height=128, width=64)
    nets = make_networks(chosen, 4)
    model = DGNet(nets.appearance, nets.structure, nets.decoder, chosen).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    codes = codes_of(model, world, world.query[:3])
    assert codes["s"].shape == (3, 32 * CELLS[0] * CELLS[1]) and codes["a"].shape == (3, nets.appearance.code_size)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_recipe(tmp_path):
    world = make_world("mannequin-market", scale="smoke")
    of = dgnet_spec(world, dgnet_settings("smoke", iterations=2, warmup_start=1))
    store = RunStore(local=tmp_path, shipped=tmp_path)
    run, fresh = (store.get(code_probes_spec(of, untrained=untrained), train=True, progress="off") for untrained in (False, True))
    assert run.spec.key != fresh.spec.key and run.metrics["skill"] != fresh.metrics["skill"]
    for code in ("a", "s", "f_prim", "f_fine"):
        table = code_skills(run.metrics, code)
        assert list(table.factor) == run.metrics["factors"] and (table.low <= table.high).all()
        rows = 1 - run.per_query[f"loss_{code}"].astype(float).sum(1) / run.per_query["constant"].astype(float).sum(1)
        assert np.allclose(rows, table.skill, atol=5e-3)
    found = compare_codes([run], "a", "s", ("upper_colour", "no such factor"))
    table = {code: code_skills(run.metrics, code).set_index("factor").skill["upper_colour"] for code in "as"}
    assert found.mean == pytest.approx(table["a"] - table["s"], abs=5e-3)
    names = ("upper_colour", "yaw")
    learned, bare, beyond = (compare_codes([one], "a", "s", names, beyond=twin) for one, twin in ((run, None), (fresh, None), (run, [fresh])))
    assert beyond.mean == pytest.approx(learned.mean - bare.mean, abs=1e-9)
    with pytest.raises(ValueError, match="none of no such factor was probed"):
        compare_codes([run], "a", "s", ("no such factor",))
