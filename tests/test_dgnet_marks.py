"""Marks on shirts and the weight of the fine feature: right answers where they are known, faults, and both recipes."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.bodies import PARTS
from dgnb.dgnet.joint import dgnet_spec, extract_both, load_dgnet
from dgnb.dgnet.marks import LOGO, MARKS, REGULAR, centred, dressed, extremes, levels, marks_spec, share_carried, wearing
from dgnb.dgnet.step import dgnet_settings
from dgnb.dgnet.swaps import examples, swap_pairs, true_swaps
from dgnb.dgnet.weighing import BETAS, weigh, weighing_spec
from dgnb.people import LOGOS, PATTERNS
from dgnb.run_store import RunStore
from dgnb.worlds import make_world

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke", test_identities=16)


@pytest.fixture(scope="module")
def pairs(world):
    return swap_pairs(world, 16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return RunStore(local=folder, shipped=folder)


@pytest.fixture(scope="module")
def tiny():
    return dgnet_spec(make_world("mannequin-market", scale="smoke"), dgnet_settings("smoke", iterations=2, warmup_start=1))


def test_every_mark_of_the_world_is_there_once():
    assert set(MARKS) == (set(PATTERNS) | set(LOGOS)) - {"plain", "none"} and len(MARKS) == len(set(MARKS))
    assert set(REGULAR) < set(PATTERNS) and set(LOGO) < set(LOGOS)


def test_a_mark_changes_nothing_but_the_mark(world, pairs):
    looks = {"pattern": np.array([3, 0]), "logo": np.array([0, 2]), "upper_colour": np.array([5, 6])}
    worn = wearing(looks, "chest")
    assert worn["pattern"].tolist() == [0, 0] and worn["logo"].tolist() == [1, 1] and worn["upper_colour"] is looks["upper_colour"]
    assert looks["pattern"].tolist() == [3, 0]
    plain, marked = (dressed(world, pairs.appearance, pairs.structure, mark) for mark in ("plain", "stripes"))
    other, shirt = (plain.images.float() - marked.images.float()).abs().mean(-1), plain.parts == PARTS.index("upper")
    assert torch.equal(plain.silhouette, marked.silhouette) and torch.equal(plain.parts, marked.parts)
    assert other[shirt].mean() > 10 * other[~plain.silhouette.bool()].mean()  # a little spills over the edge by blur


def test_who_wears_it_already_is_the_true_swap(world, pairs):
    rows = [n for n, record in enumerate(pairs.appearance) if world.factors.logo[record.index] == "none" and world.factors.pattern[record.index] == "two-tone"]
    some = [[records[n] for n in rows] for records in (pairs.appearance, pairs.structure)]
    assert rows and torch.equal(dressed(world, *some, "two-tone").images, world.swap(*some).images)


def test_an_unknown_mark_is_refused(world, pairs):
    with pytest.raises(ValueError, match="unknown mark 'flowers'; valid: plain, stripes"):
        dressed(world, pairs.appearance, pairs.structure, "flowers")


@settings(max_examples=10, deadline=None)
@given(st.floats(-1, 2), st.floats(-60, 60))
def test_the_share_is_what_was_mixed_in_whatever_the_colour(part, lighter):
    world = make_world("mannequin-market", scale="smoke", test_identities=16)
    pairs = swap_pairs(world, 6)
    plain, marked = (dressed(world, pairs.appearance, pairs.structure, mark) for mark in ("plain", "two-tone"))
    share = share_carried(levels(plain) + part * (levels(marked) - levels(plain)) + lighter, marked, plain)
    seen = share.isfinite()
    assert seen.any() and torch.allclose(share[seen], torch.tensor(part, dtype=torch.float32), atol=1e-3)


def test_what_cannot_be_seen_has_no_share(world, pairs):
    plain = dressed(world, pairs.appearance, pairs.structure, "plain")
    assert share_carried(levels(plain), plain, plain).isnan().all()


def test_centred_is_zero_mean_on_the_garment_and_zero_outside():
    garment = torch.rand(3, 8, 4) < 0.5
    d = centred(torch.randn(3, 3, 8, 4) + 5, garment)
    assert (d.masked_select(~garment[:, None]) == 0).all() and d.sum((2, 3)).abs().max() < 1e-4


def test_extremes_are_the_nearest_to_one_and_the_lowest():
    shares = np.full((len(MARKS), 5), np.nan)
    shares[MARKS.index("stripes")] = [0.9, 0.1, 0.5, np.nan, 1.4]
    shares[MARKS.index("dots")] = [0.2, 0.3, np.nan, np.nan, 0.0]
    shares[MARKS.index("chest")] = 1.0
    found = extremes(shares, REGULAR, 2)
    assert [round(float(shares[at]), 1) for at in found] == [0.9, 1.4, 0.1, 0.0]
    assert extremes(np.full((len(MARKS), 3), np.nan), LOGO, 2) == []


def test_the_marks_recipe(store, tiny):
    run = store.get(marks_spec(tiny, count=12, shown=2), train=True, progress="off")
    shares, chosen = run.per_query["share"], run.per_query["chosen"]
    assert shares.shape == (len(MARKS), 12) and len(examples(run)) == len(chosen) <= 8
    assert all(run.metrics["seen"][mark] == np.isfinite(row).sum() for mark, row in zip(MARKS, shares))
    assert np.isfinite(shares[tuple(chosen.T)]).all()


def test_the_weighing_recipe_passes_through_the_trainings_own_scores(store, tiny):
    run, trained = store.get(weighing_spec(tiny), train=True, progress="off"), store.get(tiny, weights=True)
    scores = dict(zip(run.metrics["betas"], run.metrics["map_step"]))
    assert scores[0.0] == trained.metrics["prim_map_step"] and scores[0.5] == trained.metrics["both_map_step"] and scores["fine"] == trained.metrics["fine_map_step"]
    assert np.allclose(run.per_query["ap_step"][2], trained.per_query["ap_step_both"]) and run.per_query["ap_step"].shape[0] == len(BETAS)
    town, model = make_world("mannequin-market", scale="smoke"), load_dgnet(trained)
    features = [extract_both(model, town, records) for records in (town.query, town.gallery)]
    assert weigh(*features, town, [1e6])[1e6].map_step == pytest.approx(weigh(*features, town, [float("inf")])[float("inf")].map_step, abs=1e-3)
    with pytest.raises(ValueError, match="a weight is 0 or more, found -0.5"):
        weigh(*features, town, [0.5, -0.5])
