"""How much may be hidden? The same walks with occluders from a tenth to nine tenths of their frames, and four ways to treat the hidden bands at the test."""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from dgnb.augmentation import normalise
from dgnb.baseline import evaluate_features
from dgnb.clips import TrackletDataset
from dgnb.layers import evaluating
from dgnb.own_sets import SPLITS
from dgnb.retrieval import RetrievalResult
from dgnb.run_store import RunContext, RunSpec, RunStore, recipe
from dgnb.tracklets import TrackletRecord
from dgnb.video_worlds import VideoWorld

from .against_truth import world_of
from .localizer import band_features, frame_maps
from .pipeline import TRUTH_LIMIT, VRSTCPlan, stages
from .repair import DiscardedSet, RepairedSet, tracklet_table, true_table
from .stcnet import load_stcnet
from .video_reid import VideoReIDNetwork
from .video_training import VideoSettings, evaluate_video, load_video_network, video_data_spec

__all__ = ["TREATMENTS", "severity_data", "severity_spec", "visible_mean", "completed_features", "test_severity"]

SEVERITY_VERSION = 1
TREATMENTS = {  # of bands that are truly hidden, at the test alone -> words
    "raw": "kept",
    "discarded": "frames discarded",
    "repaired": "pixels completed",
    "features": "features completed",
}


def severity_data(
    world: VideoWorld,
    duration: float,  # share of each tracklet's frames in which an occluder passes; 0: none in any
) -> dict:  # as from `video_data_spec`
    """What identifies the same walks with an occluder in every tracklet for so long. ValueError beside 0..1."""
    data = video_data_spec(world)
    changed = {"share": 1.0, "duration": (duration, duration)} if duration else {"share": 0.0}
    if not 0 <= duration <= 1:
        raise ValueError(f"duration {duration}: give a share of the frames, 0 to 1")
    return data | {"occlusion": data["occlusion"] | changed}


def severity_spec(
    plan: VRSTCPlan,  # whose first network is tested, and whose STCnet repairs
    world: VideoWorld,  # that both were trained on
    duration: float,  # see `severity_data`
) -> RunSpec:
    """The name of the run that tests one severity."""
    names = stages(plan, world)
    settings = {"of": names["pretrain"].as_dict(), "stcnet": names["stcnet"].as_dict() if duration else None, "limit": TRUTH_LIMIT}
    return RunSpec("occlusion-severity", SEVERITY_VERSION, settings, severity_data(world, duration), plan.seed)


def visible_mean(
    features: torch.Tensor,  # T x bands x C, of one tracklet
    flags: np.ndarray,  # bool, T x bands: hidden
) -> torch.Tensor:  # bands x C
    """The mean of each band over the frames in which it can be seen; over all frames where it never can."""
    seen = torch.as_tensor(~flags | flags.all(0)).to(features)[..., None]
    return (features * seen).sum(0) / seen.sum(0)


def completed_features(
    network: VideoReIDNetwork,  # without non-local blocks, so that a frame's map is its own; in evaluation mode
    source: VideoWorld,
    records: Sequence[TrackletRecord],
    size: tuple[int, int],  # (height, width) in pixels
    flags: Mapping[TrackletRecord, np.ndarray],  # bool, T x bands of each
) -> torch.Tensor:  # N x C, float32, on the CPU, of length one
    """One feature per tracklet, hidden bands of the last map taken from the frames that show them; without flags the usual feature."""
    if network.body.places:
        raise ValueError("features are completed frame by frame: give a network without non-local blocks")
    source.prepare(records)
    tracklets, maps, device, found = TrackletDataset(source, records, size), frame_maps(network), next(network.parameters()).device, []
    with torch.inference_mode():
        for index, record in enumerate(records):
            pixels, _ = tracklets.fetch(np.full(record.length, index), np.arange(record.length))
            map_ = maps(normalise(pixels.to(device)))
            bands = band_features(map_).float().cpu()
            found.append(map_.mean((0, 2, 3)).float().cpu() + (visible_mean(bands, flags[record]) - bands.mean(0)).mean(0))
    return F.normalize(torch.stack(found))


def _with_features(network: VideoReIDNetwork, world: VideoWorld, size: tuple[int, int], table) -> RetrievalResult:
    """Retrieval by completed features."""
    records, flags = sorted({*world.query, *world.gallery}), tracklet_table(world, table, SPLITS[1:])
    features, place = completed_features(network, world, records, size, flags), {record: n for n, record in enumerate(records)}
    query, gallery = (features[[place[record] for record in part]] for part in (world.query, world.gallery))
    return evaluate_features(query, gallery, world)


@recipe("occlusion-severity", version=SEVERITY_VERSION)
def test_severity(context: RunContext) -> None:
    """Film the walks so, flag by exact masks, and search with one network after each treatment; keep every query's precision."""
    parts, store = context.spec.as_dict(), RunStore(local=context.folder.parent)
    settings, ask = parts["settings"], lambda spec: store.get(RunSpec(**spec), train=True, weights=True, progress=context.progress)
    world = copy.copy(world_of(parts["data"]))
    world.train = ()  # nobody learns here, so no training walk is filmed
    network, of = load_video_network(ask(settings["of"])), VideoSettings(**settings["of"]["settings"])
    test = lambda source: evaluate_video(network, source, of.size, of.chunk).result
    results, metrics = {"raw": test(world)}, {}
    if settings["stcnet"]:
        table, net = true_table(world, settings["limit"]), load_stcnet(ask(settings["stcnet"]))
        results |= {"discarded": test(DiscardedSet(world, table, SPLITS[1:])), "repaired": test(RepairedSet(world, net, table, SPLITS[1:]))}
        with evaluating(network):
            results["features"] = _with_features(network, world, of.size, table)
        metrics = {"bands_hidden": float(table.flagged.mean()), "frames_hidden": float(table.groupby(["tracklet", "frame"]).flagged.any().mean())}
    context.save_metrics(metrics | {f"rank1_{name}": result.mean("rank1") for name, result in results.items()})
    context.save_per_query({f"ap_{name}": result.ap_step[result.counted].astype(np.float16) for name, result in results.items()})
