"""k-reciprocal re-ranking, features to final distances: ours (sparse) against the usual dense NumPy form.

The baseline `dense_rerank` is our own transcription of the algorithm as the field's code runs it: n x n matrices in float32, a full argsort, a loop over
all images for the sets, and a loop over the queries for the Jaccard distances through inverted lists.
"""
from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench_retrieval import fresh_process, make_features
from dgnb.reranking import KReciprocal, rerank

SIZES = {"Market-1501": (3_368, 19_732, 1_501, 6), "MSMT17": (11_659, 82_161, 3_060, 15)}  # queries, gallery with junk, identities, cameras
PEER = "the dense form on a 2-core Xeon: 101 s, 12.3 GiB"


def features(*arguments) -> dict:
    """Queries and gallery only, of a good network (plain mAP about 0.87)."""
    made = make_features(*arguments, noise=0.6)
    return dict(query=made["query"], gallery=made["gallery"])


def reciprocal(near: np.ndarray, i: int, k: int) -> np.ndarray:
    """Those of the k nearest of image i that have it among theirs."""
    mine = near[i, :k + 1]
    return mine[np.where(near[mine, :k + 1] == i)[0]]


def dense_rerank(query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, lam: float = 0.3) -> np.ndarray:
    """Re-ranked distances the usual way."""
    x = np.concatenate([query, gallery])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    n, q = len(x), len(query)
    d = np.maximum(2 - 2 * (x @ x.T), 0)
    d /= d.max(1, keepdims=True)
    near, v = np.argsort(d, axis=1).astype(np.int32), np.zeros_like(d)
    for i in range(n):
        core = members = reciprocal(near, i, k1)
        for c in core:
            friends = reciprocal(near, c, int(np.around(k1 / 2)))
            if len(np.intersect1d(friends, core)) > 2 / 3 * len(friends): members = np.append(members, friends)
        members = np.unique(members)
        weight = np.exp(-d[i, members])
        v[i, members] = weight / weight.sum()
    d, expanded = d[:q], np.zeros_like(v)
    for i in range(n): expanded[i] = v[near[i, :k2]].mean(0)
    v = expanded
    del expanded, near
    holders, out = [np.where(v[:, j] != 0)[0] for j in range(n)], np.zeros_like(d)
    for i in range(q):
        common = np.zeros(n, np.float32)
        for j in np.where(v[i] != 0)[0]: common[holders[j]] += np.minimum(v[i, j], v[holders[j], j])
        out[i] = 1 - common / (2 - common)
    return (out * (1 - lam) + d * lam)[:, q:]


def sparse_rerank(query, gallery) -> np.ndarray:
    """Ours, the whole matrix."""
    return rerank(query, gallery)


def streamed(query, gallery) -> int:
    """Ours, rows made and dropped, as an evaluation uses them."""
    rows = KReciprocal(query, gallery)
    return sum(len(rows(start, min(start + 256, len(query)))) for start in range(0, len(query), 256))


def compare(share: float) -> list[dict]:
    """Time, memory and equality at a share of Market-1501's size."""
    queries, gallery, identities, cameras = SIZES["Market-1501"]
    size = (int(queries * share), int(gallery * share), max(20, int(identities * share)), cameras)
    inputs = features(*size)
    sparse_rerank(inputs["query"][:64], inputs["gallery"][:640])  # load libraries, start threads
    taken = {dense_rerank: [], sparse_rerank: []}
    for turn in (sparse_rerank, dense_rerank, sparse_rerank, dense_rerank, sparse_rerank):
        start = time.perf_counter()
        found = turn(**inputs)
        taken[turn].append(time.perf_counter() - start)
        if turn is sparse_rerank:
            ours = found
        else:
            dense = found
        del found
    seconds = median(taken[dense_rerank]), median(taken[sparse_rerank])
    difference = float(np.abs(dense - ours).max())
    del dense, ours
    memory = {f.__name__: fresh_process(features, size, f)[1] for f in (dense_rerank, sparse_rerank)}
    name = f"re-ranking, {size[0] + size[1]:,} images x 512"
    return [dict(what=name, baseline=seconds[0], ours=seconds[1], ratio=seconds[0] / seconds[1], unit="s",
                 note=f"dense NumPy; median of 2 and of 3; entries differ by at most {difference:.1e}" + (f"; {PEER}" if share == 1 else "")),
            dict(what=f"{name}, memory", baseline=memory["dense_rerank"], ours=memory["sparse_rerank"], ratio=memory["dense_rerank"] / memory["sparse_rerank"], unit="GiB",
                 note="beyond the inputs, the result included")]


def msmt() -> list[dict]:
    """MSMT17's size, which the dense form cannot do: 33 GiB for each of its matrices."""
    rows = []
    for action, what in ((sparse_rerank, "the whole matrix"), (streamed, "in rows")):
        seconds, extra, peak = fresh_process(features, SIZES["MSMT17"], action)
        rows += [dict(what=f"re-ranking, 93,820 images x 512, {what}", baseline="", ours=seconds, ratio="", unit="s", note=f"peak {peak:.2f} GiB with inputs; the dense form would need over 130 GiB")]
    return rows


def run(quick: bool = False) -> list[dict]:
    """All rows; quick: an eighth of Market-1501's size only."""
    return compare(1 / 8) if quick else compare(1.0) + msmt()


if __name__ == "__main__":
    for found in run("--quick" in sys.argv): print(found)
