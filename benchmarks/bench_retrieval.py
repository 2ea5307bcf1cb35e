"""Retrieval evaluation from features: ours against the way Cython evaluators of the field work, and against the Python loop.

The baselines are our own transcriptions of the algorithms, not the libraries' code. `sorted_lists` is what a Cython evaluator does: the whole distance
matrix in float32, a full argsort of every row to int64, the gathered matrix of matches as int64, then for each query a filtered copy of its list, running
sums and a precision for every place. The last part is C compiled on the spot, vectorised NumPy where there is no compiler. `python_lists` is the same
with NumPy calls for each query and a Python list of precisions for every place, as the libraries' fallback does. Junk is taken out beforehand for all.
"""
from __future__ import annotations

import ctypes
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dgnb.retrieval import evaluate_retrieval

SIZES = {"Market-1501": (3_368, 15_913, 751, 6), "MSMT17": (11_659, 82_161, 3_060, 15)}  # queries, gallery without junk, identities, cameras
PEER = {"Market-1501": "fastest Cython evaluator measured by us on a 2-core Xeon: 3.1 s, +0.63 GiB", "MSMT17": "on the same Xeon: 70 s, peak 11.5 GiB"}

WALK = r"""
#include <stdint.h>
#include <stdlib.h>
static void running(const float *from, float *to, long n) { to[0] = from[0]; for (long i = 1; i < n; i++) to[i] = to[i - 1] + from[i]; }
long walk(const int64_t *order, const int64_t *match, const int64_t *qp, const int64_t *gp, const int64_t *qc, const int64_t *gc,
          long nq, long ng, long top, float *cmc, double *ap) {
    float *hit = malloc(ng * 4), *sum = malloc(ng * 4); int64_t *list = malloc(ng * 8); long valid = 0;
    for (long q = 0; q < nq; q++) {
        const int64_t *o = order + q * ng, *m = match + q * ng; long n = 0; int any = 0;
        for (long g = 0; g < ng; g++) list[g] = o[g];
        for (long g = 0; g < ng; g++)
            if (gp[list[g]] != qp[q] || gc[list[g]] != qc[q]) { hit[n] = m[g]; any |= m[g] != 0; n++; }
        if (!any) continue;
        running(hit, sum, n);
        for (long r = 0; r < top; r++) cmc[valid * top + r] = sum[r < n ? r : n - 1] > 0;
        double total = 0, found = 0;
        for (long g = 0; g < n; g++) { total += sum[g] / (g + 1.0) * hit[g]; found += hit[g]; }
        ap[valid++] = total / found;
    }
    free(hit); free(sum); free(list); return valid;
}
"""


def compiled():
    """The C loop as a function, or None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None: return None
    folder = tempfile.mkdtemp(prefix="walk")
    try:
        subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-x", "c", "-", "-o", f"{folder}/walk.so"], input=WALK.encode(), check=True, capture_output=True)
        return ctypes.CDLL(f"{folder}/walk.so").walk
    except (subprocess.CalledProcessError, OSError): return None
    finally: shutil.rmtree(folder, ignore_errors=True)


def make_features(queries: int, gallery: int, identities: int, cameras: int, dimensions: int = 512, noise: float = 1.0, seed: int = 0) -> dict:
    """Made-up features of people seen by cameras; with noise 1.0 a mid-range mAP."""
    draw = np.random.default_rng(seed)
    person, camera = (draw.standard_normal((n, dimensions), dtype=np.float32) for n in (identities, cameras))

    def side(n: int):
        ids, cams = draw.integers(0, identities, n), draw.integers(0, cameras, n)
        out = draw.standard_normal((n, dimensions), dtype=np.float32)
        out *= noise * draw.gamma(4, 0.5, (n, 1)).astype(np.float32)  # some images are much noisier than others
        out += person[ids]
        out += 0.6 * camera[cams]
        return out, ids, cams

    (q, qi, qc), (g, gi, gc) = side(queries), side(gallery)
    return dict(query=q, gallery=g, query_ids=qi, gallery_ids=gi, query_cameras=qc, gallery_cameras=gc)


def distance_matrix(query, gallery) -> np.ndarray:
    """Cosine distances in full, by torch.mm as the peers do."""
    q, g = (torch.nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (query, gallery))
    return (1 - torch.mm(q, g.t())).numpy()


def sorted_lists(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, walk=None) -> tuple[float, float]:
    """(mAP, rank-1) as a Cython evaluator finds them."""
    distances = distance_matrix(query, gallery)
    order = np.argsort(distances, axis=1)
    match = (gallery_ids[order] == query_ids[:, None]).astype(np.int64)
    if walk is None: return numpy_lists(order, match, query_ids, gallery_ids, query_cameras, gallery_cameras)
    cmc, ap = np.zeros((len(query), 50), np.float32), np.zeros(len(query))
    at = lambda x: x.ctypes.data_as(ctypes.c_void_p)
    labels = [x.astype(np.int64) for x in (query_ids, gallery_ids, query_cameras, gallery_cameras)]
    valid = walk(at(order), at(match), *map(at, labels), *map(ctypes.c_long, (*order.shape, 50)), at(cmc), at(ap))
    return ap[:valid].mean(), cmc[:valid, 0].mean()


def numpy_lists(order, match, query_ids, gallery_ids, query_cameras, gallery_cameras) -> tuple[float, float]:
    """The same without a compiler: vectorised NumPy on each query's list."""
    aps, first = [], []
    for q in range(len(order)):
        keep = (gallery_ids[order[q]] != query_ids[q]) | (gallery_cameras[order[q]] != query_cameras[q])
        hit = match[q][keep]
        if not hit.any(): continue
        aps.append((hit.cumsum() / np.arange(1, len(hit) + 1) * hit).sum() / hit.sum())
        first.append(hit[0])
    return float(np.mean(aps)), float(np.mean(first))


def python_lists(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras) -> tuple[float, float]:
    """(mAP, rank-1) with a Python list of precisions for each query."""
    order = np.argsort(distance_matrix(query, gallery), axis=1)
    aps, first = [], []
    for q in range(len(order)):
        keep = ~((gallery_ids[order[q]] == query_ids[q]) & (gallery_cameras[order[q]] == query_cameras[q]))
        hit = (gallery_ids[order[q]] == query_ids[q])[keep].astype(np.int32)
        if not hit.any(): continue
        sums = hit.cumsum()
        aps.append((np.asarray([x / (i + 1.0) for i, x in enumerate(sums)]) * hit).sum() / hit.sum())
        first.append(hit[0])
    return float(np.mean(aps)), float(np.mean(first))


def ours(**features) -> tuple[float, float]:
    """(mAP by the step rule, rank-1)."""
    result = evaluate_retrieval(**features)
    return result.map_step, result.cmc[0]


def alternate(actions: dict, repeats: int) -> tuple[dict, dict]:
    """Median seconds and last result of each action, taken in turns so that they see the same machine."""
    seconds, found = {name: [] for name in actions}, {}
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            found[name] = action()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}, found


def resident(field: str) -> float:
    """GiB of this process's memory: "VmRSS" now, "VmHWM" the most since `forget_peak`; 0 where the system does not tell."""
    try: lines = Path("/proc/self/status").read_text().splitlines()
    except OSError: return 0.0
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith(field)), 0.0)


def forget_peak() -> None:
    """Start a new measurement of the largest memory (Linux)."""
    try: Path("/proc/self/clear_refs").write_text("5")
    except OSError: pass


def _peak(make, arguments, action, threads, send) -> None:
    torch.set_num_threads(threads)
    inputs = make(*arguments)
    action(**{k: v[:64] if k.startswith("query") else v for k, v in inputs.items()})  # load libraries, start threads
    forget_peak()
    before, start = resident("VmRSS"), time.perf_counter()
    action(**inputs)
    send.send((time.perf_counter() - start, resident("VmHWM") - before, resident("VmHWM")))


def fresh_process(make, arguments, action) -> tuple[float, float, float]:
    """(seconds, GiB beyond its inputs, peak GiB) of action(**make(*arguments)), in a process of its own."""
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(make, arguments, action, torch.get_num_threads(), send))
    process.start()
    send.close()
    try: return receive.recv()
    except EOFError: raise MemoryError(f"{action.__name__} did not finish: out of memory?") from None
    finally: process.join()


def in_c(**features) -> tuple[float, float]:
    """`sorted_lists` with the compiled loop where there is a compiler."""
    return sorted_lists(**features, walk=compiled())


def row(what, baseline, own, unit="s", note="") -> dict:
    return dict(what=what, baseline=baseline, ours=own, ratio=baseline / own if own else float("inf"), unit=unit, note=note)


def market(repeats: int, share: float) -> list[dict]:
    """Time, memory and equality at Market-1501's size (a share of its queries when quick)."""
    queries, *rest = SIZES["Market-1501"]
    arguments = (int(queries * share), *rest)
    features, walk = make_features(*arguments), compiled()
    how = "C loop" if walk else "NumPy loop (no compiler)"
    seconds, found = alternate({"c": lambda: sorted_lists(**features, walk=walk), "ours": lambda: ours(**features)}, repeats)
    difference = max(abs(a - b) for a, b in zip(found["c"], found["ours"]))
    few = {k: v[:max(20, len(v) // 20)] if k.startswith("query") else v for k, v in features.items()}
    slow, _ = alternate({"python": lambda: python_lists(**few), "ours": lambda: ours(**few)}, 1)
    memory = {f.__name__: fresh_process(make_features, arguments, f) for f in (in_c, ours)}
    name = f"evaluation, {arguments[0]:,} x {arguments[1]:,} x 512"
    return [
        row(name, seconds["c"], seconds["ours"], note=f"argsort of every row + {how}; mAP {found['ours'][0]:.4f}, differs by {difference:.1e} in float32; {PEER['Market-1501']}"),
        row(name.replace(f"{arguments[0]:,}", f"{len(few['query']):,}"), slow["python"], slow["ours"], note="the same with a Python list for each query"),
        row(f"{name}, memory", memory["in_c"][1], memory["ours"][1], "GiB", "beyond the inputs"),
    ]


def msmt(share: float) -> list[dict]:
    """Time and memory at MSMT17's size; the baseline on a share of the queries, since it needs about 12 GiB in full."""
    queries, *rest = SIZES["MSMT17"]
    part = fresh_process(make_features, (int(queries * share), *rest), in_c)
    if share < 1 / 8: full, mine = part[0], fresh_process(make_features, (int(queries * share), *rest), ours)
    else: full, mine = part[0] / share, fresh_process(make_features, (queries, *rest), ours)
    count = queries if share >= 1 / 8 else int(queries * share)
    note = f"baseline measured on {int(queries * share):,} queries" + (" and scaled" if share >= 1 / 8 else "") + f"; {PEER['MSMT17']}"
    name = f"evaluation, {count:,} x {rest[0]:,} x 512"
    return [row(name, full, mine[0], note=note),
            row(f"{name}, memory", part[1] * count / int(queries * share), mine[1], "GiB", f"beyond the inputs; our peak is {mine[2]:.2f} GiB with them")]


def float64_difference() -> dict:
    """Largest difference of any per-query score from the walk along every list, in float64, as a row."""
    features = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in make_features(200, 4_000, 60, 6).items()}
    reference = numpy_reference(**features)
    result = evaluate_retrieval(**features)
    worst = max(np.abs(reference[0] - result.ap_step[result.matched]).max(), np.abs(reference[1] - result.first_rank[result.matched]).max())
    return dict(what="float64, 200 x 4,000: largest difference in any AP", baseline=0.0, ours=float(worst), ratio=1.0, unit="", note="from sorting and walking; allowed 1e-9")


def numpy_reference(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras) -> tuple[np.ndarray, np.ndarray]:
    """Step AP and first rank of every query with a match, from stably sorted lists in float64."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
    order = np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")
    aps, first = [], []
    for q in range(len(query)):
        same = gallery_ids[order[q]] == query_ids[q]
        hit = same[~(same & (gallery_cameras[order[q]] == query_cameras[q]))]
        if hit.any():
            ranks = np.flatnonzero(hit) + 1
            aps.append((np.arange(1, len(ranks) + 1) / ranks).mean()), first.append(ranks[0])
    return np.array(aps), np.array(first)


def run(quick: bool = False) -> list[dict]:
    """All rows; quick: a tenth of the queries and no scaling up."""
    rows = market(3 if quick else 7, 0.1 if quick else 1.0)
    return rows + msmt(0.02 if quick else 0.125) + [float64_difference()]


if __name__ == "__main__":
    for found in run("--quick" in sys.argv): print(found)
