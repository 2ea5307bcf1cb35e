"""Would it pay to throw the worst painted pictures away? Four ways to grade a swap without knowing the truth, held against the truth."""
from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from dgnb.augmentation import normalise
from dgnb.baseline import load_network
from dgnb.run_store import RunContext, RunSpec, RunStore, RunStoreError, recipe
from dgnb.sampling import test_batches
from dgnb.scales import numpy_generator
from dgnb.worlds import World

from .joint import DGNet, load_dgnet
from .swaps import SwapPairs, measure_swaps, paint_swaps, world_of
from .switches import colour_errors
from .teacher import Teacher

__all__ = ["FILTERS", "training_pairs", "grade", "kept_against_all", "filter_spec", "measure_filters"]

FILTER_VERSION = 1
FILTERS = {  # grade of a swap, higher = keep -> words
    "recognised": "the teacher's share for who lent the clothes",
    "certain": "the teacher's largest share, whoever it is for",
    "alike": "cosine of its primary feature with that of who lent the clothes",
    "structure": "nearness of its structure code to that of who lent the body",
}


def training_pairs(
    world: World,  # whose training people, as only these are known to the teacher
    count: int = 256,  # how many pairs
    seed: int = 0,  # another seed is another draw
) -> SwapPairs:
    """Random pairs of training pictures that show different people. ValueError where there are no two."""
    if len({record.pid for record in world.train}) < 2:
        raise ValueError(f"{world.name} has fewer than two people in training: there is nobody to swap with")
    draw, rows = numpy_generator("filter pairs", world.name, seed), []
    while len(rows) < count:
        i, j = (world.train[n] for n in draw.integers(0, len(world.train), 2))
        rows += [(i, j)] if i.pid != j.pid else []
    return SwapPairs(*(tuple(column) for column in zip(*rows)))


def grade(
    model: DGNet,
    teacher: Teacher,  # who knows the training people
    world: World,
    pairs: SwapPairs,  # N
    images: torch.Tensor,  # uint8 N x 3 x H x W: what the model made of them
    batch: int = 64,  # swaps at a time
) -> pd.DataFrame:  # one row per swap, columns `FILTERS`
    """The grades of some swaps; none of them looks at the truth."""
    found, device = [], model.device
    lent = [test_batches(world, records, world.size, batch, device=device) for records in (pairs.appearance, pairs.structure)]
    labels = torch.tensor([world.label_of[record.pid] for record in pairs.appearance]).split(batch)
    with torch.inference_mode():
        for painted, label, clothes, body in zip(images.split(batch), labels, *lent):
            painted = normalise(painted.to(device))
            q = teacher(painted).cpu()
            alike = F.cosine_similarity(model.features(painted)[0], model.features(clothes["image"])[0]).cpu()
            gap = (model.structure(painted) - model.structure(body["image"])).abs().mean((1, 2, 3)).cpu()
            found.append(np.stack([q.gather(1, label[:, None])[:, 0], q.max(1).values, alike, -gap], 1))
    return pd.DataFrame(np.concatenate(found), columns=list(FILTERS))


def kept_against_all(
    grades: np.ndarray,  # N, or seeds x N; higher = keep
    values: np.ndarray,  # of the same shape; NaN where a swap has none
    share: float = 0.5,  # of the swaps that is kept
) -> np.ndarray:  # of the same shape; its mean is the mean value of what is kept less that of all
    """What each swap contributes to the difference between the kept ones and all of them. ValueError for a share beside 0..1."""
    if not 0 < share < 1:
        raise ValueError(f"share={share}: keep more than none and less than all")
    grades, values = (np.asarray(x, float) for x in (grades, values))
    counted = np.isfinite(values)
    rank = np.where(counted, grades, -np.inf).argsort(-1, kind="stable").argsort(-1)
    best = counted & (rank >= rank.shape[-1] - np.maximum(1, (share * counted.sum(-1, keepdims=True)).round()))
    total, kept = counted.sum(-1, keepdims=True), best.sum(-1, keepdims=True)
    centred = np.where(counted, values - np.nanmean(values, -1, keepdims=True), 0)
    return centred * best * (total / kept)


def filter_spec(
    of: RunSpec,  # a "dgnet" run on a world, with a teacher
    count: int = 256,  # swaps of training people
) -> RunSpec:
    """The name of the run that grades another run's swaps and measures them."""
    if not of.as_dict()["settings"].get("teacher"):
        raise RunStoreError(f"{of.name} was trained without a teacher, so nobody can grade its swaps")
    return RunSpec("dgnet-filter", FILTER_VERSION, {"of": of.as_dict(), "count": count}, of.as_dict()["data"], of.seed)


@recipe("dgnet-filter", version=FILTER_VERSION)
def measure_filters(context: RunContext) -> None:
    """Paint, grade, and compare with the true swaps; keep every swap's grades and errors."""
    plan, store = context.spec.as_dict(), RunStore(local=context.folder.parent)
    ask = lambda spec: store.get(RunSpec(**spec), train=True, weights=True, progress=context.progress)
    world, of = world_of(plan["data"]), plan["settings"]["of"]
    model = load_dgnet(ask(of))
    teacher = Teacher(load_network(ask(of["settings"]["teacher"]), world.num_train_identities))
    pairs = training_pairs(world, plan["settings"]["count"])
    painted = paint_swaps(model, world, pairs)
    grades, errors = grade(model, teacher, world, pairs, painted), measure_swaps(painted, world, pairs)
    arrays = {f"grade_{name}": grades[name].to_numpy(np.float32) for name in FILTERS} | {name: errors[name].to_numpy(np.float32) for name in ("psnr", "ssim")}
    arrays["colour"] = colour_errors({f"{name}_model": errors[name].to_numpy() for name in ("upper", "lower", "shoes")}).astype(np.float32)
    context.save_metrics({name: float(np.nanmean(values)) for name, values in arrays.items()} | {"swaps": len(pairs)})
    context.save_per_query(arrays)
