"""Pictures to resize, drawn: evenings at an airport, each from its own seed.

Sky, sun, clouds and hills are fractal noise (sums of octaves, each half as strong and twice as fine), with the lights
of a runway in front and the grain and vignette of a film. They weigh what photographs weigh: a JPEG cannot make much of
noise. They are drawn because the packages that ship photographs are fifty times larger than these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 1800, 1200
_HORIZON = 0.68
_RIDGES = 3
_QUALITY = 92

Plane = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Light:
    """The colours of an hour: sky above, sky at the horizon, sun, and the land in shadow."""

    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    sun: tuple[int, int, int]
    land: tuple[int, int, int]


LIGHTS = (
    Light((38, 66, 120), (250, 178, 112), (255, 240, 205), (38, 34, 48)),
    Light((16, 24, 58), (206, 94, 88), (255, 205, 150), (18, 16, 30)),
    Light((84, 142, 200), (222, 232, 236), (255, 252, 235), (58, 72, 62)),
    Light((54, 48, 92), (240, 142, 130), (255, 222, 190), (30, 24, 40)),
    Light((98, 122, 142), (214, 206, 192), (250, 244, 228), (62, 66, 66)),
    Light((10, 14, 34), (60, 84, 128), (222, 230, 245), (8, 10, 18)),
)


def draw(path: Path, seed: int) -> None:
    """Write a picture as a JPEG. The same seed gives the same picture."""
    chance = np.random.default_rng(seed)
    light = LIGHTS[seed % len(LIGHTS)]
    picture = _sky(light, chance)
    for ridge in range(_RIDGES):
        _add_hills(picture, light, ridge, chance)
    _add_runway(picture, light)
    rows, columns = _grid()
    vignette = 1 - 0.35 * ((columns - 0.5) ** 2 + (rows - 0.5) ** 2) * 2
    grain = chance.normal(0, 4.5, (HEIGHT, WIDTH, 1)).astype(np.float32)
    exposed = np.clip(picture * vignette[:, :, None] + grain, 0, 255).astype(np.uint8)
    Image.fromarray(exposed).save(path, "JPEG", quality=_QUALITY)


def _grid() -> tuple[Plane, Plane]:
    rows = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, WIDTH, dtype=np.float32)[None, :]
    return rows, columns


def _noise(chance: np.random.Generator, width: int, height: int, octaves: int) -> Plane:
    """Return fractal noise between 0 and 1 over the whole picture."""
    total = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for octave in range(octaves):
        shape = (height << octave, width << octave)
        coarse = Image.fromarray(chance.random(shape, dtype=np.float32))
        total += np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 2**octave
    low, high = float(np.min(total)), float(np.max(total))
    return (total - low) / (high - low)


def _blend(picture: Plane, colour: tuple[int, int, int], share: Plane) -> None:
    picture += (np.array(colour, dtype=np.float32) - picture) * share[:, :, None]


def _sky(light: Light, chance: np.random.Generator) -> Plane:
    rows, columns = _grid()
    height = np.broadcast_to(np.clip(rows / _HORIZON, 0, 1) ** 1.3, (HEIGHT, WIDTH))
    picture = np.empty((HEIGHT, WIDTH, 3), dtype=np.float32)
    picture[:] = light.zenith
    _blend(picture, light.horizon, height)
    sun_x, sun_y = chance.uniform(0.2, 0.8), chance.uniform(0.42, 0.6)
    away = np.hypot((columns - sun_x) * WIDTH / HEIGHT, rows - sun_y)
    _blend(picture, light.sun, 0.75 * np.exp(-((away / 0.16) ** 2)))
    clouds = np.clip((_noise(chance, 5, 9, 6) - 0.48) * 2.6, 0, 1) * (1 - 0.45 * rows)
    lit = tuple(int(0.55 * h + 0.45 * s) for h, s in zip(light.horizon, light.sun, strict=True))
    _blend(picture, (lit[0], lit[1], lit[2]), 0.8 * clouds)
    shade = np.clip(clouds - np.roll(clouds, -14, axis=0), 0, 1)
    _blend(picture, light.zenith, 0.7 * shade)
    _blend(picture, light.sun, np.clip((0.028 - away) * 260, 0, 1))
    return picture


def _add_hills(picture: Plane, light: Light, ridge: int, chance: np.random.Generator) -> None:
    """Add one line of hills; the nearer, the darker and the lower."""
    rows, _ = _grid()
    outline = np.zeros(WIDTH, dtype=np.float32)
    for octave in range(7):
        points = chance.random(4 << octave)
        where = np.linspace(0, points.size - 1, WIDTH)
        outline += (np.interp(where, np.arange(points.size), points) / 2**octave).astype(np.float32)
    top = _HORIZON + 0.03 * ridge - 0.055 * outline / (1 + 0.5 * ridge)
    near = (ridge + 1) / _RIDGES
    far = zip(light.horizon, light.land, strict=True)
    haze = tuple(int(h * (1 - near) * 0.8 + s * (0.2 + 0.8 * near)) for h, s in far)
    _blend(
        picture,
        (haze[0], haze[1], haze[2]),
        np.clip((rows - top[None, :]) * HEIGHT / 2 + 0.5, 0, 1),
    )


def _add_runway(picture: Plane, light: Light) -> None:
    """Add the runway, which narrows towards the horizon, and its lights."""
    rows, columns = _grid()
    depth = np.clip((rows - _HORIZON - 0.07) / (1 - _HORIZON - 0.07), 1e-3, 1)
    visible = rows > _HORIZON + 0.075
    half = 0.012 + 0.26 * depth
    across = np.abs(columns - 0.5) / half
    _blend(picture, tuple_of(light.land, 1.5), 0.8 * ((across < 1) & visible).astype(np.float32))
    # Equal distances on the ground shrink with one over the depth.
    beat = (1.0 / depth) % 0.8 / 0.8
    _blend(
        picture,
        (235, 235, 225),
        0.7 * ((across < 0.022) & (beat < 0.5) & visible).astype(np.float32),
    )
    glow = np.exp(-(((across - 1) / 0.035) ** 2)) * np.exp(-(((beat - 0.5) / 0.22) ** 2))
    _blend(picture, (255, 226, 150), (glow * visible).astype(np.float32))


def tuple_of(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """Return the colour, lighter by ``factor``."""
    red, green, blue = (min(255, round(part * factor + 8)) for part in colour)
    return red, green, blue
