"""Fundi to put lesions on: scikit-image's CC0 photograph of a retina, and drawn ones of the same geometry."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PillowImage
from scipy import ndimage

from services.training.phantoms.canvas import Image, Stroke, draw_strokes, fractal_noise, grow_vessel
from shared.errors import ConfigurationError

REAL: Final = "skimage-retina"
DRAWN: Final = ("drawn-1", "drawn-2", "drawn-3", "drawn-4")
SIDE: Final = 706
DISC: Final = (325.0, 113.0)  # row, column of the optic disc's middle; a left eye
DISC_RADIUS: Final = 46.0
FOVEA: Final = (350.0, 352.0)
RETINA_SHA256: Final = "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"


@lru_cache(maxsize=8)
def fundus(source: str) -> Image:
    """float32 (706, 706, 3), 0 to 255: the fundus of `REAL` or one of `DRAWN`, with a disc still to be painted.

    Raises:
        ConfigurationError: scikit-image is not installed, or ships another photograph.
    """
    return _photograph() if source == REAL else _drawn(DRAWN.index(source))


def _photograph() -> Image:
    spec = find_spec("skimage")  # located, not imported: the import costs a second
    if spec is None or spec.origin is None:
        raise ConfigurationError("the fundus photograph comes with scikit-image: install similis[train]")
    path = Path(spec.origin).parent / "data" / "retina.jpg"
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != RETINA_SHA256:
        raise ConfigurationError(f"{path} is not the pinned photograph")
    with PillowImage.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), PillowImage.Resampling.LANCZOS), np.float32)


def _drawn(number: int) -> Image:
    rng = np.random.default_rng([40, number])
    shape = (SIDE, SIDE)
    colour = np.array([rng.uniform(185, 222), rng.uniform(88, 120), rng.uniform(50, 80)], np.float32)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    texture = fractal_noise(rng, shape, 90, 4) + 0.35 * fractal_noise(rng, shape, 12, 3)
    fundus = colour * (1 + 0.05 * texture[..., None] * np.array([0.7, 1.2, 1.2], np.float32))
    choroid = []
    for _ in range(int(rng.integers(10, 26))):
        start = (float(rng.uniform(0, SIDE)), float(rng.uniform(0, SIDE)))
        choroid += grow_vessel(
            rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(3, 6), length_px=260, least_radius=2, bend=0.16
        )
    haze = ndimage.gaussian_filter(draw_strokes(shape, choroid), 2.5)[..., None]
    fundus = fundus * (1 - np.float32(rng.uniform(0.05, 0.14)) * haze * np.array([0.7, 1.2, 1.0], np.float32))
    distance = np.hypot(rows - FOVEA[0], columns - FOVEA[1])
    macula = np.exp(-((distance / rng.uniform(48, 70)) ** 2)) + 0.8 * np.exp(-((distance / 14) ** 2))
    fundus = fundus * (1 - 0.2 * macula[..., None].astype(np.float32) * np.array([0.5, 1.2, 1.0], np.float32))
    glow = np.exp(-((np.hypot(rows - DISC[0], columns - DISC[1]) / 85) ** 2)).astype(np.float32)
    fundus = fundus * (1 + 0.16 * glow[..., None])
    disc = np.clip((0.92 * DISC_RADIUS - np.hypot(rows - DISC[0], (columns - DISC[1]) * 1.06)) / 5 + 0.5, 0, 1)[
        ..., None
    ]
    fundus = fundus * (1 - disc) + disc * np.array([232, 178, 122], np.float32)
    veins, arteries = _tree(rng, 4.6), _tree(rng, 3.2)
    for strokes, tint in ((veins, (0.62, 0.38, 0.42)), (arteries, (0.8, 0.52, 0.5))):
        cover = draw_strokes(shape, strokes, softness_px=1.6)[..., None]
        fundus = fundus * (1 - cover * (1 - np.array(tint, np.float32)))
    drawn: Image = np.clip(fundus, 0, 255).astype(np.float32)
    return drawn


def _tree(rng: np.random.Generator, radius: float) -> list[Stroke]:
    """Vessels from the disc: two arcades around the macula, four nasal ones and small ones across."""
    strokes = []
    for side in (-1.0, 1.0):
        first = rng.uniform(0.15, 0.4)  # from straight up or down towards the macula
        angle = first if side > 0 else np.pi - first
        strokes += grow_vessel(
            rng, DISC, angle, radius * rng.uniform(0.85, 1.1), length_px=720, least_radius=0.6, bend=0.05,
            branching=0.16, curl=side * rng.uniform(0.035, 0.05),
        )  # fmt: skip
        away = -rng.uniform(0.3, 0.8) if side > 0 else np.pi + rng.uniform(0.3, 0.8)
        strokes += grow_vessel(rng, DISC, away, radius * 0.7, length_px=330, least_radius=0.6, bend=0.06, branching=0.1)
        for _ in range(2):
            strokes += grow_vessel(
                rng, DISC, np.pi / 2 + side * rng.uniform(-1.0, -0.25), radius * 0.38, length_px=230, least_radius=0.5,
                bend=0.08, branching=0.1,
            )  # fmt: skip
    return strokes
