"""Runs that hold VRSTC's parts against the exact truth of a video world: the localizer, the completions, and where a network looks."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from dgnb.augmentation import normalise
from dgnb.intervals import Interval
from dgnb.layers import evaluating
from dgnb.run_store import Run, RunContext, RunSpec, RunStore, RunStoreError, recipe
from dgnb.tracklets import TrackletRecord
from dgnb.video_worlds import VideoWorld
from dgnb.worlds import decode_image, encode_jpeg

from .holes import Cases, twin_cases
from .localizer import BANDS, OcclusionLocalizer, Rule
from .localizer_truth import auc_by_share, auc_interval, score_auc
from .repair import Flagging
from .spatial import to_levels
from .stcnet import compare, load_stcnet
from .video_reid import VideoReIDNetwork
from .video_training import VideoSettings, load_video_network, open_video_data

__all__ = ["METHODS", "localizer_truth_spec", "completions_spec", "activations_spec", "world_of", "pictures", "energy_share", "as_interval", "flag_words"]

LOCALIZER_TRUTH_VERSION = COMPLETIONS_VERSION = ACTIVATIONS_VERSION = 1
PAPER_RULE = ("threshold", 0.89)  # VRSTC, Table 2
METHODS = {  # what is held against the truth -> options of `OcclusionLocalizer`
    "network": {"centre": "mean", "measure": "cosine"},  # as VRSTC has it
    "network, median": {"centre": "median", "measure": "cosine"},
    "colour": {"centre": "mean", "measure": "distance"},  # mean colour of the band; no network
    "colour, median": {"centre": "median", "measure": "distance"},
}


def world_of(data: Mapping) -> VideoWorld:  # as from `video_data_spec`
    """The world of a run; a RunStoreError for a real set, of which nobody knows what is hidden."""
    source = open_video_data(data)
    if not hasattr(source, "film"):
        raise RunStoreError(f"{source.name} has no exact masks and no twins: hold a run on a Mannequin video world against the truth")
    return source


def _ask(context: RunContext, spec: Mapping) -> Run:
    """A run that another run looks into, trained now where it is missing."""
    return RunStore(local=context.folder.parent).get(RunSpec(**spec), train=True, weights=True, progress=context.progress)


def unseen_people(world: VideoWorld) -> list[TrackletRecord]:
    """All tracklets of people that training does not see, each once; neither junk nor distractors."""
    return sorted({record for record in (*world.query, *world.gallery) if record.pid > 0})


def pack(images: torch.Tensor, name: str) -> dict[str, np.ndarray]:  # uint8 N x 3 x H x W; -> "name_00": a JPEG file, ...
    """Pictures as arrays that a run can keep."""
    files = (encode_jpeg(image.permute(1, 2, 0).cpu().numpy(), 92) for image in images)
    return {f"{name}_{n:02d}": np.frombuffer(file, np.uint8) for n, file in enumerate(files)}


def pictures(run: Run, name: str) -> list[np.ndarray]:  # uint8 H x W x 3 each
    """The pictures that a run kept under a name."""
    return [decode_image(array.tobytes()) for key, array in run.per_query.items() if key.rpartition("_")[0] == name and key.rpartition("_")[2].isdigit()]


def as_interval(found: Sequence[float]) -> str:  # mean, low, high
    """Three numbers for a table."""
    return f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})"


# the localizer

def localizer_truth_spec(
    of: RunSpec,  # a "video-reid" run on a world: the network that scores
    limit: float = 0.2,  # a band counts as occluded where at least this share of the person in it is hidden
    shown: int = 3,  # tracklets whose scores are kept: the best, the median, the worst
    rule: Rule = Rule("quantile", 0.1),  # whose thresholds are kept with them
) -> RunSpec:
    """The name of the run that holds a localizer against exact masks."""
    settings = {"of": of.as_dict(), "limit": limit, "shown": shown, "rule": [rule.kind, rule.value]}
    return RunSpec("localizer-truth", LOCALIZER_TRUTH_VERSION, settings, of.as_dict()["data"], of.seed)


def flag_words(
    flags: Flagging,  # by scores
    truth: Run | None,  # "localizer-truth" of the network that scores; None: how often flags are right is not said
) -> str:
    """What is flagged, beside the paper's rule, and how often either is right, as a sentence."""
    name = {"quantile": "the lowest {:.0%} of all bands", "threshold": "bands that score below {:g}"}
    known = {(row["rule"], row["value"]): row for row in truth.metrics["rules"]} if truth else {}
    right = lambda rule: " ({precision:.0%} of them are occluded, and {recall:.0%} of all occluded bands are among them)".format(**known[rule]) if rule in known else ""
    ours, paper = (flags.rule, flags.value), PAPER_RULE
    text = f"The localizer flags {name[ours[0]].format(ours[1])}{right(ours)}"
    text += "." if ours == paper else f", where the paper takes {name[paper[0]].format(paper[1])}{right(paper)}."
    return text + (f" Both by the scores of this very network; a band counts as occluded where {truth.spec.settings['limit']:.0%} of the person in it is hidden." if known else "")


def _method_scores(world: VideoWorld, records, network, size, rule: Rule) -> dict[str, pd.DataFrame]:
    """The score table of each method; colours are the maps of a network that does nothing."""
    nets = {"network": network, "colour": lambda frames: frames}
    return {name: OcclusionLocalizer(nets[name.partition(",")[0]], size, rule=rule, **how).localize(world, records) for name, how in METHODS.items()}


def _numbers(interval: Interval) -> list[float]:
    return [interval.mean, interval.low, interval.high]


def _aucs(scores: Mapping[str, np.ndarray], hidden: np.ndarray, owner: np.ndarray, limit: float) -> dict:
    """AUC of each method, by band and over all, and of the network's margin over the colours; N x 3 arrays, N owners."""
    found, occluded = {}, hidden >= limit
    parts = {"all bands": slice(None), **{band: slice(k, k + 1) for k, band in enumerate(BANDS)}}
    for part, columns in parts.items():
        mine, groups = occluded[:, columns], np.repeat(owner, occluded[:, columns].shape[1])
        if not mine.any() or mine.all():
            continue
        one = lambda name, other=None: _numbers(auc_interval(scores[name][:, columns], mine, groups, None if other is None else scores[other][:, columns]))
        found[part] = {name: one(name) for name in scores} | {f"network over colour{middle}": one(f"network{middle}", f"colour{middle}") for middle in ("", ", median")}
        found[part]["median over mean"] = one("network, median", "network")
    return found


def _by_share(scores: Mapping[str, np.ndarray], hidden: np.ndarray, owner: np.ndarray, limit: float) -> list[dict]:
    """AUC by the share of a tracklet's frames in which the band is occluded."""
    groups = owner[:, None] * len(BANDS) + np.arange(len(BANDS))
    tables = {name: auc_by_share(values, hidden >= limit, groups) for name, values in scores.items()}
    first = next(iter(tables.values()))
    rows = [{"low": row.low, "high": row.high, "bands": int(row.groups)} | {name: float(tables[name].auc[n]) for name in tables} for n, row in enumerate(first.itertuples())]
    return [{key: value for key, value in row.items() if value == value} for row in rows]


def _severity(scores: Mapping[str, np.ndarray], hidden: np.ndarray) -> list[dict]:
    """AUC of bands that are hidden by so much against bands that are not hidden at all."""
    rows = []
    for low, high in ((0.01, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        mine = ((hidden >= low) & (hidden < high)) | (hidden == 0)
        values = {name: score_auc(of[mine], hidden[mine] > 0) for name, of in scores.items()}
        rows.append({"low": low, "high": min(high, 1.0)} | {name: value for name, value in values.items() if value == value})
    return rows


def _rules(scores: np.ndarray, hidden: np.ndarray, limit: float) -> list[dict]:
    """Share flagged, precision and recall of fixed thresholds and of quantiles."""
    occluded, rows = hidden >= limit, []
    for kind, value in [("threshold", t) for t in (0.88, 0.89, 0.91, 0.93)] + [("quantile", q) for q in (0.02, 0.05, 0.1, 0.2)]:
        cut = value if kind == "threshold" else np.quantile(scores, value, axis=0)
        flagged = scores < cut
        hits = int((flagged & occluded).sum())
        rows.append({"rule": kind, "value": value, "flagged": float(flagged.mean()), "precision": hits / max(1, int(flagged.sum())), "recall": hits / max(1, int(occluded.sum()))})
    return rows


def _drops(scores: np.ndarray, hidden: np.ndarray, owner: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of tracklets whose most hidden band is occluded in some frames and visible in others: their numbers, how far its score falls, and the others' scores."""
    rows = []
    for number in np.unique(owner):
        mine = owner == number
        s, h = scores[mine], hidden[mine]
        band = int(h.mean(0).argmax())
        there, gone = h[:, band] >= limit, h[:, band] == 0
        others = [k for k in range(len(BANDS)) if k != band]
        calm = (h[:, others] == 0).all(1)
        if 0 < there.mean() <= 0.5 and gone.any() and (there & calm).any():
            fall = lambda columns: float(s[gone][:, columns].mean() - s[there & calm][:, columns].mean())
            rows.append((number, fall([band]), fall(others)))
    found = np.array(rows, float).reshape(-1, 3)
    return found[:, 0].astype(np.int64), found[:, 1], found[:, 2]


@recipe("localizer-truth", version=LOCALIZER_TRUTH_VERSION)
def hold_localizer(context: RunContext) -> None:
    """Scores of all test people by a network and by colours, against the hidden shares; a few tracklets are kept whole."""
    plan = context.spec.as_dict()
    settings, world = plan["settings"], world_of(plan["data"])
    network = load_video_network(_ask(context, settings["of"]))
    records, rule = unseen_people(world), Rule(*settings["rule"])
    tables = _method_scores(world, records, network, VideoSettings(**settings["of"]["settings"]).size, rule)
    scores = {name: table.score.to_numpy(float).reshape(-1, len(BANDS)) for name, table in tables.items()}
    hidden = world.occlusions(records)[list(BANDS)].to_numpy(float)
    owner, limit = np.repeat(np.arange(len(records)), [r.length for r in records]), settings["limit"]
    which, fall, others = _drops(scores["network"], hidden, owner, limit)
    order = which[np.argsort(others - fall, kind="stable")]
    picked = order[np.linspace(0, len(order) - 1, min(settings["shown"], len(order))).round().astype(int)] if len(order) else order
    if not context.writes:
        return
    context.save_metrics({"auc": _aucs(scores, hidden, owner, limit), "by_share": _by_share(scores, hidden, owner, limit), "severity": _severity(scores, hidden),
                          "rules": _rules(scores["network"], hidden, limit), "occluded": float((hidden >= limit).mean()), "tracklets": len(records), "frames": len(hidden),
                          "cuts": list(rule.cuts(tables["network"]).values())})
    kept = {f"scores_{n:02d}": scores["network"][owner == number].astype(np.float32) for n, number in enumerate(picked)}
    context.save_per_query({"fall": fall.astype(np.float32), "others": others.astype(np.float32), "picked": np.array([records[n].index for n in picked], np.int32)} | kept)


# the completions

def completions_spec(
    of: RunSpec,  # an "stcnet" run on a world
    count: int = 256,  # truly occluded frames, at most two of a tracklet
    shown: int = 8,  # whose pictures are kept
) -> RunSpec:
    """The name of the run that measures completions against the true twins."""
    return RunSpec("completions", COMPLETIONS_VERSION, {"of": of.as_dict(), "count": count, "shown": shown}, of.as_dict()["data"], of.seed)


def _spread_over(values: np.ndarray, shown: int) -> np.ndarray:
    """Numbers of cases from the best to the worst, evenly spread."""
    order = np.argsort(-values, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(shown, len(order))).round().astype(int)]


def _places(world: VideoWorld, cases: Cases) -> dict[str, np.ndarray]:
    """Which frames the cases are: tracklet number, frame."""
    number = {record.name: record.index for record in world.query}
    return {"tracklet": np.array([number[name] for name in cases.where.tracklet], np.int32), "frame": cases.where.frame.to_numpy(np.int32)}


@recipe("completions", version=COMPLETIONS_VERSION)
def measure_completions(context: RunContext) -> None:
    """PSNR, SSIM and L1 inside the hole, of the network, of its spatial generator and of two fills, for each case; pictures from the best to the worst."""
    plan = context.spec.as_dict()
    settings, world = plan["settings"], world_of(plan["data"])
    net = load_stcnet(_ask(context, settings["of"]))
    cases = twin_cases(world, world.query, net.settings.size, settings["count"])
    tables = compare(net, cases)
    arrays = {f"{name.replace(' ', '_')}_{measure}": values.to_numpy(np.float32) for name, table in tables.items() for measure, values in table.items()}
    fills = np.maximum(arrays["mean_band_psnr"], arrays["neighbour_copy_psnr"])
    picked = _spread_over(arrays["stcnet_psnr"] - fills, settings["shown"])
    given = [part[picked] for part in (cases.frame, cases.previous, cases.next, cases.mask)]
    if not context.writes:
        return
    context.save_metrics({name: float(values.mean()) for name, values in arrays.items()} | {"cases": len(cases), "tracklets": cases.where.tracklet.nunique()})
    rest = {"gap": cases.where.gap.to_numpy(np.int16), "picked": picked.astype(np.int32), "bands": cases.where[list(BANDS)].to_numpy(np.uint8)}
    seen = pack(to_levels(net.complete(*given)), "stcnet") | pack(to_levels(net.complete(*given, coarse=True)), "coarse")
    context.save_per_query(arrays | _places(world, cases) | rest | seen)


# where a network looks

def activations_spec(
    of: RunSpec,  # a "video-reid" run on a world: whose maps
    stcnet: RunSpec,  # an "stcnet" run on the same world: what completes the frames
    count: int = 256,  # truly occluded frames
    shown: int = 6,  # whose pictures and maps are kept
) -> RunSpec:
    """The name of the run that measures how much of a network's activation lies on the occluder, before and after completion."""
    settings = {"of": of.as_dict(), "stcnet": stcnet.as_dict(), "count": count, "shown": shown}
    return RunSpec("occluder-activation", ACTIVATIONS_VERSION, settings, of.as_dict()["data"], of.seed)


@torch.inference_mode()
def frame_energy(network: VideoReIDNetwork, frames: torch.Tensor, size: tuple[int, int], batch: int = 64) -> torch.Tensor:  # uint8 N x 3 x H x W -> N x h x w
    """Strength of the last map at each of its cells: squares, summed over the channels. Each frame is seen alone."""
    with evaluating(network):
        parts = [network.body.maps(normalise(F.interpolate(part.float(), size, mode="bilinear", antialias=True) if part.shape[-2:] != tuple(size) else part), 1)
                 for part in frames.split(batch)]
    return torch.cat(parts).float().square().sum(1)


def energy_share(
    energy: torch.Tensor,  # N x h x w
    cover: torch.Tensor,  # bool N x H x W: pixels of the occluder
) -> np.ndarray:  # N: 0..1
    """Share of the energy that lies on the occluder, each cell weighted with the share of its pixels that are covered."""
    weight = F.adaptive_avg_pool2d(cover.float()[:, None], energy.shape[-2:])[:, 0]
    return ((energy * weight).sum((1, 2)) / energy.sum((1, 2)).clamp_min(1e-12)).cpu().numpy()


def _covers(world: VideoWorld, places: Mapping[str, np.ndarray], size) -> torch.Tensor:
    """Pixels of the occluder in each case."""
    return torch.cat([world.film(int(tracklet), [int(n)], size=size).cover.cpu() for tracklet, n in zip(places["tracklet"], places["frame"])])


@recipe("occluder-activation", version=ACTIVATIONS_VERSION)
def look_at_occluders(context: RunContext) -> None:
    """The share on the occluder in the frame as filmed, as completed and without the occluder; pictures and maps from the largest fall to the smallest."""
    plan = context.spec.as_dict()
    settings, world = plan["settings"], world_of(plan["data"])
    network, net = load_video_network(_ask(context, settings["of"])), load_stcnet(_ask(context, settings["stcnet"]))
    cases = twin_cases(world, world.query, net.settings.size, settings["count"])
    seen = {"before": cases.frame, "after": net.complete(cases.frame, cases.previous, cases.next, cases.mask), "twin": cases.truth}
    seen, places = {name: to_levels(images) for name, images in seen.items()}, _places(world, cases)
    cover, size = _covers(world, places, net.settings.size), VideoSettings(**settings["of"]["settings"]).size
    maps = {name: frame_energy(network, images, size) for name, images in seen.items()}
    shares = {name: energy_share(energy, cover) for name, energy in maps.items()} | {"area": cover.float().mean((1, 2)).numpy()}
    picked = _spread_over(shares["before"] - shares["after"], settings["shown"])
    if not context.writes:
        return
    context.save_metrics({name: float(values.mean()) for name, values in shares.items()} | {"cases": len(cases)})
    kept = {f"map_{name}": energy[picked].numpy().astype(np.float32) for name, energy in maps.items()}
    shown = {key: file for name, images in seen.items() for key, file in pack(images[picked], name).items()}
    context.save_per_query({name: values.astype(np.float32) for name, values in shares.items()} | places | {"picked": picked.astype(np.int32)} | kept | shown)
