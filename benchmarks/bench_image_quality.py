"""Frechet distance of 2048-d features: ours (pivoted Cholesky + symmetric eigenvalues) against scipy's matrix square root and torch's general eigenvalues.

Measured in a process of its own with one thread, in processor seconds, which other programs on the machine hardly disturb.
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from scipy.linalg import sqrtm

from dgnb.image_quality import FeatureStatistics, frechet_distance


def features(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Features like a network's: not negative, with a spectrum that falls over nearly four powers of ten."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dimensions, dimensions)) * np.exp(-4 * np.arange(dimensions) / dimensions)
    return np.maximum(0.05 * rng.standard_normal((count, dimensions)) @ mixing.T + rng.random(dimensions), 0)


def with_root(root_trace):
    """The Frechet distance with another way to the trace of the root."""
    return lambda m1, s1, m2, s2: float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root_trace(s1 @ s2))


def scipy_sqrtm(product: np.ndarray) -> float:
    """What pytorch-fid and clean-fid do."""
    return np.trace(sqrtm(product)).real


def torch_eigvals(product: np.ndarray) -> float:
    """What torchmetrics does."""
    return torch.linalg.eigvals(torch.from_numpy(product)).sqrt().real.sum().item()


def timed(function, arguments) -> tuple[float, float]:
    """Processor seconds, and the value."""
    start = time.process_time()
    value = function(*arguments)
    return time.process_time() - start, value


def compare(arguments, baseline) -> tuple[float, float, float]:
    """Seconds of the baseline and of ours (before and after it, the mean), and the relative difference of their values."""
    before, value = timed(frechet_distance, arguments)
    slow, reference = timed(baseline, arguments)
    after, _ = timed(frechet_distance, arguments)
    return slow, statistics.mean((before, after)), abs(value - reference) / abs(reference)


def measure(quick: bool) -> list[dict]:
    """The rows, in this process."""
    dimensions, rows = 256 if quick else 2048, []
    for count in (dimensions * 5 // 2, dimensions // 2):
        sets = [FeatureStatistics().add(features(count, dimensions, seed)) for seed in (0, 1)]
        arguments = [moment for s in sets for moment in (s.mean, s.covariance)]
        for name, root in (("scipy.linalg.sqrtm", scipy_sqrtm), ("torch.linalg.eigvals", torch_eigvals)):
            slow, fast, difference = compare(arguments, with_root(root))
            if difference > 1e-6:
                raise AssertionError(f"{name} gives another distance (by {difference:.1e}); the speeds cannot be compared")
            kind = "" if count > dimensions else " (singular)"
            rows.append({"what": f"Frechet distance, {dimensions}-d, {count:,} images{kind}", "baseline": slow, "ours": fast, "ratio": slow / fast, "unit": "CPU s",
                         "note": f"against {name}, 1 thread; relative difference {difference:.0e}"})
    return rows


def run(quick: bool = False) -> list[dict]:
    """Rows of (what, baseline, ours, ratio, unit, note); `quick` uses 256 dimensions."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--measure", *(["--quick"] if quick else [])]
    return json.loads(subprocess.run(command, env={**os.environ, **one_thread}, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    """Print the rows (or, for `run`, write them as JSON)."""
    if "--measure" in sys.argv:
        json.dump(measure("--quick" in sys.argv), sys.stdout)
        return
    for row in run(quick="--quick" in sys.argv):
        print(f"{row['what']:<56} {row['baseline']:>8.2f} -> {row['ours']:>7.2f} {row['unit']}  {row['ratio']:.1f}x  ({row['note']})")


if __name__ == "__main__":
    main()
