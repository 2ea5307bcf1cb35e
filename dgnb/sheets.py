"""How an image sheet is laid out: in whole dots, so that pixels stay squares, and again for any width of page."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from PIL import Image

__all__ = ["rows_of", "per_tile", "labels_of", "draw_sheet"]

DPI = 90  # dots per inch
HAIR = 1e-7  # dots by which tiles are set in and, a hundredth of it, the sheet out: Matplotlib before 3.11.2 rounds 8 + 1e-14 up and 52 - 1e-14 down


@dataclass
class _Geometry:
    """Where the tiles of a sheet go, in dots from its upper left corner."""
    rows: int; columns: int; height: int; width: int  # tiles; pixels of the largest tile
    scale: float; gap: int; left: float; top: float; band: float  # dots per pixel; margins in dots

    def fit(self, dots: float | None = None) -> tuple[float, float]:
        """Choose the tile size for a sheet `dots` wide (None: the natural size); returns the sheet's width and height."""
        self.w, self.h = round(self.width * self.scale), round(self.height * self.scale)
        if dots is not None:
            self.w = (dots - self.left - 8 + self.gap) / self.columns - self.gap
            self.h = self.w * self.height / self.width
        if self.w < 2: raise ValueError(f"{self.columns} columns do not fit into {dots / DPI * 2.54:.1f} cm: use fewer, or a wider page")
        return self.box(0, self.columns)[0] - self.gap + 8, self.box(self.rows, 0)[1] - self.band - self.gap + 8

    def box(self, row: int, column: int) -> tuple[float, float]:
        """The upper left corner of a tile."""
        return self.left + column * (self.w + self.gap), self.top + self.band + row * (self.h + self.gap + self.band)


def _text_width(text: str, size: float = 8) -> float:
    """Width in dots of the longest line of a text set in `size` points."""
    return max((TextPath((0, 0), line, size=size).get_extents().width for line in text.split("\n") if line.strip()), default=0) * DPI / 72


def _lines(texts) -> int:
    """Lines of the tallest of some texts (None and empty ones have none)."""
    return max((t.count("\n") + 1 for t in texts if t), default=0)


def _default_scale(height: int, width: int, columns: int) -> float:
    """Dots per pixel: tiles about 112 dots high, the sheet at most about 900 dots wide."""
    wanted = min(112 / height, 900 / (width * columns))
    return max(1, int(wanted + 0.3)) if wanted >= 0.7 else wanted


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    """An image made smaller with antialiasing; enlarging is left to whoever draws it."""
    if scale >= 1: return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def rows_of(
    images,  # a flat or nested list, or an N x H x W x 3 or R x C x H x W x 3 array; None = no tile
    columns: int | None,  # tiles per row of a flat one; None: all in one row
    convert,  # makes a uint8 H x W x 3 array of one image
) -> list[list]:  # uint8 tiles or None
    """Rows of tiles; a ValueError when there is none."""
    rows = images if getattr(images, "ndim", 0) == 5 else list(images)
    if len(rows) and not isinstance(rows[0], (list, tuple)) and getattr(rows, "ndim", 0) != 5:
        columns = columns or len(rows)
        rows = [rows[i:i + columns] for i in range(0, len(rows), columns)]
    rows = [[None if tile is None else convert(tile) for tile in row] for row in rows]
    if not any(tile is not None for row in rows for tile in row): raise ValueError("there is no image to draw")
    return rows


def per_tile(values, rows: list[list], what: str) -> list[list]:
    """One value per tile, from a flat or nested list or a single value."""
    if values is None or isinstance(values, str): return [[values] * len(row) for row in rows]
    flat = [v for row in values for v in (row if isinstance(row, (list, tuple, np.ndarray)) else [row])]
    if len(flat) != sum(map(len, rows)): raise ValueError(f"{len(flat)} {what} for {sum(map(len, rows))} images")
    left = iter(flat)
    return [[next(left) for _ in row] for row in rows]


def labels_of(labels, count: int, what: str) -> list[str]:
    """Labels as strings, as many as there are rows or columns."""
    labels = ["" if t is None else str(t) for t in labels] if labels is not None else [""] * count
    if len(labels) != count: raise ValueError(f"{len(labels)} {what} labels for {count} {what}s")
    return labels


def _tile_artists(ax, row: int, column: int, image: np.ndarray, title: str | None, frame: tuple | None, g: _Geometry) -> list:
    """Draw one tile with its title and frame; returns functions that put them in place."""
    tile = ax.add_image(AxesImage(ax, interpolation="none", data=_resized(image, g.scale)))
    part = image.shape[1] / g.width, image.shape[0] / g.height
    def place():
        x, y = g.box(row, column)
        tile.set_extent((x + HAIR, x + g.w * part[0] - HAIR, y + g.h * part[1] - HAIR, y + HAIR))
        if frame: box.set_bounds(x - 1, y - 1, g.w * part[0] + 2, g.h * part[1] + 2)
    if frame:
        colour, dash, width, *_ = frame
        box = ax.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=colour, linestyle=dash, linewidth=width))
    words = _word_artist(ax, title, g, lambda: (g.box(row, column)[0] + g.w / 2, g.box(row, column)[1] - 6), "center")
    return [place, *words]


def _word_artist(ax, text: str | None, g: _Geometry, where, align: str) -> list:
    """Write words at `where()`; centred words wider than their tile are set smaller."""
    if not text: return []
    words = ax.text(0, 0, str(text), fontsize=8, linespacing=1.2, ha=align, va="center" if align == "right" else "baseline")
    wide = _text_width(str(text))
    def place():
        words.set_position(where())
        if align == "center": words.set_fontsize(min(8, max(6, 8 * (g.w + g.gap - 2) / max(wide, 1))))
    return [place]


def draw_sheet(
    rows: list[list],  # uint8 tiles or None, see `rows_of`
    row_labels: list[str],  # one per row, may be empty
    column_labels: list[str],  # one per column, may be empty
    titles: list[list],  # one per tile or None
    frames: list[list],  # per tile None or (colour, dash, width in points, ...)
    scale: float | None,  # dots per pixel
    gap: int,  # dots between tiles
) -> Figure:
    """A figure of tiles, frames and words; its `layout_at(inches)` lays it out again for a width (None: the natural one)."""
    shapes = [tile.shape for row in rows for tile in row if tile is not None]
    height, width, columns = max(s[0] for s in shapes), max(s[1] for s in shapes), max(map(len, rows))
    wide = max(map(_text_width, row_labels))
    g = _Geometry(len(rows), columns, height, width, scale or _default_scale(height, width, columns), gap,
                  left=8 + (round(wide) + 6 if wide else 0), top=8 + 14 * _lines(column_labels), band=14 * _lines(str(t) for row in titles for t in row if t))
    fig = Figure(figsize=(1, 1), dpi=DPI)
    ax = fig.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    ax.grid(False)
    placers = [p for r, row in enumerate(rows) for c, tile in enumerate(row) if tile is not None
               for p in _tile_artists(ax, r, c, tile, titles[r][c], frames[r][c], g)]
    for r, text in enumerate(row_labels):
        placers += _word_artist(ax, text, g, lambda r=r: (g.left - 6, g.box(r, 0)[1] + g.h / 2), "right")
    for c, text in enumerate(column_labels):
        placers += _word_artist(ax, text, g, lambda c=c: (g.box(0, c)[0] + g.w / 2, g.top - 6), "center")
    def layout_at(inches: float | None = None) -> None:
        wide, high = g.fit(None if inches is None else inches * DPI)
        fig.set_size_inches((wide + HAIR / 100) / DPI, (high + HAIR / 100) / DPI)
        ax.set(xlim=(0, wide), ylim=(high, 0))
        for place in placers: place()
    layout_at()
    fig.layout_at = layout_at
    return fig
