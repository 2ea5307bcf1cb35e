"""Linear probes: right answers on features that hold or do not hold a factor, and the recipe."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.baseline import baseline_settings, baseline_spec
from dgnb.probes import FACTORS, draw_skills, make_target, probe, probe_all, probes_spec, ridge_weights, skill, skills
from dgnb.run_store import RunStore
from dgnb.worlds import make_world

PEOPLE = np.repeat(np.arange(40), 5)


def test_a_factor_in_the_feature_is_read_and_noise_is_not():
    rng = np.random.default_rng(0)
    value = rng.normal(size=40)[PEOPLE]
    noise = rng.normal(size=(200, 10))
    assert skill(probe(np.c_[noise, value], make_target("height", value), PEOPLE))[0] > 0.99
    low = skill(probe(noise, make_target("height", value), PEOPLE))
    assert low[0] < 0.05 and low[1] <= low[0] <= low[2]


def test_categories_and_angles():
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 3, 40)[PEOPLE]
    yaw = rng.uniform(0, 360, 200)
    feature = np.c_[np.eye(3)[kind], np.cos(np.deg2rad(yaw)), np.sin(np.deg2rad(yaw))]
    assert skill(probe(feature, make_target("bag", np.array(["none", "backpack", "handbag"])[kind]), PEOPLE))[0] == 1.0
    assert skill(probe(feature, make_target("yaw", yaw), PEOPLE))[0] > 0.99
    target = make_target("yaw", np.array([0.0, 360.0]))
    assert np.allclose(target.values[0], target.values[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 30.0]))
def test_ridge_equals_the_normal_equations(seed, penalty):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 2))
    assert np.allclose(ridge_weights(x, y, [penalty])[0], np.linalg.solve(x.T @ x + penalty * np.eye(4), x.T @ y))


def test_an_identity_tag_does_not_leak():
    rng = np.random.default_rng(2)
    secret = np.array(["heads", "tails"])[rng.integers(0, 2, 40)][PEOPLE]
    tag = np.eye(40)[PEOPLE] + 0.02 * rng.normal(size=(200, 40))
    assert skill(probe(tag, make_target("secret", secret), PEOPLE))[0] < 0.15


def test_too_few_people_are_refused():
    with pytest.raises(ValueError, match="3 people cannot be split into 5 folds"):
        probe(np.zeros((6, 2)), make_target("height", np.arange(6.0)), np.repeat(np.arange(3), 2))


def test_constant_factors_are_left_out():
    world = make_world("mannequin-market", scale="smoke")
    rows = world.factors[world.factors.split != "train"]
    found = probe_all(np.random.default_rng(0).normal(size=(len(rows), 4)), rows.assign(bag="none"), folds=4)
    assert "bag" not in set(found.factor) and set(found.group) == set(FACTORS)


def test_the_recipe_keeps_a_table(tmp_path):
    world, store = make_world("mannequin-market", scale="smoke"), RunStore(local=tmp_path / "runs", shipped=tmp_path / "none")
    run = store.get(probes_spec(baseline_spec(world, baseline_settings("smoke", epochs=1)), folds=4), train=True, progress="off")
    table = skills(run.metrics)
    assert (table.low <= table.skill).all() and (table.skill <= table.high).all()
    assert run.metrics["people"] == 8
    assert isinstance(table, pd.DataFrame) and draw_skills({"baseline": table, "again": table}).axes
