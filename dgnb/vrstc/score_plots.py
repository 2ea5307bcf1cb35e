"""A tracklet and the scores of its bands over time, in the form of VRSTC's Fig. 5."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dgnb.figures import PALETTE, as_uint8, new_figure
from dgnb.occluders import band_edges

__all__ = ["draw_scores"]

NAMES = ("upper", "middle", "lower")
LINES = ("--", ":")  # of further scores
TINT = np.array([213, 94, 0])  # vermillion, of the palette that is safe without colour vision


def _tinted(frame, mask) -> np.ndarray:
    """A frame, its masked pixels tinted."""
    image = as_uint8(frame).copy()
    if mask is not None:
        mask = np.asarray(mask, bool)
        image[mask] = (0.45 * image[mask] + 0.55 * TINT).round().astype(np.uint8)
    return image


def _film_strip(ax, images: dict[int, np.ndarray], bands: int, slot: float) -> None:
    """Frames side by side above their place in time, cut by lines where the bands meet."""
    for n, image in images.items():
        ax.imshow(image, extent=(n - 0.47 * slot, n + 0.47 * slot, 1, 0), aspect="auto", interpolation="nearest")
        height = image.shape[0]
        ax.hlines([edge / height for edge in band_edges(height, bands)[1:-1]], n - 0.47 * slot, n + 0.47 * slot, color="white", linewidth=0.8)
    ax.set(ylim=(1, 0), yticks=[])
    ax.tick_params(bottom=False)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _score_line(ax, name: str, scores: np.ndarray, cut: float, hidden, more: Mapping[str, np.ndarray]) -> None:
    """One band's scores over time with its threshold, flagged frames crossed, further lines, and the truth behind."""
    time = np.arange(len(scores))
    if hidden is not None:
        truth = ax.twinx()
        truth.bar(time, hidden, width=1, color="0.5", alpha=0.35)
        truth.set(ylim=(0, 1), yticks=[])
        truth.grid(False)
        ax.set_zorder(truth.get_zorder() + 1)
        ax.patch.set_visible(False)
    ax.plot(time, scores, marker="o", markersize=3.5, color=PALETTE["blue"])
    if np.isfinite(cut):
        ax.axhline(cut, color=PALETTE["green"], linestyle="--", linewidth=1.2)
        low = scores < cut
        ax.plot(time[low], scores[low], "X", markersize=7, color=PALETTE["vermillion"], linestyle="none")
    for (label, line), style in zip(more.items(), LINES):
        ax.plot(time, line, linestyle=style, color=PALETTE["vermillion"])
    ax.set_ylabel(name)


def _explained(fig: Figure, label: str, cut: bool, hidden: bool, more: Sequence[str]) -> None:
    """A legend under the whole figure: what is drawn in it and nothing else."""
    handles = [Line2D([], [], marker="o", markersize=3.5, color=PALETTE["blue"], label=label)]
    handles += [Line2D([], [], linestyle=style, color=PALETTE["vermillion"], label=name) for name, style in zip(more, LINES)]
    if cut:
        handles += [Line2D([], [], color=PALETTE["green"], linestyle="--", linewidth=1.2, label="threshold"),
                    Line2D([], [], marker="X", markersize=7, color=PALETTE["vermillion"], linestyle="none", label="flagged")]
    if hidden:
        handles += [Patch(color="0.5", alpha=0.35, linewidth=0, label="truly hidden (full height: all)")]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def draw_scores(
    frames: Sequence,  # T frames of one tracklet, see `dgnb.figures.as_uint8`
    scores,  # T x bands
    cuts: float | Sequence[float] | None = None,  # threshold, for all bands or for each
    hidden=None,  # T x bands, 0..1: share of the person that is hidden, where it is known
    masks=None,  # T masks of the hidden pixels, where they are known
    most: int = 16,  # frames drawn at most; a longer tracklet shows every second, third, ... one
    names: Sequence[str] | None = None,  # of the bands
    label: str = "score",  # of the scores' line
    more: Mapping[str, np.ndarray] | None = None,  # label -> T x bands, further scores to draw, at most two
) -> Figure:
    """A tracklet above its scores: flagged bands are crossed, hidden shares are grey bars (full height = all of it). ValueError where counts differ."""
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or len(frames) != len(scores) or not len(scores):
        raise ValueError(f"{len(frames)} frames and scores of shape {scores.shape}: give T frames and T x bands scores, T at least 1")
    total, bands = scores.shape
    names = names or (NAMES if bands == len(NAMES) else [f"band {n}" for n in range(1, bands + 1)])
    slot = -(-total // most)
    shown = range(0, total, slot)
    images = {n: _tinted(frames[n], None if masks is None else masks[n]) for n in shown}
    height, width = images[0].shape[:2]
    strip = min(7.4 / len(shown) * 0.94 * height / width, 1.8)
    fig, more = new_figure(8.4, strip + 0.85 * bands + 0.65), {name: np.asarray(line, float) for name, line in (more or {}).items()}
    axes = fig.subplots(bands + 1, 1, sharex=True, height_ratios=[strip] + [0.85] * bands)
    _film_strip(axes[0], images, bands, slot)
    cuts = np.broadcast_to(np.asarray(np.nan if cuts is None else cuts, float), bands)
    for k, name in enumerate(names):
        _score_line(axes[k + 1], name, scores[:, k], cuts[k], None if hidden is None else np.asarray(hidden)[:, k], {one: line[:, k] for one, line in more.items()})
    axes[-1].set(xlabel="frame", xlim=(-0.5 * slot, total - 1 + 0.5 * slot))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _explained(fig, label, np.isfinite(cuts).any(), hidden is not None, list(more))
    return fig
