"""One thing changed at a time in STCnet: the switches, the shortened trainings, and the run that measures one of them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dgnb.run_store import Run, RunContext, RunSpec, RunStore, recipe
from dgnb.scales import choose
from dgnb.tracklets import VideoReIDSet
from dgnb.video_worlds import VideoWorld

from .against_truth import pack, pictures, world_of
from .holes import measure, twin_cases
from .pipeline import VRSTCPlan, grid, scores, stages
from .spatial import to_levels
from .stcnet import load_stcnet
from .step import STCnet, stcnet_settings

__all__ = ["Switch", "SWITCHES", "REFERENCE", "switched_plan", "switch_spec", "measure_switch", "switch_pictures"]

SWITCH_VERSION = 1
PICTURES = 6  # completions that a run keeps
REFERENCE = "full"  # the row with which every other one is compared


@dataclass(frozen=True)
class Switch:
    """What one row changes against the full STCnet of the scale."""
    text: str  # what is changed, in words
    changes: Mapping = field(default_factory=dict)  # fields of `STCnetSettings`


SWITCHES: dict[str, Switch] = {
    REFERENCE: Switch("as in Table 1's last row"),
    "white": Switch("the hole is white, not grey", {"fill": 1.0}),
    "mask": Switch("the spatial generator is shown the mask", {"mask_channel": True}),
    "no-dilation": Switch("no convolution is dilated", {"dilations": (1, 1, 1, 1)}),
    "printed-softmax": Switch("the attention's cosine is not scaled, as printed", {"attention_scale": 1.0}),
    "sharp-softmax": Switch("the cosine is scaled three times as much", {"attention_scale": 30.0}),
    "patches": Switch("attention sums whole patches", {"attention_values": "patches"}),
    "no-attention": Switch("neighbours as they are (Spa+TAE with critics)", {"second": "neighbours"}),
    "early-attention": Switch("attention before the dilated convolutions", {"second": "early attention"}),
    "non-local": Switch("a non-local block in the attention's place", {"second": "non-local"}),
    "space-time": Switch("3-D convolutions and a non-local block in its place", {"second": "space-time"}),
    "alone-matched": Switch("no neighbours, and as many weights as with them", {"second": "alone matched"}),
    "far": Switch("practice with neighbours up to eight frames away", {"reach": 8}),
    "near": Switch("practice with the next frames only", {"reach": 1, "among": "adjacent"}),
    "one-band": Switch("practice with one hidden band only", {"two_bands": 0.0}),
    "crop": Switch("the local discriminator sees a crop", {"local_view": "crop"}),
    "no-critics": Switch("without discriminators", {"judges": ()}),
    "no-guider": Switch("without the guider", {"guided": False}),
    "heavy-critics": Switch("adversarial losses with ten times their weight", {"lambda1": 0.01}),
    "heavy-guider": Switch("the guider with ten times its weight", {"lambda2": 1.0}),
}


def switched_plan(
    row: str,  # one of `SWITCHES`
    scale: str = "smoke",  # one of `SCALES`
    length: float = 1.0,  # of STCnet's training, as a share of the scale's
    seed: int = 0,
    **reid,  # changes to `video_settings`, of the networks that guide and search
) -> VRSTCPlan:
    """The plan of a row; ValueError for a row that is not there."""
    changes = dict(SWITCHES[choose(row, SWITCHES, "switch")].changes)
    return VRSTCPlan(scale, seed, reid=reid, stcnet={"iterations": max(2, round(length * stcnet_settings(scale).iterations))} | changes)


def switch_spec(
    town: VideoReIDSet,  # what to train on; on a world its completions are measured
    plan: VRSTCPlan,  # of a row
    count: int = 256,  # truly occluded frames that are completed (worlds only)
    search: bool = True,  # repair the test video with it too, and search in it with the network that was trained on raw video
) -> RunSpec:
    """The name of the run that trains a row, measures it, and keeps a few kilobytes. ValueError if there is nothing to measure."""
    world = hasattr(town, "film")
    if not (world or search):
        raise ValueError(f"{town.name} is no world, so nobody knows what is hidden: give search=True to measure re-identification")
    of = stages(plan, town)["stcnet"]
    settings = {"of": of.as_dict(), "count": count if world else 0, "search": grid(plan, town)["raw", "repaired"].as_dict() if search else None}
    return RunSpec("stcnet-switch", SWITCH_VERSION, settings, of.as_dict()["data"], plan.seed)


def _completed(net: STCnet, world: VideoWorld, count: int) -> dict[str, np.ndarray]:
    """Likeness to the truth of the same cases for every row, which cases they are, and pictures of some."""
    cases = twin_cases(world, world.query, net.settings.size, count)
    given, number = (cases.frame, cases.previous, cases.next, cases.mask), {record.name: record.index for record in world.query}
    painted = net.complete(*given)
    likeness, coarse = measure(cases, painted), measure(cases, net.complete(*given, coarse=True))
    shown = np.linspace(0, len(cases) - 1, min(PICTURES, len(cases))).round().astype(int)
    where = {"tracklet": np.array([number[name] for name in cases.where.tracklet], np.int32), "frame": cases.where.frame.to_numpy(np.int32), "shown": shown.astype(np.int32)}
    found = {"psnr": likeness.psnr, "ssim": likeness.ssim, "coarse": coarse.psnr}
    return {name: values.to_numpy(np.float16) for name, values in found.items()} | where | pack(to_levels(painted[shown]), "painted")


@recipe("stcnet-switch", version=SWITCH_VERSION)
def measure_switch(context: RunContext) -> None:
    """Have the row trained and measured; keep every case's likeness, every query's precision, and a few pictures."""
    parts, store = context.spec.as_dict(), RunStore(local=context.folder.parent)
    plan, ask = parts["settings"], lambda spec, **options: store.get(RunSpec(**spec), train=True, progress=context.progress, **options)
    trained, arrays, metrics = ask(plan["of"], weights=bool(plan["count"])), {}, {}
    if plan["count"]:
        arrays |= _completed(load_stcnet(trained), world_of(parts["data"]), plan["count"])
    if plan["search"]:
        tested = ask(plan["search"])
        arrays["ap"], metrics = scores(tested).astype(np.float16), {"rank1": tested.metrics["rank1"]}
    if context.writes:
        context.save_metrics(metrics | {"parameters": trained.metrics["parameters"], "training_seconds": trained.record["seconds"]})
        context.save_per_query(arrays)


def switch_pictures(run: Run) -> list[np.ndarray]:  # of recipe "stcnet-switch" on a world -> uint8 H x W x 3 each
    """Its completions of the shown cases."""
    return pictures(run, "painted")
