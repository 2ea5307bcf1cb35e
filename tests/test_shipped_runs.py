"""Shipped trainings are still what this code trains: a forgotten version bump of recipe, world or renderer shows here."""
import json

import numpy as np
import pytest

from first_losses import NOTES, first_losses, shipped

SHIPPED = shipped()


def test_each_kind_is_shipped_and_noted():
    kinds = {spec.recipe for spec in SHIPPED.values()}
    assert kinds == {"baseline", "dgnet"}
    missing = sorted(SHIPPED.keys() - json.loads(NOTES.read_text()).keys())
    assert not missing, f"{', '.join(missing)}: no first losses are noted. Run python tests/first_losses.py"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_runs_are_still_what_this_code_trains(name):
    spec = SHIPPED[name]
    assert spec.name == name
    assert np.allclose(first_losses(spec), json.loads(NOTES.read_text())[name], rtol=0.03), "raise a version and retrain: see CONTRIBUTING"
