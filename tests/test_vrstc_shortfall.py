"""Where the missing decibels of a completion go: what is put into the holes, and the run that measures it."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgnb.run_store import RunStore
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.holes import measure, twin_cases
from dgnb.vrstc.pipeline import VRSTCPlan, stages
from dgnb.vrstc.shortfall import PRACTICE, QUESTIONS, easier_questions, shortfall_spec, shrunk
from dgnb.vrstc.step import STCnet

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def town():
    return make_video_world("mannequin-mars", "smoke", longest=8, mean_length=6, train_identities=4, distractors=1, junk=1)


@pytest.fixture(scope="module")
def plan():
    return VRSTCPlan("smoke", reid={"epochs": 1}, stcnet={"iterations": 2, "channels": 2, "critic_channels": 2})


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_shrinking_keeps_flat_pictures_and_means_of_blocks(rows, columns, by):
    torch.manual_seed(0)
    flat = torch.rand(2, 3, 1, 1).expand(2, 3, 4 * rows, 4 * columns)
    assert torch.allclose(shrunk(flat, by), flat, atol=1e-6)
    images = torch.rand(2, 3, 4 * rows, 4 * columns)
    found = shrunk(images, by)
    assert found.shape == images.shape and (by > 1 or torch.equal(found, images))
    assert found.min() >= images.min() - 1e-6 and found.max() <= images.max() + 1e-6


def test_smaller_passages_lose_more(town, plan):
    cases = twin_cases(town, town.query, plan.completion.size, 12)
    likeness = [measure(cases, images * cases.mask + cases.frame * (1 - cases.mask)).psnr.mean() for images in (shrunk(cases.truth, by) for by in (1, 2, 4))]
    assert likeness[0] == 60 > likeness[1] > likeness[2]


def test_every_question_leaves_the_rest_of_the_frame_alone(town, plan):
    cases, net = twin_cases(town, town.query, plan.completion.size, 6), STCnet(plan.completion).eval()
    found = easier_questions(net, cases)
    assert found.keys() == QUESTIONS.keys()
    outside = (cases.mask == 0).expand_as(cases.frame)
    assert all(torch.equal(images[outside], cases.frame[outside]) for images in found.values())
    shown = net.complete(cases.frame, cases.truth, cases.truth, cases.mask)
    assert torch.equal(found["answer"], shown) and not torch.equal(found["answer"], found["stcnet"])


def test_the_run_measures_every_case(town, plan, tmp_path):
    store, of = RunStore(local=tmp_path, shipped=tmp_path), stages(plan, town)["stcnet"]
    run = store.get(shortfall_spec(of, 8), train=True, progress="off")
    wanted = {f"{name}_{kind}" for name in QUESTIONS for kind in ("psnr", "ssim")}
    assert wanted | {f"{kind}_{name}" for kind in PRACTICE for name in ("stcnet", "mean_band")} | {"tracklet"} == run.per_query.keys()
    assert len({len(run.per_query[name]) for name in wanted | {"tracklet"}}) == 1
    assert all(np.isfinite(values).all() for values in run.per_query.values())
    assert run.metrics["quarter_psnr"] == pytest.approx(run.per_query["quarter_psnr"].astype(float).mean(), abs=1e-3)
    assert run.metrics["half_psnr"] > run.metrics["quarter_psnr"]


