"""Things that stand between a camera and a person: poles, bicycles, cars and bushes, drawn once and cut out along their outline.

Plain drawing with Pillow, kept out of the notebooks as the streets are. The lesson "Occluders" shows what comes out.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw

from .streets import _bicycle, _car, _tone

__all__ = ["THINGS", "VARIANTS", "thing_size", "thing"]

THINGS = ("pole", "bicycle", "car", "bush")
VARIANTS = 12  # drawings of each
_DOTS = 160  # per metre
_METRES = {"pole": (1.0, 3.2), "bicycle": (2.1, 1.10), "car": (3.8, 1.48), "bush": (1.5, 1.25)}  # width, height; a pole's width is a unit that is scaled


def thing_size(
    kind: str,  # one of `THINGS`
) -> tuple[float, float]:  # width and height in metres
    "How large a thing is in life."
    return _METRES[kind]


def _draw_pole(rng, draw, wide, tall, look):
    "A lamp post, a tree's trunk or an advertising pillar."
    paint = _tone(rng, ((116, 118, 122), (86, 68, 52), (170, 168, 162))[look], 18)
    draw.rectangle((0, 0, wide, tall), fill=paint)
    if look == 0:
        for y in rng.uniform(0.2, 0.8, 2) * tall:
            draw.rectangle((0, y, wide, y + 0.16 * _DOTS), fill=_tone(rng, (196, 190, 178), 30))
    elif look == 1:
        for _ in range(260):
            x, y = rng.uniform(0, wide), rng.uniform(0, tall)
            draw.line((x, y, x + rng.normal(0, 5), y + rng.uniform(10, 60)), fill=_tone(rng, (58, 44, 34), 14), width=int(rng.integers(2, 7)))
    else:
        for top in np.arange(0.05, 0.95, 0.30) * tall:
            draw.rectangle((0.06 * wide, top, 0.94 * wide, top + 0.27 * tall), fill=_tone(rng, ((176, 84, 70), (74, 104, 140), (206, 190, 150), (96, 124, 96), (70, 72, 80))[rng.integers(5)]))
            draw.rectangle((0.2 * wide, top + 0.04 * tall, 0.8 * wide, top + 0.09 * tall), fill=_tone(rng, (235, 232, 225), 10))


def _draw_bicycle(rng, draw, wide, tall):
    "A bicycle with a basket and panniers."
    _bicycle(rng, draw, wide / 2, tall - 2, 1.22 * _DOTS)
    bag = _tone(rng, ((60, 62, 70), (122, 88, 58), (110, 40, 42))[rng.integers(3)])
    draw.rounded_rectangle((0.10 * wide, 0.30 * tall, 0.30 * wide, 0.68 * tall), radius=8, fill=bag)
    draw.rounded_rectangle((0.70 * wide, 0.08 * tall, 0.88 * wide, 0.34 * tall), radius=5, fill=_tone(rng, (112, 92, 66)))


def _draw_bush(rng, draw, wide, tall):
    "Leaves in three depths of green, denser towards the foot."
    base = ((64, 92, 46), (84, 104, 52), (52, 80, 54))[rng.integers(3)]
    for depth, count in ((0.62, 170), (0.85, 260), (1.12, 330)):
        for _ in range(count):
            a, r = rng.uniform(0, np.pi), np.sqrt(rng.uniform(0, 1))
            x = wide * (0.5 + 0.43 * r * np.cos(a) * rng.uniform(0.9, 1.06))
            y = tall * (1 - 0.92 * r * np.sin(a) * rng.uniform(0.9, 1.04))
            s = tall * rng.uniform(0.02, 0.055)
            draw.ellipse((x - s, y - 0.7 * s, x + s, y + 0.7 * s), fill=_tone(rng, tuple(int(c * depth) for c in base), 12))


def _shaded_pole(pixels):
    "Round poles: darker towards both edges."
    across = np.linspace(-1, 1, pixels.shape[1])
    pixels[..., :3] *= (0.55 + 0.5 * np.sqrt(np.clip(1 - (across - 0.2) ** 2 / 1.5, 0, 1)))[None, :, None]


@lru_cache(maxsize=128)
def _drawn(kind: str, variant: int) -> np.ndarray:  # float32, H x W x 4, colours 0..255 and alpha 0..1
    "One drawing of a thing, filling its picture from edge to edge."
    rng = np.random.default_rng(1000 * THINGS.index(kind) + variant)
    metres_wide, metres_tall = _METRES[kind]
    wide, tall = round((0.4 if kind == "pole" else metres_wide) * _DOTS), round(metres_tall * _DOTS)
    image = Image.new("RGBA", (wide, tall), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    if kind == "bicycle":
        _draw_bicycle(rng, draw, wide, tall)
    elif kind == "car":
        _car(rng, draw, wide / 2, tall - 4, 1.90 * _DOTS)
    elif kind == "pole":
        _draw_pole(rng, draw, wide, tall, variant % 3)
    else:
        _draw_bush(rng, draw, wide, tall)
    pixels = np.asarray(image, np.float32).copy()
    pixels[..., 3] /= 255
    if kind == "pole":
        _shaded_pole(pixels)
    coarse = Image.fromarray(rng.normal(0, 1, (max(2, tall // 24), max(2, wide // 24))).astype(np.float32)).resize((wide, tall), Image.BICUBIC)
    pixels[..., :3] *= 1 + (0.05 * np.asarray(coarse) + 0.03 * rng.normal(0, 1, (tall, wide)))[..., None]
    return pixels.clip(0, 255)


@lru_cache(maxsize=512)
def thing(
    kind: str,  # one of `THINGS`
    variant: int,  # 0 .. VARIANTS - 1
    level: int = 0,  # how often halved: 160 dots per metre, 80, 40, ...
    device: str = "cpu",  # where to keep it
) -> torch.Tensor:  # float32, 4 x H x W: linear light times alpha, and alpha, each 0..1
    "A thing cut out along its outline, at one of several sizes."
    if level:
        finer = thing(kind, variant, level - 1, device)
        h, w = finer.shape[1] // 2 * 2, finer.shape[2] // 2 * 2
        return (finer[:, :h:2, :w:2] + finer[:, 1:h:2, :w:2] + finer[:, :h:2, 1:w:2] + finer[:, 1:h:2, 1:w:2]) * 0.25
    pixels = torch.from_numpy(_drawn(kind, variant)).permute(2, 0, 1)
    alpha = pixels[3:]
    light = (pixels[:3] / 255) ** 2
    return torch.cat([light * alpha, alpha]).contiguous().to(device)
