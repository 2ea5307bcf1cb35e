"""Pictures that move: a figure that depends on a few values, with a slider or a menu for each where a kernel is running, and standing still everywhere else."""
from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dgnb.dgnet.generating import Mixer, as_levels, blend_codes, paint
from dgnb.figures import PALETTE, figure_png, image_grid, new_figure
from dgnb.people import sample_appearance, sample_body
from dgnb.rendering import render
from dgnb.scales import choose
from dgnb.scenes import make_cameras, sample_moments
from dgnb.vrstc.attention import TemporalAttention, attention_weights
from dgnb.vrstc.localizer import CENTRES, flag_bands, occlusion_scores
from dgnb.vrstc.score_plots import draw_scores
from dgnb.vrstc.spatial import compose, to_levels

STILL = "Sliders need a running kernel and ipywidgets: open this notebook in JupyterLab and run it."


@dataclass(frozen=True)
class Page:
    """A picture that depends on a few values: a figure for given ones, or live, with a control for each."""
    draw: Callable[..., tuple[Figure, str]]  # values by name -> the figure, and a sentence with the numbers in it
    controls: Mapping[str, Any]  # name -> (lowest, highest, step): slider; list of values: slider over them; {label: value}: menu
    alt: str  # what is to be seen, whatever the values, for those who cannot see it
    start: Mapping[str, Any] = field(default_factory=dict)  # name -> value at first; else a control's lowest or first

    def values(self, **given: Any) -> dict[str, Any]:  # by name of a control
        """A value for each control. ValueError for a control that is not there."""
        for name in given:
            choose(name, self.controls, "control")
        first = lambda control: next(iter(control.values() if isinstance(control, Mapping) else control))
        return {name: first(control) for name, control in self.controls.items()} | dict(self.start) | given

    def figure(self, **given: Any) -> Figure:
        """The picture for these values; the others stand where they begin. ValueError as `values`."""
        return self.draw(**self.values(**given))[0]

    def says(self, **given: Any) -> str:
        """The sentence below the picture. ValueError as `values`."""
        return self.draw(**self.values(**given))[1]

    def html(self, **given: Any) -> str:
        """Picture and sentence as HTML. ValueError as `values`."""
        fig, said = self.draw(**self.values(**given))
        source = base64.b64encode(figure_png(fig)).decode()
        return (f'<figure style="margin: 0"><img alt="{escape(self.alt)}" style="max-width: 100%" src="data:image/png;base64,{source}">'
                f'<figcaption aria-live="polite">{escape(said)}</figcaption></figure>')

    def live(self):  # an ipywidgets box: controls, then picture and sentence
        """The picture with its controls, for a notebook with a running kernel; an ImportError says what to install."""
        try:
            import ipywidgets as widgets
        except ImportError:
            raise ImportError("sliders need ipywidgets: pip install 'dgnb[notebooks]', or draw single pictures with .figure(...)") from None

        class Box(widgets.VBox):  # where no front end draws it, it is a sentence
            __repr__ = lambda self: STILL

        def control(name, value):
            what, common = self.controls[name], dict(description=name.replace("_", " "), value=value)
            if isinstance(what, tuple):
                kind = widgets.IntSlider if all(isinstance(number, int) for number in what) else widgets.FloatSlider
                digits = "d" if kind is widgets.IntSlider else ".3f" if what[2] < 0.01 else ".2f"
                return kind(min=what[0], max=what[1], step=what[2], readout_format=digits, **common)
            return (widgets.Dropdown if isinstance(what, Mapping) else widgets.SelectionSlider)(options=list(what.items() if isinstance(what, Mapping) else what), **common)

        moved = {name: control(name, value) for name, value in self.values().items()}
        picture = widgets.HTML(self.html())
        refresh = lambda _: setattr(picture, "value", self.html(**{name: one.value for name, one in moved.items()}))
        for one in moved.values():
            one.observe(refresh, "value")
        return Box([widgets.Box(list(moved.values()), layout=widgets.Layout(flex_flow="row wrap")), picture])


# ---- DG-Net ----------------------------------------------------------------------------------------------------------

def _people(mixer: Mixer, names: Sequence[str] | None) -> dict[str, int]:
    """A menu of a mixer's people."""
    return {name: number for number, name in enumerate(names or map(str, range(len(mixer.codes))))}


def swap_page(
    mixer: Mixer,  # a model and its people
    names: Sequence[str] | None = None,  # of the people; default: their numbers, from 0
) -> Page:
    """Two people, and a slider each for how much of the second one's clothes and body is painted."""
    people = _people(mixer, names)
    label = {number: name for name, number in people.items()}

    def draw(first, second, clothes, body):
        made = mixer.mix(first, second, clothes, body)
        tiles = [as_levels(mixer.images[first]), made, as_levels(mixer.images[second])]
        said = f"Painted: {clothes:.0%} of the way to the clothes of {label[second]}, {body:.0%} of the way to the body of {label[second]}."
        return image_grid(tiles, column_labels=[f"first: {label[first]}", "painted", f"second: {label[second]}"], scale=4), said

    return Page(draw, {"first": people, "second": people, "clothes": (0.0, 1.0, 0.1), "body": (0.0, 1.0, 0.1)},
                "The first person, the picture painted between the two, and the second person.", {"second": len(people) - 1})


def chunk_page(
    mixer: Mixer,  # a model and its people
    names: Sequence[str] | None = None,  # of the people; default: their numbers, from 0
) -> Page:
    """One person, and a slider for each chunk of the appearance code: how much of it is the donor's."""
    people = _people(mixer, names)
    label = {number: name for name, number in people.items()}

    def draw(person, donor, **chunks):
        a, b, weights = mixer.codes[[person]], mixer.codes[[donor]], list(chunks.values())
        own, edited = paint(mixer.model, torch.cat([a.appearance, blend_codes(a.appearance, b.appearance, weights)]), a.structure.repeat(2, 1, 1, 1))
        change = (edited.float() - own.float()).abs()
        tiles = [as_levels(mixer.images[person]), own, edited, (change.mean(0) / 32).clamp(0, 1), as_levels(mixer.images[donor])]
        labels = [f"real: {label[person]}", "own code", "edited", "change", f"donor: {label[donor]}"]
        said = (f"The donor's share of the chunks: {', '.join(f'{weight:.0%}' for weight in weights)}. Levels move by {change.mean().item():.1f} of 255 on average; "
                "in the picture of the change, white is 32 or more.")
        return image_grid(tiles, column_labels=labels, scale=3), said

    return Page(draw, {"person": people, "donor": people} | {f"chunk_{number + 1}": (0.0, 1.0, 0.1) for number in range(mixer.chunks)},
                "A person; painted from the own code; with the edited code; where the two differ; and the donor.", {"donor": len(people) - 1, "chunk_1": 1.0})


# ---- VRSTC -----------------------------------------------------------------------------------------------------------

def threshold_page(
    frames,  # T frames of one tracklet, see `dgnb.figures.as_uint8`
    features: torch.Tensor,  # T x bands x C, of `band_features`
    hidden=None,  # T x bands, 0..1: share of the person that is hidden, where it is known
    masks=None,  # T masks of the hidden pixels, where they are known
    lowest: float = 0.5,  # end of the slider
) -> Page:
    """A tracklet and its scores, a slider for the threshold, and a menu for what a band is compared with."""
    shares = None if hidden is None else np.asarray(hidden)

    def draw(threshold, centre):
        scores = occlusion_scores(features, centre).numpy()
        flagged = flag_bands(scores, threshold)
        fig = draw_scores(frames, scores, threshold, shares, masks)
        for ax in fig.axes[1:1 + scores.shape[1]]:  # the same axes for every threshold, so that the line moves and nothing else
            ax.set_ylim(min(lowest, scores.min()) - 0.02, 1.02)
        said = f"Below {threshold:.3f}: {flagged.sum()} of {flagged.size} bands."
        if shares is not None:
            truth = shares >= 0.2
            said += (f" Of {truth.sum()} bands that are hidden by a fifth or more it finds {(flagged & truth).sum()};"
                     f" {(flagged & (shares == 0)).sum()} flags stand where nothing is hidden.")
        return fig, said

    return Page(draw, {"threshold": (lowest, 1.0, 0.005), "centre": {name: name for name in CENTRES}},
                "A tracklet above the scores of its bands over time, the threshold as a dashed line, and a cross at each flagged band.", {"threshold": 0.89})


def temperature_page(
    frames: tuple[torch.Tensor, torch.Tensor],  # 1 x 3 x H x W each, -1..1: the frame with its coarse guess, and a neighbour
    mask: torch.Tensor,  # 1 x 1 x H x W: 1 = hole
    scales: Sequence[float] = (1, 2, 4, 7, 10, 15, 20, 30, 50, 70, 100),  # of the cosine; one over the temperature
    cell: int = 4,  # pixels of a cell's side; its colours are its features
) -> Page:
    """One position asks the neighbour; a slider for the scale of the cosine shows where it looks, and what the hole is filled with."""
    guess, near = frames
    current, adjacent = (torch.nn.functional.pixel_unshuffle(images, cell) for images in frames)
    rows, columns = current.shape[-2:]
    image = lambda images: to_levels(images[0]).permute(1, 2, 0).numpy()

    def draw(scale, row, column):
        weights = attention_weights(current, adjacent, scale)[0, row * columns + column]
        filled = compose(torch.nn.functional.pixel_shuffle(TemporalAttention(scale)(current, adjacent), cell), guess, mask)
        fig = new_figure(4.6, 3.1)
        axes = fig.subplots(1, 3)
        for ax, shown, title in zip(axes, (guess, near, filled), ("asked", "where it looks", "the hole, filled")):
            ax.imshow(image(shown), extent=(0, columns, rows, 0))
            ax.set(title=title, xticks=[], yticks=[])
            ax.grid(False)
        axes[0].add_patch(Rectangle((column, row), 1, 1, fill=False, ec=PALETTE["vermillion"], lw=2))
        axes[1].imshow((weights.view(rows, columns) / weights.max()).numpy(), extent=(0, columns, rows, 0), cmap="inferno", alpha=0.75)
        bits = -(weights * weights.clamp_min(1e-30).log2()).sum().item()
        return fig, f"Scale {scale}, temperature {1 / scale:.3g}: the best position gets {weights.max().item():.1%}; {bits:.1f} bits, as if {2**bits:.0f} of {weights.numel()} took part alike."

    return Page(draw, {"scale": list(scales), "row": (0, rows - 1, 1), "column": (0, columns - 1, 1)},
                "The frame with its guess and the asked position framed; the neighbour with the weights over it; the frame with its hole filled.",
                {"scale": 10, "row": rows * 3 // 4, "column": columns * 3 // 8})


# ---- Mannequin -------------------------------------------------------------------------------------------------------

TINTS = np.array([matplotlib.colors.to_rgb(colour) for colour in ("#e5e5e5", *list(PALETTE.values())[:4], "#56b4e9", "#1b1f24", "#e69f00", "#f0e442", "#8a8a8a")])


def mannequin_page(
    key: tuple = ("town", 0),  # names the town and its seed
    people: int = 16,  # how many there are to choose from
    cameras: int = 6,  # how many there are to choose from
    size: tuple[int, int] = (128, 64),  # height and width in pixels
) -> Page:
    """One person of a synthetic town, anybody's clothes, and what can be turned: viewpoint, step, sun and haze."""
    places = make_cameras(key, cameras, 0.0)

    def draw(person, clothes, camera, turned, step, sun, haze):
        one = lambda number: np.array([number])
        moment = sample_moments(key, one(person), one(person * 64 + camera), one(camera), places)
        moment |= {"yaw": one(float(turned)), "phase": one(step), "sun": one(sun), "haze": one(haze), "neighbour": one(0.0)}
        made = render(sample_appearance((*key, "appearance"), one(clothes)), sample_body((*key, "body"), one(person)), moment, size)
        near = (made.depth[0] + 0.5).clamp(0, 1.3) / 1.3 * made.silhouette[0]
        mean = made.images[0][made.silhouette[0]].float().mean(0)
        said = (f"The person covers {made.silhouette.float().mean().item():.0%} of the picture; the mean of its pixels is "
                f"{', '.join(f'{level:.0f}' for level in mean)} (red, green, blue, of 255).")
        return image_grid([made.images[0], TINTS[made.parts[0]], near], column_labels=["image", "parts", "depth"], scale=256 / size[0]), said

    return Page(draw, {"person": (0, people - 1, 1), "clothes": (0, people - 1, 1), "camera": (0, cameras - 1, 1), "turned": (0, 345, 15), "step": (0.0, 1.0, 0.05),
                       "sun": (0.0, 1.0, 0.1), "haze": (0.0, 0.5, 0.05)},
                "A rendered pedestrian, the map of the parts that its pixels show, and the map of depth, bright where near.", {"person": 4, "clothes": 4})
