"""What VRSTC's three drawings need of a trained STCnet: one tracklet on its way through the method, and where attention looks, held against the truth."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from dgnb.augmentation import resize_image
from dgnb.cloth import surface_coordinates
from dgnb.people import take
from dgnb.rendering import _cast_people
from dgnb.run_store import RunContext, RunSpec, RunStore, recipe
from dgnb.scales import seed_everything
from dgnb.tracklets import TrackletRecord
from dgnb.video_worlds import VideoWorld

from .against_truth import _ask, pack, unseen_people, world_of
from .attention import attention_weights, mix, patch_similarity
from .holes import pick_neighbours, twin_cases
from .localizer import BANDS
from .repair import Flagging, RepairedSet, tracklet_table
from .repairing import plan_repairs, repairable
from .spatial import band_masks, to_levels, to_signed
from .stcnet import load_stcnet
from .step import STCnet
from .video_training import open_video_data

__all__ = ["Window", "best_window", "glimpse_spec", "attention_rows", "SurfaceMap", "surface_map", "counterparts", "matches_spec"]

GLIMPSE_VERSION = MATCHES_VERSION = 1
FAR = 2  # cells that a point has moved between two frames for the question to be a hard one
NEAR = 0.06  # metres on the surface within which two pixels show the same point


# one tracklet

@dataclass(frozen=True)
class Window:
    """Consecutive frames of a tracklet, and the flagged one that is drawn largest."""
    record: TrackletRecord
    start: int  # position of the first frame
    length: int
    frame: int  # position of a flagged frame that can be repaired
    previous: int  # its neighbours
    next: int

    @property
    def rows(self) -> slice:
        """Its frames."""
        return slice(self.start, self.start + self.length)


def _judge(flags: np.ndarray, scores: np.ndarray) -> tuple:
    """How well some frames (T x bands) show the method, by flags and scores alone: the more, the better."""
    hit, bands = flags.any(1), flags.any(0).sum()
    return not hit[0] and not hit[-1], bands == 1, int(hit.sum()), -float(scores[flags].mean())


def best_window(
    flags: Mapping[TrackletRecord, np.ndarray],  # bool T x bands of each tracklet
    scores: Mapping[TrackletRecord, np.ndarray],  # T x bands
    length: int = 5,  # frames
) -> Window:
    """The frames that show the method best: clean at both ends, flagged in one band only and as often as possible, and there with the lowest scores. ValueError where no frame can be repaired."""
    found = []
    for record, mine in flags.items():
        plan = plan_repairs(mine)
        jobs = plan[repairable(plan)]
        for start in range(max(1, len(mine) - length + 1)) if len(jobs) else ():
            rows = slice(start, start + length)
            inside = jobs[(jobs.frame >= start) & (jobs.frame < start + length)]
            if len(inside):
                middle = inside.iloc[len(inside) // 2]
                window = Window(record, start, min(length, len(mine)), int(middle.frame), int(middle.previous), int(middle.next))
                found.append((_judge(mine[rows], scores[record][rows]), record.name, start, window))
    if not found:
        raise ValueError("no frame is flagged and can be repaired: flag a larger share of all bands")
    return max(found, key=lambda one: one[0])[3]


def glimpse_spec(
    data: Mapping,  # of a repaired set, see `kinds_of_video`
    length: int = 5,  # frames of the tracklet
    limit: float = 0.2,  # on worlds: a band counts as occluded where at least this share of the person in it is hidden
    seed: int = 0,  # of the networks
) -> RunSpec:
    """The name of the run that keeps a tracklet's frames, scores, flags and repairs, and where attention looked."""
    return RunSpec("glimpse", GLIMPSE_VERSION, {"length": length, "limit": limit}, data, seed)


def attention_rows(
    net: STCnet,  # with attention
    coarse: torch.Tensor,  # 1 x 3 x H x W, x1
    neighbours: Mapping[str, torch.Tensor],  # "previous", "next" -> 1 x 3 x H x W
    cell: tuple[int, int],  # row and column on the map: the question
) -> dict[str, np.ndarray]:  # "cosine_previous", "weights_previous", ...: h x w; "energy_F", "energy_previous", "energy_O_previous", ...: h x w
    """What one position of the coarse frame's features finds in each neighbour (VRSTC eq. 1 and 2), and how strong the features are."""
    part, layer = net.temporal, net.temporal.attention
    with torch.inference_mode():
        now = part.current(coarse)
        near = {"previous": part.previous(neighbours["previous"]), "next": part.following(neighbours["next"])}
    shape, row = now.shape[-2:], cell[0] * now.shape[-1] + cell[1]
    energy = lambda maps: maps[0].square().sum(0).sqrt().numpy()
    found = {"energy_F": energy(now)}
    for name, maps in near.items():
        weights = attention_weights(now, maps, layer.scale, layer.size)
        found |= {f"cosine_{name}": patch_similarity(now, maps, layer.size)[0, row].view(shape).numpy(), f"weights_{name}": weights[0, row].view(shape).numpy(),
                  f"energy_{name}": energy(maps), f"energy_O_{name}": energy(mix(weights, maps, layer.values, layer.size))}
    return found


def _cuts(flags: Mapping, scores: Mapping, mine: list[TrackletRecord]) -> np.ndarray:  # bands
    """The threshold of each band: in the middle between the highest flagged score and the lowest other."""
    flags, scores = (np.concatenate([table[record] for record in mine]) for table in (flags, scores))
    low, high = np.where(flags, scores, -np.inf).max(0), np.where(flags, np.inf, scores).min(0)
    return np.where(np.isfinite(low) & np.isfinite(high), (low + high) / 2, np.where(np.isfinite(low), low, high))


def _truth(source, flags: Mapping, records: list[TrackletRecord], limit: float) -> dict[str, np.ndarray]:
    """On worlds: for each tracklet of unseen people how many bands are flagged, how many of these are occluded, and both for the other bands."""
    if not hasattr(source, "occlusions"):
        return {}
    table = source.occlusions(records)
    hidden, owner = table[list(BANDS)].to_numpy(float) >= limit, np.repeat(np.arange(len(records)), [r.length for r in records])
    flagged = np.concatenate([flags[record] for record in records])
    count = lambda mask: np.bincount(owner, mask.sum(1), len(records)).astype(np.int32)
    return {"flagged": count(flagged), "flagged_hidden": count(flagged & hidden), "others": count(~flagged), "others_hidden": count(~flagged & hidden)}


def _both_stages(net: STCnet, repaired: RepairedSet, window: Window) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Pictures of the largest frame (uint8, 1 x 3 x H x W) and the rows of attention from the middle of its hole."""
    views = {name: repaired.source.read_frame(window.record, n) for name, n in (("frame", window.frame), ("previous", window.previous), ("next", window.next))}
    seen = {name: to_signed(torch.from_numpy(resize_image(image, net.settings.size).transpose(2, 0, 1).copy()))[None] for name, image in views.items()}
    mask = band_masks(torch.from_numpy(repaired.flags[window.record][window.frame][None].copy()), net.settings.size)
    given = (seen["frame"], seen["previous"], seen["next"], mask)
    coarse = net.complete(*given, coarse=True)
    rows = np.flatnonzero(mask[0, 0, :, 0].numpy())
    cell = (int(rows[len(rows) // 2]) // 4, net.settings.size[1] // 8)
    found = attention_rows(net, coarse, seen, cell) | {"cell": np.array(cell, np.int32)} if net.settings.second == "attention" else {}
    pictures = {"view": torch.cat([seen["previous"], seen["frame"], seen["next"]]), "stage": torch.cat([coarse, net.complete(*given)])}
    return {name: to_levels(images) for name, images in pictures.items()}, found | {"mask": mask[0, 0, :, 0].numpy().astype(bool)}


@recipe("glimpse", version=GLIMPSE_VERSION)
def take_glimpse(context: RunContext) -> None:
    """Find the window, by flags and scores alone; keep it as filmed and as repaired, both stages of one frame, and the rows of attention. On worlds also the truth."""
    parts, store = context.spec.as_dict(), RunStore(local=context.folder.parent)
    repaired = open_video_data(parts["data"], store)
    source, settings = repaired.source, parts["settings"]
    scores = tracklet_table(source, Flagging.of(parts["data"]["flags"]).table(source, store), repaired.which, "score")
    people = [record for record in unseen_people(source) if record in repaired.flags]
    window = best_window({r: repaired.flags[r] for r in people}, scores, settings["length"])
    net = repaired.net.cpu().eval()
    images, arrays = _both_stages(net, repaired, window)
    record, frames = window.record, range(window.start, window.start + window.length)
    stack = lambda some: torch.from_numpy(np.stack(some).transpose(0, 3, 1, 2).copy())
    images |= {"filmed": stack([source.read_frame(record, n) for n in frames]), "repaired": stack([repaired.read_frame(record, n) for n in frames])}
    if hasattr(source, "film"):
        film = source.film(record, list(frames))
        images["twin"], arrays["hidden"] = film.twins.permute(0, 3, 1, 2).cpu(), film.bands.cpu().numpy()
    arrays |= {"scores": np.asarray(scores[record][window.rows], np.float32), "flags": repaired.flags[record][window.rows], "place": np.array([record.index, window.start, window.frame - window.start,
               window.previous - window.start, window.next - window.start], np.int32), "cuts": _cuts(repaired.flags, scores, people).astype(np.float32)}
    truth = _truth(source, repaired.flags, people, settings["limit"])
    if context.writes:
        shares = {"flagged": float(np.mean(np.concatenate([repaired.flags[r] for r in people]))), "tracklets": len(people)}
        context.save_metrics(shares | {"tracklet": record.name, "previous": window.previous, "frame": window.frame, "next": window.next})
        context.save_per_query(arrays | truth | {key: file for name, some in images.items() for key, file in pack(some, name).items()})


# where attention should look

@dataclass(frozen=True)
class SurfaceMap:
    """Which point of the person's surface each pixel of some frames shows."""
    slot: torch.Tensor  # int64 B x H x W: which piece of the body; -1 where the person is not
    along: torch.Tensor  # float32 B x H x W: metres along it
    around: torch.Tensor  # float32 B x H x W: metres around it
    girth: torch.Tensor  # float32 B x H x W: metres once around


def surface_map(
    world: VideoWorld,
    tracklet: int,  # its number
    frames,  # positions in it
    size: tuple[int, int],  # height and width in pixels
) -> SurfaceMap:
    """The surface of the person, without occluders. Frames of 64 rows and less are cast at twice the size, as they are rendered."""
    rows, looks, body, moments, _ = world.factors_of([int(tracklet)])
    looks, body, moments = (take(table, np.asarray(frames)) for table in (looks, body, moments))
    finer = 2 if size[0] <= 64 else 1
    height, width = size[0] * finer, size[1] * finer
    hits, shapes, _, _, scale, _ = _cast_people(looks, body, moments, height, width, "cpu")
    surface = surface_coordinates(hits, shapes, "cpu")
    mine = (torch.div(hits.which, shapes["on"].shape[1], rounding_mode="floor") < len(scale)) & (hits.alpha >= 0.5)
    radius = torch.where(surface.angle.abs() > 1e-3, surface.arc.abs() / surface.angle.abs().clamp_min(1e-3), torch.zeros(()))
    parts = {"slot": (surface.slot, -1), "along": (surface.s, 0.0), "around": (surface.arc, 0.0), "girth": (2 * np.pi * radius, 0.0)}
    lay = lambda values, fill: torch.full((len(scale) * height * width,), fill, dtype=values.dtype).index_copy_(0, hits.pixel[mine], values[mine]).view(len(scale), height, width)
    return SurfaceMap(**{name: lay(values, fill)[:, ::finer, ::finer] for name, (values, fill) in parts.items()})


def counterparts(
    surface: SurfaceMap,  # of two frames: the one that asks, and its neighbour
    pixels: np.ndarray,  # int N x 2: rows and columns in the first
    near: float = NEAR,  # metres on the surface
) -> np.ndarray:  # int N x 2: where the neighbour shows the same point of the person; -1 where it does not
    """The truth about motion: the nearest pixel on the same piece of the body."""
    found = np.full((len(pixels), 2), -1)
    slot, along, around, girth = (getattr(surface, name).numpy() for name in ("slot", "along", "around", "girth"))
    for n, (row, column) in enumerate(pixels):
        there = np.argwhere(slot[1] == slot[0, row, column]) if slot[0, row, column] >= 0 else ()
        if len(there):
            a, b = there.T
            turn = np.abs(around[1, a, b] - around[0, row, column])
            turn = np.minimum(turn, np.abs(np.maximum(girth[1, a, b], girth[0, row, column]) - turn))
            gap = np.hypot(along[1, a, b] - along[0, row, column], turn)
            if gap.min() <= near:
                found[n] = there[gap.argmin()]
    return found


def matches_spec(
    of: RunSpec,  # an "stcnet" run with attention, on a world
    count: int = 128,  # truly occluded frames, at most two of a tracklet
) -> RunSpec:
    """The name of the run that asks whether attention finds the true counterpart of hidden points."""
    return RunSpec("attention-matches", MATCHES_VERSION, {"of": of.as_dict(), "count": count}, of.as_dict()["data"], of.seed)


def _ends_up(weights: torch.Tensor, asked: np.ndarray, truth: np.ndarray, shape) -> dict[str, np.ndarray]:
    """For asked cells and their true counterparts (both N x 2): is the largest weight there, within one cell of it, or in the asking cell's own place; and how much weight lies around the truth, in even shares."""
    rows = weights[torch.as_tensor(asked[:, 0] * shape[1] + asked[:, 1])].view(-1, *shape).numpy()
    best = np.stack(np.unravel_index(rows.reshape(len(rows), -1).argmax(1), shape), 1)
    around = [row[max(0, a - 1):a + 2, max(0, b - 1):b + 2] for row, (a, b) in zip(rows, truth)]
    return _distances(best, truth) | {"stays": (best == asked).all(1).astype(float), "mass": np.array([part.sum() / (part.size / row.size) for part, row in zip(around, rows)])}


def _distances(found: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Whether cells (N x 2) are the true ones, and whether they are within one cell."""
    gap = np.abs(found - truth).max(1)
    return {"exact": (gap == 0).astype(float), "hit": (gap <= 1).astype(float)}


def _questions(world: VideoWorld, number: int, frame: int, near: int, mask: np.ndarray, size) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the hole whose middle shows the person, and the cells of a neighbour that show the same point."""
    cells = np.argwhere(mask[2::4, 2::4])
    truth = counterparts(surface_map(world, number, [frame, near], size), 4 * cells + 2)
    seen = truth[:, 0] >= 0
    return cells[seen], truth[seen] // 4


def _case_matches(nets: Mapping[str, STCnet], world: VideoWorld, views: Mapping[str, torch.Tensor], number: int, frame: int, near: Mapping[str, int]) -> dict[str, float] | None:
    """Means over both neighbours and all questions of one frame; None where there is no question."""
    asks = {"coarse": ("trained", "coarse"), "truth": ("trained", "truth"), "fresh": ("fresh", "coarse")}  # whose features, of which frame
    size, rows = nets["trained"].settings.size, []
    with torch.inference_mode():
        current = {kind: nets[who].temporal.current(views[what]) for kind, (who, what) in asks.items()}
        for name, other in near.items():
            cells, truth = _questions(world, number, frame, other, views["mask"][0, 0].numpy() > 0, size)
            if not len(cells):
                continue
            line = {f"place_{what}": values for what, values in _distances(cells, truth).items()} | {"moved": np.abs(cells - truth).max(1).astype(float)}
            for kind, now in current.items():
                part = nets[asks[kind][0]].temporal
                keys = {"previous": part.previous, "next": part.following}[name](views[name])
                weights = attention_weights(now, keys, part.attention.scale, part.attention.size)[0]
                line |= {f"{kind}_{what}": values for what, values in _ends_up(weights, cells, truth, keys.shape[-2:]).items()}
            rows.append(line)
    if not rows:
        return None
    lines = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    far = lines["moved"] >= FAR
    follows = {f"{kind}_far_hit": float(lines[f"{kind}_hit"][far].mean()) if far.any() else np.nan for kind in (*current, "place")}
    return {name: float(values.mean()) for name, values in lines.items()} | follows | {"questions": len(far), "far": int(far.sum())}


@recipe("attention-matches", version=MATCHES_VERSION)
def match_attention(context: RunContext) -> None:
    """For points that an occluder hides: does the largest weight fall within a cell of where the neighbour shows that point? For the guess, for a perfect guess, for a network before its training, and for the same place."""
    plan = context.spec.as_dict()
    world, net = world_of(plan["data"]), load_stcnet(_ask(context, plan["settings"]["of"]))
    seed_everything(context.spec.recipe, context.spec.seed)
    nets = {"trained": net, "fresh": STCnet(net.settings).eval()}
    cases = twin_cases(world, world.query, net.settings.size, plan["settings"]["count"])
    coarse = net.complete(cases.frame, cases.previous, cases.next, cases.mask, coarse=True)
    records, rows = {record.name: record for record in world.query}, []
    for n, (name, frame) in enumerate(zip(cases.where.tracklet, cases.where.frame)):
        clean = (world.film(records[name]).bands.cpu().numpy() <= 0).all(1)
        near = dict(zip(("previous", "next"), pick_neighbours(clean, int(frame))))
        one = lambda images: images[n:n + 1]
        views = {"coarse": one(coarse), "truth": one(cases.truth), "previous": one(cases.previous), "next": one(cases.next), "mask": one(cases.mask)}
        rows.append(_case_matches(nets, world, views, records[name].index, int(frame), near))
    kept = [row for row in rows if row]
    if context.writes:
        arrays = {name: np.array([row[name] for row in kept], np.float32) for name in (kept[0] if kept else ())}
        context.save_metrics({name: float(np.nanmean(values)) for name, values in arrays.items() if np.isfinite(values).any()} | {"cases": len(rows), "cases_with_questions": len(kept)})
        if kept:
            context.save_per_query(arrays)
