"""The streets that Mannequin's cameras look at: drawn once per camera, then cut into the crops' backgrounds.

Plain drawing with Pillow, kept out of the notebooks: nobody learns re-identification from how a bicycle is drawn.
The lesson "Cameras and moments" shows what comes out.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw

__all__ = ["PLACES", "backdrop"]

PLACES = ("plaza", "lawn", "brick wall", "road", "entrance", "bicycle stand")
_TALL, _WIDE = 384, 1408  # a backdrop's size when a crop is 256 high


def _tone(rng, rgb, spread=14):
    "A colour near another one."
    level = rng.normal(0, spread)
    return tuple(int(np.clip(c + level + rng.normal(0, 0.25 * spread), 0, 255)) for c in rgb)


def _ground(rng, draw, base, rgb, tiles):
    "A floor from the wall's foot to the lower border: lines that run away from the camera and across."
    draw.rectangle((0, base, _WIDE, _TALL), fill=_tone(rng, rgb))
    line = tuple(int(c * rng.uniform(0.78, 0.92)) for c in rgb)
    if tiles:
        vanish, gap = rng.uniform(0.2, 0.8) * _WIDE, rng.uniform(40, 90)
        for i in range(-60, 61):
            draw.line((vanish + i * gap * 0.35, base, vanish + i * gap * 1.3, _TALL), fill=line, width=1 + (gap > 60))
        y, rise = base + 4.0, rng.uniform(5, 9)
        while y < _TALL:
            draw.line((0, y, _WIDE, y), fill=line, width=1 + (y > base + 80))
            y, rise = y + rise, rise * 1.22


def _bicycle(rng, draw, x, y, size):
    "Two wheels, a frame, a saddle and a handlebar."
    r, dark = size * 0.33, _tone(rng, (40, 40, 44), 8)
    paint = _tone(rng, ((40, 42, 48), (120, 32, 32), (40, 70, 120), (150, 150, 152), (40, 90, 60))[rng.integers(5)])
    thick = max(1, int(size / 38))
    left, right = (x - size * 0.5, y - r), (x + size * 0.5, y - r)
    for cx, cy in (left, right):
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=dark, width=thick + 1)
        for a in np.linspace(0, np.pi, 4, endpoint=False) + rng.uniform(0, 1):
            draw.line((cx - r * np.cos(a), cy - r * np.sin(a), cx + r * np.cos(a), cy + r * np.sin(a)), fill=(130, 130, 130), width=1)
    seat, bar, pedal = (x - size * 0.18, y - size * 0.78), (x + size * 0.34, y - size * 0.86), (x - size * 0.05, y - r)
    for a, b in ((left, pedal), (pedal, seat), (seat, left), (pedal, bar), (seat, bar), (bar, right)):
        draw.line((*a, *b), fill=paint, width=thick + 1)
    draw.line((seat[0] - size * 0.1, seat[1] - 2, seat[0] + size * 0.1, seat[1] - 2), fill=dark, width=thick + 2)


def _car(rng, draw, x, y, size):
    "A parked car from the side."
    paint = _tone(rng, ((200, 200, 202), (45, 46, 50), (110, 112, 118), (130, 30, 32), (38, 58, 110))[rng.integers(5)])
    body = (x - size * 0.95, y - size * 0.46, x + size * 0.95, y - size * 0.12)
    draw.polygon([(x - size * 0.62, body[1] + 2), (x - size * 0.36, y - size * 0.76), (x + size * 0.34, y - size * 0.76),
                  (x + size * 0.66, body[1] + 2)], fill=tuple(int(c * 0.92) for c in paint))
    draw.polygon([(x - size * 0.52, body[1]), (x - size * 0.32, y - size * 0.70), (x + size * 0.30, y - size * 0.70),
                  (x + size * 0.55, body[1])], fill=_tone(rng, (58, 66, 74)))
    draw.rounded_rectangle(body, radius=int(size * 0.12), fill=paint)
    draw.line((body[0], y - size * 0.3, body[2], y - size * 0.3), fill=tuple(int(c * 0.8) for c in paint), width=2)
    for wheel in (-0.58, 0.58):
        draw.ellipse((x + (wheel - 0.17) * size, y - size * 0.32, x + (wheel + 0.17) * size, y + size * 0.02), fill=(24, 24, 26))
        draw.ellipse((x + (wheel - 0.09) * size, y - size * 0.24, x + (wheel + 0.09) * size, y - size * 0.06), fill=(120, 122, 126))


def _tree(rng, draw, x, y, size):
    "A trunk and a crown of leaves."
    draw.rectangle((x - size * 0.05, y - size, x + size * 0.05, y), fill=_tone(rng, (78, 62, 48)))
    for _ in range(60):
        cx, cy, r = x + rng.normal(0, size * 0.28), y - size * 1.15 + rng.normal(0, size * 0.22), size * rng.uniform(0.05, 0.13)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_tone(rng, (62, 88, 46), 22))


def _pole(rng, draw, x, y, size):
    "A lamp post or a bollard."
    tall, grey = size * (2.2 if rng.random() < 0.5 else 0.5), _tone(rng, (112, 114, 118), 30)
    draw.rectangle((x - size * 0.035, y - tall, x + size * 0.035, y), fill=grey)
    draw.rectangle((x + size * 0.012, y - tall, x + size * 0.035, y), fill=tuple(int(c * 0.7) for c in grey))


def _bench(rng, draw, x, y, size):
    "A bench from the front."
    wood, dark = _tone(rng, (118, 88, 60)), _tone(rng, (50, 50, 52), 8)
    for leg in (-0.55, 0.5):
        draw.rectangle((x + leg * size, y - size * 0.24, x + (leg + 0.05) * size, y), fill=dark)
    for top in (0.26, 0.42, 0.52):
        draw.rectangle((x - size * 0.66, y - top * size, x + size * 0.66, y - (top - 0.06) * size), fill=wood)


def _bin(rng, draw, x, y, size):
    "A litter bin."
    paint = _tone(rng, ((60, 84, 66), (70, 72, 76), (52, 66, 92))[rng.integers(3)])
    draw.rectangle((x - size * 0.16, y - size * 0.46, x + size * 0.16, y), fill=paint)
    draw.rectangle((x + size * 0.05, y - size * 0.46, x + size * 0.16, y), fill=tuple(int(c * 0.75) for c in paint))
    draw.rectangle((x - size * 0.19, y - size * 0.52, x + size * 0.19, y - size * 0.44), fill=(40, 42, 44))


def _wall(rng, draw, base, place):
    "What stands behind the ground: shop windows, a hedge, bricks, houses, glass, a rack's wall."
    rgb = {"plaza": (168, 160, 148), "lawn": (92, 108, 72), "brick wall": (142, 92, 76), "road": (150, 152, 156),
           "entrance": (120, 130, 138), "bicycle stand": (176, 172, 164)}[place]
    draw.rectangle((0, 0, _WIDE, base), fill=_tone(rng, rgb))
    if place == "lawn":
        for _ in range(2600):
            x, y, r = rng.uniform(0, _WIDE), rng.uniform(0, base), rng.uniform(3, 9)
            draw.ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=_tone(rng, (82, 100, 64), 13))
    elif place == "brick wall":
        for row, y in enumerate(range(0, int(base), 9)):
            draw.line((0, y, _WIDE, y), fill=(168, 150, 138), width=1)
            for x in range(-(row % 2) * 12, _WIDE, 24):
                draw.line((x, y, x, y + 9), fill=(166, 146, 134), width=1)
    else:
        _windows(rng, draw, base, rgb, wide=place in ("plaza", "entrance"))
    draw.rectangle((0, base - 4, _WIDE, base + 2), fill=_tone(rng, tuple(int(c * 0.55) for c in rgb)))


def _windows(rng, draw, base, rgb, wide):
    "Rows of windows with reflections, or tall glass fronts."
    gap = rng.uniform(95, 150) if wide else rng.uniform(60, 95)
    for x in np.arange(rng.uniform(0, gap), _WIDE, gap):
        glass = _tone(rng, (72, 84, 94), 26)
        tops = (base * rng.uniform(0.08, 0.2),) if wide else np.arange(10, base - 30, 78)
        for top in tops:
            bottom = base - rng.uniform(4, 14) if wide else min(top + 52, base - 12)
            if bottom <= top + 6:
                continue
            draw.rectangle((x, top, x + gap * 0.72, bottom), fill=glass, outline=tuple(int(c * 0.7) for c in rgb), width=3)
            draw.polygon([(x + gap * 0.15, bottom), (x + gap * 0.45, top), (x + gap * 0.6, top), (x + gap * 0.3, bottom)],
                         fill=tuple(min(255, c + 22) for c in glass))


def _scene(
    seed: int,  # which camera of which world
    place: int,  # an index into `PLACES`
) -> np.ndarray:  # uint8, 384 x 1408 x 3
    "Draw one camera's scene once: wall, ground, things on it, dirt and unevenness."
    rng, name = np.random.default_rng(seed), PLACES[place]
    image = Image.new("RGB", (_WIDE, _TALL))
    draw, base = ImageDraw.Draw(image), rng.uniform(0.50, 0.72) * _TALL * (0.6 if rng.random() < 0.3 else 1.0)
    _wall(rng, draw, base, name)
    floor = {"plaza": (164, 158, 150), "lawn": (150, 146, 136), "brick wall": (138, 136, 134), "road": (112, 113, 116),
             "entrance": (178, 176, 172), "bicycle stand": (146, 140, 130)}[name]
    _ground(rng, draw, base, floor, tiles=name not in ("road",))
    if name == "lawn":
        draw.rectangle((0, base, _WIDE, base + rng.uniform(20, 70)), fill=_tone(rng, (104, 122, 74)))
    if name == "road":
        draw.rectangle((0, base + 26, _WIDE, base + 32), fill=(206, 206, 200))
    kinds = {"plaza": (_bin, _pole, _tree), "lawn": (_tree, _pole, _bench, _tree), "brick wall": (_bicycle, _pole, _bin),
             "road": (_car, _car, _pole), "entrance": (_bench, _bin, _pole), "bicycle stand": (_bicycle, _bicycle, _bicycle, _pole)}[name]
    x = rng.uniform(0, 60)
    while x < _WIDE:
        far = rng.uniform(0, 1) ** 1.5
        y = base + 6 + far * 0.5 * (_TALL - base)
        kinds[rng.integers(len(kinds))](rng, draw, x, y, (70 if name != "road" else 90) + 75 * far)
        x += rng.uniform(35, 150)
    return _weathered(rng, np.asarray(image, np.float32))


def _weathered(rng, image):
    "Stains, unevenness and a fall of light over a clean drawing."
    coarse = Image.fromarray(rng.normal(0, 1, (14, 46)).astype(np.float32)).resize((_WIDE, _TALL), Image.BICUBIC)
    middle = Image.fromarray(rng.normal(0, 1, (96, 352)).astype(np.float32)).resize((_WIDE, _TALL), Image.BICUBIC)
    fine = rng.normal(0, 1, (_TALL, _WIDE)).astype(np.float32)
    image = image + 0.38 * (image.mean(-1, keepdims=True) - image)
    factor = 1 + 0.085 * np.asarray(coarse) + 0.05 * np.asarray(middle) + 0.035 * fine
    return np.clip(image * factor[..., None], 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def backdrop(
    seed: int,  # which camera of which world
    place: int,  # an index into `PLACES`
    height: int,  # of the crops that are cut from it, in pixels
) -> torch.Tensor:  # uint8, 3 x 1.5 height x 5.5 height
    "One camera's scene at the scale at which a crop is `height` pixels high."
    image, factor = Image.fromarray(_scene(seed, place)), height / 256
    if factor != 1:
        image = image.resize((round(_WIDE * factor), round(_TALL * factor)), Image.BOX if factor < 1 else Image.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()
