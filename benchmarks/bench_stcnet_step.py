"""A training step of the whole STCnet (both generators, both discriminators, identity guider) at the published size: bfloat16 autocast against float32.

Both precisions start from the same weights, see the same exercises and take their steps in turn; losses are compared with the float32 training's weights at every step.
"""
from __future__ import annotations

import copy
import statistics
import sys
import time

import torch

from dgnb.resuming import Batches
from dgnb.scales import seed_everything
from dgnb.training import Loop, make_fabric
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.critics import IDGuider
from dgnb.vrstc.stcnet import STCnet, StepSTCnet, make_judges, make_loader, stcnet_settings
from dgnb.vrstc.video_reid import VideoReIDNetwork

PRECISIONS = ("32-true", "bf16-mixed")


def make_loop(settings, batch, precision: str) -> Loop:
    """Fresh networks, the same for every precision."""
    seed_everything("bench_stcnet_step")
    net, judges = STCnet(settings), make_judges(settings)
    optimizers = {"generators": torch.optim.Adam(net.parameters(), 1e-4), "judges": torch.optim.Adam([p for judge in judges.values() for p in judge.parameters()], 1e-4)}
    return Loop(make_fabric(precision=precision, accelerator="cpu"), {"stcnet": net} | judges, optimizers, {}, Batches([batch]))


def copy_weights(source: Loop, target: Loop) -> None:
    """Give one loop's networks the other's weights."""
    for name, network in source.plain_modules.items():
        target.plain_modules[name].load_state_dict(copy.deepcopy(network.state_dict()))


def compare(settings, backbone: str, guider_size: tuple[int, int], steps: int) -> list[dict]:
    """Median CPU-seconds of a step in turn, and the largest difference of a mean loss."""
    world = make_video_world("mannequin-mars", "smoke", size=(settings.height, settings.width))
    batch = next(iter(make_loader(world, settings, 0, None, None, make_fabric(accelerator="cpu"))))
    seed_everything("guider")
    guider = IDGuider(VideoReIDNetwork(8, backbone), guider_size)
    loops = {precision: make_loop(settings, batch, precision) for precision in PRECISIONS}
    does = {precision: StepSTCnet(settings, guider) for precision in PRECISIONS}
    seconds, losses = {precision: [] for precision in PRECISIONS}, {precision: [] for precision in PRECISIONS}
    for n in range(steps + 1):  # the first one warms up
        copy_weights(loops["32-true"], loops["bf16-mixed"])
        for precision in PRECISIONS[::1 if n % 2 else -1]:
            start = time.process_time()
            found = does[precision](batch, loops[precision])
            if n:
                seconds[precision].append(time.process_time() - start)
                losses[precision].append({name: float(value) for name, value in found.items()})
    exact, rough = (statistics.median(seconds[precision]) for precision in PRECISIONS)
    mean = lambda precision, name: statistics.mean(row[name] for row in losses[precision])
    apart = {name: abs(mean("bf16-mixed", name) / mean("32-true", name) - 1) for name in losses["32-true"][0] if mean("32-true", name)}
    worst = max(apart, key=apart.get)
    size = f"{settings.height}x{settings.width}, batch {settings.batch}"
    return [dict(what=f"step of STCnet, bfloat16, {size}", baseline=exact, ours=rough, ratio=exact / rough, unit="CPU s", note=f"against float32, medians of {steps} steps in turn; at least 1.6 wanted"),
            dict(what=f"largest difference of a loss of STCnet, bfloat16, {size}", baseline=0.0, ours=apart[worst], ratio="", unit="relative",
                 note=f"to float32 with the same weights: {worst}; mean over {steps} steps; at most 0.02 wanted")]


def run(quick: bool = False) -> list[dict]:
    """All rows; quick: the smoke scale."""
    if quick:
        return compare(stcnet_settings("smoke", only_l1=0.0, clean="truth"), "resnet10t", (64, 32), 2)
    return compare(stcnet_settings("paper", only_l1=0.0, clean="truth"), "resnet50", (256, 128), 5)


if __name__ == "__main__":
    for found in run("--quick" in sys.argv): print(found)
