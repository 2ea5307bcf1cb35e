"""Grades of swaps: pairs of training people, what keeping the best half is worth by hand, and a run from end to end."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgnb.dgnet.filtering import FILTERS, filter_spec, kept_against_all, training_pairs
from dgnb.dgnet.joint import dgnet_spec
from dgnb.dgnet.step import dgnet_settings
from dgnb.run_store import RunStore, RunStoreError
from dgnb.worlds import make_world

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke", train_identities=4, test_identities=6, distractors=2, junk=2)


def test_pairs_are_of_training_people_who_differ(world):
    pairs = training_pairs(world, 40)
    assert len(pairs) == 40 and {*pairs.appearance, *pairs.structure} <= set(world.train)
    assert all(a.pid != b.pid for a, b in zip(pairs.appearance, pairs.structure)) and training_pairs(world, 40, 1) != pairs == training_pairs(world, 40)


@given(st.lists(st.tuples(st.floats(-5, 5, allow_subnormal=False), st.floats(-9, 9, allow_subnormal=False)), min_size=2, max_size=30), st.sampled_from([0.25, 0.5, 0.8]), st.data())
def test_what_keeping_is_worth_by_hand(rows, share, data):
    grades, values = map(np.array, zip(*rows))
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    gone[0] = False
    values = np.where(gone, np.nan, values)
    kept = [n for n in np.argsort(np.where(gone, -np.inf, grades), kind="stable") if not gone[n]][-max(1, round(share * (~gone).sum())):]
    found = kept_against_all(grades, values, share)
    assert found[~gone].mean() == pytest.approx(values[kept].mean() - np.nanmean(values), abs=1e-9) and not found[gone].any()
    assert np.allclose(kept_against_all(np.stack([grades, -grades]), np.stack([values, values]), share)[0], found)


def test_a_share_that_keeps_all_or_none():
    with pytest.raises(ValueError, match="less than all"):
        kept_against_all(np.ones(3), np.ones(3), 1.0)


def test_a_run_keeps_grades_and_errors(world, tmp_path):
    store = RunStore(local=tmp_path, shipped=tmp_path)
    of = dgnet_spec(world, dgnet_settings("smoke", iterations=2, warmup_start=1))
    run = store.get(filter_spec(of, 10), train=True, progress="off")
    assert {f"grade_{name}" for name in FILTERS} < run.per_query.keys() and all(len(values) == 10 for values in run.per_query.values())
    q = run.per_query["grade_recognised"]
    assert (q <= run.per_query["grade_certain"] + 1e-6).all() and (q >= 0).all() and (run.per_query["grade_structure"] <= 0).all()
    assert (np.abs(run.per_query["grade_alike"]) <= 1 + 1e-5).all()
    with pytest.raises(RunStoreError, match="without a teacher"):
        filter_spec(dgnet_spec(world, dgnet_settings("smoke", feed="off")))
