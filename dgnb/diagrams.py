"""Pieces of a method's drawing, measured in inches: pictures, boxes, stacks of layers, arrows, words. Readable on light and dark pages."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from dgnb.figures import PALETTE, THEMES, as_uint8, new_figure

__all__ = ["Diagram"]

INK, PAPER, MUTED = (THEMES["light"][name] for name in ("ink", "paper", "muted"))  # swapped for those of the dark page when a figure is saved


class Diagram:
    """An empty sheet; (0, 0) is its lower left corner. ValueError for colours and pictures that cannot be drawn comes from Matplotlib and `as_uint8`."""

    def __init__(
        self,
        width: float = 10.4,  # inches
        height: float = 5.2,  # inches
    ):
        self.figure = new_figure(width, height, layout="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def picture(
        self,
        image,  # see `dgnb.figures.as_uint8`
        x: float, y: float, width: float, height: float,  # lower left corner and size
        frame: str | None = None,  # colour of a line around it
        words: str = "",  # below it
    ) -> None:
        """An image, its pixels as squares."""
        self._lay(as_uint8(image), x, y, width, height)
        if frame:
            self.outline(x, y, width, height, frame)
        if words:
            self.word(x + width / 2, y - 0.13, words)

    def map(
        self,
        values: np.ndarray,  # h x w
        x: float, y: float, width: float, height: float,  # lower left corner and size
        limits: tuple[float, float] | None = None,  # darkest and brightest value; default: its own
        words: str = "",  # below it
    ) -> None:
        """Numbers as colours, dark blue = low, yellow = high."""
        low, high = limits or (None, None)
        self._lay(np.asarray(values, float), x, y, width, height, cmap="viridis", vmin=low, vmax=high)
        self.outline(x, y, width, height, MUTED, 0.8)
        if words:
            self.word(x + width / 2, y - 0.13, words)

    def _lay(self, values, x, y, width, height, **options) -> None:
        self.axes.imshow(values, extent=(x, x + width, y, y + height), aspect="auto", interpolation="nearest", zorder=2, **options)

    def outline(self, x: float, y: float, width: float, height: float, colour: str, thickness: float = 1.6, dash: str = "-") -> None:  # dash: a line style of Matplotlib
        """A rectangle around something."""
        self.axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=thickness, linestyle=dash, zorder=5))

    def cell(
        self,
        box: tuple[float, float, float, float],  # x, y, width, height of the map or picture
        shape: tuple[int, int],  # its rows and columns
        place: tuple[int, int],  # row and column, from the top left
        colour: str,
        around: int = 0,  # how many cells more on each side
        dash: str = "-",  # a line style of Matplotlib
    ) -> tuple[float, float]:  # the middle of the cell
        """Outline a cell of a map, or the patch around it."""
        x, y, width, height = box
        down, right = height / shape[0], width / shape[1]
        top, left = max(0, place[0] - around), max(0, place[1] - around)
        bottom, end = min(shape[0], place[0] + around + 1), min(shape[1], place[1] + around + 1)
        self.outline(x + left * right, y + height - bottom * down, (end - left) * right, (bottom - top) * down, colour, 1.8, dash)
        return x + (place[1] + 0.5) * right, y + height - (place[0] + 0.5) * down

    def box(self, x: float, y: float, words: str, colour: str = PALETTE["blue"], width: float = 0.86, height: float = 0.56, size: float = 10) -> None:  # middle; size of the words in points
        """A named part, around its middle."""
        self.axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.03,rounding_size=0.1", facecolor=PAPER, edgecolor=colour, linewidth=1.6, zorder=3))
        self.word(x, y, words, size=size)

    def layers(
        self,
        shapes: Sequence[tuple[int, int, int]],  # channels, height and width that each layer puts out
        x: float, y: float,  # left end, middle of the height
        height: float,  # of the tallest layer
        colours: Sequence[str],  # of each layer
    ) -> float:  # where it ends
        """A row of slabs: as tall as the maps, as thick as the channels are many."""
        tallest, thick = max(h for _, h, _ in shapes), max(c for c, _, _ in shapes)
        for (channels, rows, _), colour in zip(shapes, colours):
            wide, tall = 0.05 + 0.09 * (channels / thick) ** 0.5, height * rows / tallest
            self.axes.add_patch(Rectangle((x, y - tall / 2), wide, tall, facecolor=colour, edgecolor=PAPER, linewidth=0.6, zorder=3))
            x += wide + 0.035
        return x - 0.035

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str = INK, dashed: bool = False, bend: float = 0.0, thickness: float = 1.5) -> None:
        """From a point to another."""
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, connectionstyle=f"arc3,rad={bend}", shrinkA=2, shrinkB=2, zorder=4,
                                            color=colour, linewidth=thickness, linestyle=(0, (4, 2)) if dashed else "-"))

    def word(self, x: float, y: float, words: str, size: float = 8.5, **options) -> None:  # further options of Matplotlib's text, such as ha="left"
        """Words around a point."""
        self.axes.text(x, y, words, **({"ha": "center", "va": "center", "fontsize": size, "color": INK, "zorder": 6} | options))
