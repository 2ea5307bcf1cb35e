"""Scoring and repair of a set: ours (batches across tracklets, one pass of the network for all bands, only flagged frames painted) against frame by frame.

The plain code does the same mathematics tracklet by tracklet and frame by frame: a pass of the scoring network for each band of each frame, cosines to the
tracklet's mean, neighbours by search, a pass of STCnet for each frame (once for all frames, an empty mask where nothing is flagged; once for flagged ones
only). Scores, flags and frames are compared. Memory is that of one long tracklet whose frames are made when they are read: against the whole tracklet at
once, and of ours alone for two lengths that are both beyond what the localizer keeps, each the median of some processes.
"""
from __future__ import annotations

import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench_attention import alternate
from bench_retrieval import forget_peak, resident
from dgnb.augmentation import normalise, resize_image
from dgnb.scales import numpy_generator, seed_everything
from dgnb.tracklets import TrackletRecord, VideoReIDSet
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.localizer import BANDS, OcclusionLocalizer, Rule, band_features
from dgnb.vrstc.repair import RepairedSet, home_splits, tracklet_table
from dgnb.vrstc.repairing import band_rows, repair_frames
from dgnb.vrstc.score_tables import localize_set
from dgnb.vrstc.spatial import band_masks, to_levels, to_signed
from dgnb.vrstc.step import STCnet, stcnet_settings
from dgnb.vrstc.video_training import make_video_network, video_settings

SIZE = (64, 32)


def networks(scale: str):
    """A scorer and a painter with the weights they start from."""
    seed_everything("repair")
    return make_video_network(video_settings(scale), 10).eval(), STCnet(stcnet_settings(scale)).eval()


def ours(source, scorer, painter, threshold: float):
    """Table of scores, and all frames of all tracklets."""
    table = localize_set(OcclusionLocalizer(scorer, SIZE, rule=Rule("threshold", threshold)), source, progress="off")
    repaired = RepairedSet(source, painter, table)
    return table, {record: [repaired.read_frame(record, n) for n in range(record.length)] for record in home_splits(source)}


def chw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None]


@torch.inference_mode()
def plain_scores(frames: list, scorer) -> np.ndarray:
    """T x bands, a pass for each band."""
    features = torch.stack([torch.stack([band_features(scorer.body.maps(normalise(chw(resize_image(frame, SIZE))), 1))[0, band] for band in range(3)]) for frame in frames])
    centre = features.mean(0)
    return np.array([[F.cosine_similarity(features[n, band], centre[band], 0).item() if len(frames) > 1 else 1.0 for band in range(3)] for n in range(len(frames))], np.float32)


def plain_neighbours(clean: list, n: int):
    """The nearest unoccluded frames by search; None without any."""
    left = next((m for m in range(n - 1, -1, -1) if clean[m]), None)
    right = next((m for m in range(n + 1, len(clean)) if clean[m]), None)
    return None if left is None and right is None else (right if left is None else left, left if right is None else right)


@torch.inference_mode()
def plain_repair(frames: list, flags: np.ndarray, painter, every: bool) -> list:
    """The frames of a tracklet; every: unflagged ones go through STCnet too."""
    clean, found = [not row.any() for row in flags], []
    for n, frame in enumerate(frames):
        near = plain_neighbours(clean, n)
        if near is None or flags[n].all() or not (every or flags[n].any()):
            found.append(frame)
            continue
        views = [to_signed(chw(resize_image(frames[m], SIZE))) for m in (n, *near)]
        painted = to_levels(painter(*views, band_masks(torch.from_numpy(flags[n:n + 1]), SIZE))[1])[0].permute(1, 2, 0).numpy()
        mended = frame.copy()
        mended[band_rows(len(frame), flags[n])] = resize_image(painted, frame.shape[:2])[band_rows(len(frame), flags[n])]
        found.append(mended)
    return found


def plain(source, scorer, painter, threshold: float, every: bool):
    """The same, tracklet by tracklet."""
    scores, found = {}, {}
    for record in home_splits(source):
        frames = [source.read_frame(record, n) for n in range(record.length)]
        scores[record] = plain_scores(frames, scorer)
        found[record] = plain_repair(frames, scores[record] < threshold, painter, every)
    return scores, found


def fair_threshold(source, scorer) -> float:
    """A threshold that flags about a tenth of the bands and that no score is near, so that rounding decides nothing."""
    scores = np.sort(localize_set(OcclusionLocalizer(scorer, SIZE), source, progress="off").score.to_numpy(float))
    low, high = (int(share * len(scores)) for share in (0.08, 0.12))
    best = low + int(np.diff(scores[low:high + 1]).argmax())
    return float(scores[best] + scores[best + 1]) / 2


def checked(source, scorer, painter, threshold: float) -> str:
    """That both give the same; a remark for the table."""
    (table, mine), (scores, theirs) = ours(source, scorer, painter, threshold), plain(source, scorer, painter, threshold, False)
    flags, values = tracklet_table(source, table), tracklet_table(source, table, column="score")
    far = max(float(np.abs(values[record] - scores[record]).max()) for record in scores)
    steps = [np.abs(np.stack(mine[record]).astype(int) - np.stack(theirs[record])) for record in scores]
    assert far < 1e-5 and all(np.array_equal(flags[record], scores[record] < threshold) for record in scores)
    assert max(s.max() for s in steps) <= 1 and sum((s > 0).sum() for s in steps) < 1e-4 * sum(s.size for s in steps)
    every = np.concatenate(list(flags.values()))
    return f"{len(flags)} tracklets, {len(every)} frames, {every.any(1).mean():.0%} of them flagged; scores differ by at most {far:.0e}, frames by one level in {sum(int((s > 0).sum()) for s in steps)} numbers"


def compare(scale: str, repeats: int, **options) -> list[dict]:
    """Time against both kinds of plain code."""
    source = make_video_world("mannequin-mars", "smoke", **options).prepare()
    scorer, painter = networks(scale)
    given = source, scorer, painter, fair_threshold(source, scorer)
    note = checked(*given)
    seconds = alternate({"all": lambda: plain(*given, True), "flagged": lambda: plain(*given, False), "ours": lambda: ours(*given)}, repeats)
    kinds = {"all": "every frame through STCnet", "flagged": "only flagged frames through STCnet"}
    return [dict(what=f"scoring and repair of a set, {scale} networks, against frame by frame, {how}", baseline=seconds[name], ours=seconds["ours"],
                 ratio=seconds[name] / seconds["ours"], unit="CPU s", note=note) for name, how in kinds.items()]


class Endless(VideoReIDSet):
    """One tracklet, its frames made when they are read."""

    def __init__(self, length: int):
        super().__init__(f"{length} frames", [], [], [TrackletRecord("0001", 1, 1, length)])

    def read_frame(self, tracklet, n):
        return numpy_generator("frame", n % 50).integers(0, 256, (*SIZE, 3), np.uint8)


def read_through(length: int) -> None:
    """Ours: score a tracklet, then read all of it repaired."""
    source, (scorer, painter) = Endless(length), networks("laptop")
    table = localize_set(OcclusionLocalizer(scorer, SIZE, rule=Rule("quantile", 0.1)), source, progress="off")
    repaired = RepairedSet(source, painter, table, budget=8 << 20)
    for n in range(length):
        repaired.read_frame(source.gallery[0], n)


def at_once(length: int) -> None:
    """The whole tracklet in one batch of each network."""
    source, (scorer, painter) = Endless(length), networks("laptop")
    frames = torch.from_numpy(np.stack(source.read_tracklet(source.gallery[0]))).permute(0, 3, 1, 2)
    scores = OcclusionLocalizer(scorer, SIZE, batch_frames=length).scores(frames)
    repair_frames(painter, frames, scores < scores.quantile(0.1), length)


def _peak(action, length: int, threads: int, send) -> None:
    torch.set_num_threads(threads)
    action(20)  # loads libraries
    forget_peak()
    before = resident("VmRSS")
    action(length)
    send.send(1024 * (resident("VmHWM") - before))


def peak(action, length: int) -> float:
    """MiB that an action takes, in a process of its own."""
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(action, length, torch.get_num_threads(), send))
    process.start()
    send.close()
    try: return receive.recv()
    except EOFError: raise MemoryError(f"{action.__name__} did not finish: out of memory?") from None
    finally: process.join()


def peaks(action, length: int, repeats: int) -> np.ndarray:
    """MiB of several processes, sorted: an allocator rounds up, and not always alike."""
    return np.sort([peak(action, length) for _ in range(repeats)])


def memory(length: int, short: int, long: int, repeats: int = 5) -> list[dict]:
    """Peak of one tracklet against all of it at once, and whether it grows with the tracklet."""
    if not OcclusionLocalizer.keep < short < long:
        raise ValueError(f"up to {OcclusionLocalizer.keep:,} frames the features are kept, so that memory grows: take two longer tracklets, not {short:,} and {long:,}")
    found = {name: peaks(*what, repeats) for name, what in {"whole": (at_once, length), "ours": (read_through, length), "short": (read_through, short), "long": (read_through, long)}.items()}
    usual = {name: float(np.median(values)) for name, values in found.items()}
    span = lambda name: f"{found[name][0]:.0f} to {found[name][-1]:.0f} MiB"
    how = f"beyond libraries; medians of {repeats} processes"
    return [dict(what=f"scoring and repair of one tracklet of {length:,} frames, memory", baseline=usual["whole"], ours=usual["ours"], ratio=usual["whole"] / usual["ours"], unit="MiB",
                 note=f"{how}, ours from {span('ours')}; the baseline takes all frames at once"),
            dict(what=f"scoring and repair of one tracklet, memory with {long / short:g} times the length", baseline=usual["short"], ours=usual["long"], ratio=usual["long"] / usual["short"], unit="MiB",
                 note=f"{how}; both columns are ours, {short:,} frames ({span('short')}) and {long:,} ({span('long')}); the ratio is the growth; all features of a tracklet are kept up to "
                      f"{OcclusionLocalizer.keep:,} frames only")]


def run(quick: bool = False) -> list[dict]:
    """All rows; quick: a small set."""
    small = dict(train_identities=4, test_identities=4, tracklets=1.5, test_tracklets=1.5, distractors=0, junk=0)
    if quick:
        return compare("smoke", 1, **small, longest=8, mean_length=6)
    return compare("laptop", 3, **small | {"train_identities": 16, "test_identities": 16}, longest=24, mean_length=14) + memory(3000, 2400, 9600)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for found in run("--quick" in sys.argv): print(found)
