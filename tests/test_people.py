"Identities and hashed numbers: right values, stability, distribution, independence."
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.people import (APPEARANCE, BAGS, BODY, CATEGORIES, COLOUR_NAMES, COLOUR_RGB, between, choose, key_of, normal,
                         sample_appearance, sample_body, scramble, take, uniform)


def test_scramble_is_splitmix64():
    # first outputs of the reference SplitMix64 generator seeded with 0: its n-th state is n steps of the golden gamma
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(n * gamma) % 2**64 for n in range(3)], np.uint64)
    assert [hex(int(v)) for v in scramble(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=40), st.text(max_size=8))
def test_uniform_depends_on_key_and_index_alone(indices, name):
    together = uniform((name, 1), np.array(indices))
    alone = [float(uniform((name, 1), np.array([i]))[0]) for i in indices]
    assert together.tolist() == alone
    assert (0 <= together).all() and (together < 1).all()


def test_keys_do_not_run_together():
    assert key_of("ab", "c") != key_of("a", "bc") != key_of("abc")
    assert key_of("x", 1) == key_of("x", 1)


def test_same_numbers_in_another_process():
    code = "from dgnb.people import uniform; import numpy as np; print(uniform(('a', 3), np.arange(4)).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(out) == uniform(("a", 3), np.arange(4)).tolist()


def test_uniform_is_uniform_and_uncorrelated():
    index = np.arange(40_000)
    a, b = uniform(("a",), index), uniform(("b",), index)
    counts = np.histogram(a, 20, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 44  # chi-squared, 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02 and abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02


def test_normal_and_between():
    draws = normal(("n",), np.arange(40_000), 3.0, 2.0)
    assert abs(draws.mean() - 3) < 0.04 and abs(draws.std() - 2) < 0.06
    assert draws.min() >= 3 - 5 and draws.max() <= 3 + 5
    edges = between(("e",), np.arange(1000), np.arange(1000), np.arange(1000) + 2.0)
    assert ((edges >= np.arange(1000)) & (edges < np.arange(1000) + 2)).all()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6).filter(lambda w: sum(w) > 0.1))
@settings(max_examples=30)
def test_choose_follows_the_weights(weights):
    drawn = choose(("c",), np.arange(6000), weights)
    share = np.bincount(drawn, minlength=len(weights)) / 6000
    assert np.allclose(share, np.array(weights) / sum(weights), atol=0.035)


def test_a_person_does_not_depend_on_the_crowd():
    crowd = sample_appearance(("w", 0), np.arange(50)) | sample_body(("w", 0), np.arange(50))
    for who in (0, 17, 49):
        alone = sample_appearance(("w", 0), np.array([who])) | sample_body(("w", 0), np.array([who]))
        for name, values in alone.items():
            assert np.array_equal(values[0], crowd[name][who]), name


def test_factors_are_in_range_and_named():
    people = sample_appearance(("w", 1), np.arange(3000)) | sample_body(("w", 1), np.arange(3000))
    for name in (*APPEARANCE, *BODY):
        if name in CATEGORIES:
            assert people[name].min() >= 0 and people[name].max() < len(CATEGORIES[name]), name
    for name, values in people.items():
        assert len(values) == 3000, name
        if name.endswith("_rgb"):
            assert values.shape == (3000, 3) and values.min() >= 0 and values.max() <= 1
    assert 1.4 < people["height"].min() and people["height"].max() < 2.0
    dress = people["lower_type"] == 3
    assert np.array_equal(people["upper_rgb"][dress], people["lower_rgb"][dress])


def test_accents_can_be_told_from_the_garment():
    looks = sample_appearance(("w", 2), np.arange(2000))
    gap = np.abs(COLOUR_RGB[looks["upper_colour"]] - COLOUR_RGB[looks["accent_colour"]]).max(-1)
    assert gap.min() > 0.3


def test_dark_and_grey_clothes_are_common_vivid_ones_rare():
    upper = np.array(COLOUR_NAMES)[sample_appearance(("w", 3), np.arange(4000))["upper_colour"]]
    share = lambda *names: np.isin(upper, names).mean()
    assert share("black", "dark grey", "grey", "white", "navy") > 0.5
    assert 0.02 < share("yellow", "orange", "green", "purple") < 0.2


def test_same_clothes_many_bodies():
    looks, body = sample_appearance(("w", 0), np.arange(50) // 25), sample_body(("w", 0), np.arange(50))
    assert len(np.unique(looks["upper_rgb"], axis=0)) == 2 and len(np.unique(body["height"])) == 50


def test_take_keeps_columns_together():
    body = sample_body(("w", 0), np.arange(10))
    some = take(body, np.array([3, 3, 7]))
    assert all(np.array_equal(some[name][2], body[name][7]) for name in body)
    assert {"backpack", "handbag", "shoulder bag"} < set(BAGS)


if __name__ == "__main__":
    pytest.main([__file__])
