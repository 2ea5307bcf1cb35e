"""Temporal attention: ours (shifted sums of one table of products) against the usual form, which unfolds 3x3 patches.

The baselines make the patches of both maps (B x 512 x 2304 at the published size), normalise and multiply them; once with PyTorch's fused attention, once with
a plain softmax, and for whole patches as values with a fold. Memory is that of a training step (forward and backward) beyond its inputs.
"""
from __future__ import annotations

import statistics
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench_retrieval import forget_peak, resident
from dgnb.scales import generator
from dgnb.vrstc.attention import TemporalAttention

SCALE = 10.0


def patches(maps: torch.Tensor) -> torch.Tensor:
    """B x C x h x w -> B x h*w x 9*C."""
    return F.unfold(maps, 3, padding=1).transpose(1, 2)


def unit(maps: torch.Tensor) -> torch.Tensor:
    return F.normalize(patches(maps), dim=-1, eps=1e-8)


def unfolded(current, adjacent, values="centres", fused=False):
    """Equations 1 to 3 with patches."""
    value = adjacent.flatten(2).transpose(1, 2) if values == "centres" else patches(adjacent)
    query, key = unit(current), unit(adjacent)
    found = F.scaled_dot_product_attention(query, key, value, scale=SCALE) if fused else (SCALE * query @ key.transpose(1, 2)).softmax(-1) @ value
    if values == "centres":
        return found.transpose(1, 2).unflatten(2, adjacent.shape[-2:])
    lay = lambda x: F.fold(x.transpose(1, 2), adjacent.shape[-2:], 3, padding=1)
    return lay(found) / lay(torch.ones_like(found[:1]))


def ours(current, adjacent, values="centres"):
    return TemporalAttention(SCALE, values=values)(current, adjacent)


def maps(batch: int, channels: int, height: int, width: int) -> dict:
    """F and R; numbers like those of a trained encoder behind ELU."""
    g = generator("attention", batch, channels, height, width)
    draw = lambda: F.elu(torch.randn(batch, channels, height, width, generator=g)).requires_grad_()
    return dict(current=draw(), adjacent=draw())


def step(forward, current, adjacent, **options) -> None:
    """Forward and backward."""
    current.grad = adjacent.grad = None
    forward(current, adjacent, **options).square().sum().backward()


FORMS = {"softmax": (unfolded, {}), "fused attention": (unfolded, {"fused": True}), "ours": (ours, {})}


def _peak(name: str, shape: tuple[int, int, int, int], threads: int, send) -> None:
    torch.set_num_threads(threads)
    forward, options = FORMS[name]
    step(forward, **maps(1, *shape[1:]), **options)  # loads libraries; one image, so that the allocator keeps little
    inputs = maps(*shape)
    forget_peak()
    before = resident("VmRSS")
    step(forward, **inputs, **options)
    send.send(1024 * (resident("VmHWM") - before))


def peak_of_step(name: str, shape: tuple[int, int, int, int]) -> float:
    """MiB that a step takes beyond its inputs, in a process of its own."""
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(name, shape, torch.get_num_threads(), send))
    process.start()
    send.close()
    try: return receive.recv()
    except EOFError: raise MemoryError(f"the form {name!r} did not finish: out of memory?") from None
    finally: process.join()


def alternate(actions: dict, repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, in turns."""
    seconds = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            start = time.process_time()
            action()
            if turn: seconds[name].append(time.process_time() - start)  # the first turn warms up
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare(shape: tuple[int, int, int, int], repeats: int) -> list[dict]:
    """Time and equality, forward alone and with gradients, for both kinds of values."""
    inputs, rows = maps(*shape), []
    pair, size = tuple(inputs.values()), "x".join(map(str, shape))
    for values in ("centres", "patches"):
        with torch.no_grad():
            difference = (unfolded(*pair, values) - ours(*pair, values)).abs().max().item()
            forward = alternate({"plain": lambda: unfolded(*pair, values), "fused": lambda: unfolded(*pair, values, True), "ours": lambda: ours(*pair, values)}, repeats)
        both = alternate({"plain": lambda: step(unfolded, *pair, values=values), "fused": lambda: step(unfolded, *pair, values=values, fused=True),
                          "ours": lambda: step(ours, *pair, values=values)}, repeats)
        for what, seconds in (("forward", forward), ("forward and backward", both)):
            best = min(("plain", "fused"), key=seconds.get)
            how = {"plain": "softmax", "fused": "fused attention"}[best]
            rows.append(dict(what=f"temporal attention {size}, {values}, {what}", baseline=seconds[best] * 1e3, ours=seconds["ours"] * 1e3, ratio=seconds[best] / seconds["ours"],
                             unit="CPU ms", note=f"unfolded 3x3 patches, {how} (the faster); outputs differ by at most {difference:.0e}"))
    return rows


def memory(shape: tuple[int, int, int, int]) -> list[dict]:
    """Peak beyond the inputs of a step."""
    used = {name: peak_of_step(name, shape) for name in FORMS}
    best = min(("softmax", "fused attention"), key=used.get)
    return [dict(what=f"temporal attention {'x'.join(map(str, shape))}, centres, memory of a step", baseline=used[best], ours=used["ours"], ratio=used[best] / used["ours"],
                 unit="MiB", note=f"beyond the inputs; unfolded 3x3 patches, {best} (the smaller)")]


def run(quick: bool = False) -> list[dict]:
    """All rows; quick: one image at half the size."""
    if quick:
        return compare((1, 64, 16, 8), 3)
    return compare((8, 256, 32, 16), 5) + memory((16, 256, 32, 16))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for found in run("--quick" in sys.argv): print(found)
