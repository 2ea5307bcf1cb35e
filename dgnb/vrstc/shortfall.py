"""Where do the missing decibels of a completion go? A trained STCnet asked easier questions: with the answer for a neighbour, about people it knows, blurred."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from dgnb.run_store import RunContext, RunSpec, RunStore, recipe
from dgnb.video_worlds import VideoWorld

from .against_truth import unseen_people, world_of
from .holes import Cases, baselines, measure, practice_cases, twin_cases
from .spatial import compose
from .step import STCnet
from .stcnet import load_stcnet

__all__ = ["QUESTIONS", "PRACTICE", "shrunk", "easier_questions", "shortfall_spec", "measure_shortfall"]

SHORTFALL_VERSION = 1
QUESTIONS = {  # what is put into the holes of truly occluded frames -> words
    "stcnet": "STCnet",
    "mean_band": "mean of the tracklet's other unoccluded frames (all of them)",
    "two": "mean of the two neighbours that STCnet is given",
    "softened": "STCnet, blurred by one pixel",
    "mixed": "half STCnet, half the mean of the other frames",
    "clean": "STCnet, no trace of the occluder in the bands that it sees",
    "answer": "STCnet, given the true frame for both neighbours",
    "quarter": "the true frame at a quarter of its height and width, enlarged",
    "half": "the true frame at half of its height and width, enlarged",
}
PRACTICE = {"unseen": "of people that no training has seen", "known": "of the people that it was trained on"}  # bands hidden on purpose in clean frames


def shrunk(
    images: torch.Tensor,  # N x 3 x H x W
    by: int,  # height and width are divided by it
) -> torch.Tensor:  # N x 3 x H x W
    """What is left of pictures that had to pass through smaller ones: means of `by` x `by` pixels, enlarged bilinearly."""
    return F.interpolate(F.avg_pool2d(images, by), images.shape[-2:], mode="bilinear", align_corners=False)


@torch.inference_mode()
def easier_questions(
    net: STCnet,  # trained
    cases: Cases,
) -> dict[str, torch.Tensor]:  # one of N x 3 x H x W for each of `QUESTIONS`
    """The holes filled by the network, by simple means of what it is given, and by what would be left of the truth itself."""
    asked = lambda frame, previous, following: net.complete(frame, previous, following, cases.mask)
    painted, mean = asked(cases.frame, cases.previous, cases.next), baselines(cases)["mean band"]
    images = {"stcnet": painted, "mean_band": mean, "two": (cases.previous + cases.next) / 2, "softened": gaussian_blur(painted, [7, 7], [1.0, 1.0]), "mixed": (painted + mean) / 2,
              "clean": asked(cases.truth, cases.previous, cases.next), "answer": asked(cases.frame, cases.truth, cases.truth),
              "quarter": shrunk(cases.truth, 4), "half": shrunk(cases.truth, 2)}
    return {name: compose(images[name], cases.frame, cases.mask) for name in QUESTIONS}


def shortfall_spec(
    of: RunSpec,  # an "stcnet" run on a world
    count: int = 256,  # cases of each kind
) -> RunSpec:
    """The name of the run that measures what a trained STCnet could do at best."""
    return RunSpec("completion-shortfall", SHORTFALL_VERSION, {"of": of.as_dict(), "count": count}, of.as_dict()["data"], of.seed)


def _practised(net: STCnet, world: VideoWorld, count: int) -> dict[str, np.ndarray]:
    """The network and the mean on bands hidden on purpose, of strangers and of acquaintances; the nearer neighbour's distance is drawn alike."""
    found = {}
    for kind, records in (("unseen", unseen_people(world)), ("known", world.train)):
        cases = practice_cases(world, records, net.settings.size, count)
        fills = {"stcnet": net.complete(cases.frame, cases.previous, cases.next, cases.mask), "mean_band": baselines(cases)["mean band"]}
        found |= {f"{kind}_{name}": measure(cases, images).psnr.to_numpy(np.float16) for name, images in fills.items()}
    return found


@recipe("completion-shortfall", version=SHORTFALL_VERSION)
def measure_shortfall(context: RunContext) -> None:
    """PSNR and SSIM inside the hole of every case of every question, and PSNR of the practice."""
    plan = context.spec.as_dict()
    world, count = world_of(plan["data"]), plan["settings"]["count"]
    net = load_stcnet(RunStore(local=context.folder.parent).get(RunSpec(**plan["settings"]["of"]), train=True, weights=True, progress=context.progress))
    cases = twin_cases(world, world.query, net.settings.size, count)
    likeness = {name: measure(cases, images) for name, images in easier_questions(net, cases).items()}
    arrays = {f"{name}_{kind}": table[kind].to_numpy(np.float16) for name, table in likeness.items() for kind in ("psnr", "ssim")}
    arrays |= _practised(net, world, count)
    if context.writes:
        number = {record.name: record.index for record in world.query}
        context.save_metrics({name: float(values.astype(np.float32).mean()) for name, values in arrays.items()})
        context.save_per_query(arrays | {"tracklet": np.array([number[name] for name in cases.where.tracklet], np.int32)})
