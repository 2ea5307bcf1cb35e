"""Mannequin's rendering speed at 128 x 64 with truth maps: batches against one image at a time, and boxes against dense rays."""
from __future__ import annotations

import time

import numpy as np
import torch

from dgnb import rays
from dgnb.people import take
from dgnb.rendering import render
from dgnb.worlds import make_world

TARGET = 400  # images/s at 128 x 64, batch of 64, truth maps included, JPEG apart, on two cores


def _tables(count: int):
    world = make_world("mannequin-market", "laptop", size=(128, 64))
    rows = np.arange(count) * 37 % len(world.records)
    return tuple(take(table, rows) for table in (world.appearance, world.body, world.moments))


def _dense(box, *rest):
    "The baseline's list of pairs: every capsule against every pixel of its image."
    whole = np.tile(np.array([0, 10**6, 0, 10**6]), (*box.shape[:-1], 1))
    return _boxed(whole, *rest)


_boxed = rays._pairs


def _rate(tables, batch: int, dense: bool = False) -> float:
    "Images per second of one pass."
    rays._pairs = _dense if dense else _boxed
    try:
        start = time.perf_counter()
        render(*tables, size=(128, 64), batch=batch)
        return len(tables[0]["upper_type"]) / (time.perf_counter() - start)
    finally:
        rays._pairs = _boxed


def _alternate(tables, few, rounds: int, ours: dict, theirs: dict) -> tuple[float, float]:
    "Best rates of ours (on `tables`) and the baseline (on the smaller `few`), measured in turns."
    pairs = [(_rate(few, **theirs), _rate(tables, **ours)) for _ in range(rounds)]
    return max(p[0] for p in pairs), max(p[1] for p in pairs)


def run(quick: bool = False) -> list[dict]:
    "One row per comparison; `ratio` is ours over the baseline."
    tables, rounds = _tables(64), 2 if quick else 6
    few = tuple(take(table, slice(0, 16)) for table in tables)
    render(*tables, size=(128, 64))  # backdrops and noise tables are made once
    rows = []
    for what, theirs, n in (("one image at a time", dict(batch=1), few), ("every capsule against every pixel", dict(batch=8, dense=True), few)):
        baseline, ours = _alternate(tables, n, rounds, dict(batch=64), theirs)
        rows.append(dict(what=f"render 128x64 with truth maps, batch of 64, against {what}", baseline=baseline, ours=ours, ratio=ours / baseline, unit="images/s",
                         note=f"{torch.get_num_threads()} threads; target {TARGET} images/s on two cores: {'reached' if ours >= TARGET else 'not reached'}"))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
