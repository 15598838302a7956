"""White blood cells for the smear phantom: blast-like cells, and four kinds of mature ones.

A cell is drawn on a square of its own, as amounts of stain: eosin (pink), nuclear azure (purple), basophilia (blue).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from services.training.phantoms.canvas import Image, smooth_noise, soft_edge, wobbly_distance

BLAST: Final = "blast-like"
SEGMENTED: Final = "segmented"
LYMPHOCYTE: Final = "lymphocyte"
MONOCYTE: Final = "monocyte"
EOSINOPHIL: Final = "eosinophil"
MATURE: Final = (SEGMENTED, LYMPHOCYTE, MONOCYTE, EOSINOPHIL)
BLUE_SHARE: Final = 0.24  # of the nucleus' area: what the cytoplasm's basophilia adds up to, in every kind
RIM_SHARE: Final = 0.33  # of the nucleus' area: the outermost cytoplasm, which holds it, in every kind

_CYTOPLASM: Final = {BLAST: 1.34, SEGMENTED: 1.7, LYMPHOCYTE: 1.65, MONOCYTE: 1.75, EOSINOPHIL: 1.7}
"""Area of the cell over that of its nucleus."""
_GRAIN: Final = {
    BLAST: (0.42, 0.33),
    SEGMENTED: (0.95, 0.28),
    LYMPHOCYTE: (1.15, 0.28),
    MONOCYTE: (0.85, 0.29),
    EOSINOPHIL: (0.95, 0.28),
}
"""Of the chromatin: correlation in micrometres, and strength; a fine grain loses more of it to the camera's blur."""


@dataclass(frozen=True, slots=True, eq=False)
class CellPatch:
    """A cell on a square, float32 (S, S) each.

    Attributes:
        cell: Cover of the whole cell, 0 to 1.
        nucleus: Nuclear stain; its mean over the nucleus is 1.
        eosin: Pink of the cytoplasm.
        basophil: Blue of the cytoplasm.
    """

    cell: Image
    nucleus: Image
    eosin: Image
    basophil: Image


def draw_cell(
    kind: str, nucleus_radius: float, rng: np.random.Generator, *, extent: float, pixels_per_um: float
) -> CellPatch:
    """One cell.

    Args:
        kind: `BLAST` or one of `MATURE`.
        nucleus_radius: In pixels, of the circle that has the nucleus' area.
        rng: What it is drawn from.
        extent: How far a blast-like cell is from a lymphocyte: 0 is one, 1 the caricature.
        pixels_per_um: Scale.
    """
    side = int(2 * nucleus_radius * 1.95) // 2 * 2 + 15
    shape = (side, side)
    middle = (side / 2, side / 2)
    share = min(extent, 1.0) if kind == BLAST else 0.0

    def between(table: dict[str, float]) -> float:
        return share * table[BLAST] + (1 - share) * table[LYMPHOCYTE] if kind == BLAST else table[kind]

    ratio = between(_CYTOPLASM) * float(rng.uniform(0.95, 1.1))
    cell_radius = nucleus_radius * np.sqrt(ratio)
    edge = wobbly_distance(shape, middle, cell_radius, rng, wobble=0.035, stretch=rng.uniform(1, 1.12))
    cell = soft_edge(edge, 1.6)
    off = rng.uniform(0.35, 0.9) * (cell_radius - nucleus_radius)
    angle = rng.uniform(0, 2 * np.pi)
    seat = (middle[0] + off * np.cos(angle), middle[1] + off * np.sin(angle))
    border = _nucleus(kind, shape, seat, nucleus_radius, rng)
    nucleus = soft_edge(_with_area(border, np.pi * nucleus_radius**2), 1.4) * cell
    grain_um = between({name: grain[0] for name, grain in _GRAIN.items()})
    grain = between({name: grain[1] for name, grain in _GRAIN.items()})
    chromatin = 1 + grain * smooth_noise(rng, shape, max(grain_um * pixels_per_um, 1.6))
    if kind == BLAST:
        chromatin = _nucleoli(chromatin, border, seat, nucleus_radius, rng, extent, pixels_per_um)
    chromatin = np.clip(chromatin, 0.25, 1.9)
    amount = nucleus * chromatin
    amount *= np.float32(nucleus.sum() / max(float(amount.sum()), 1e-6))
    cytoplasm = cell * (1 - nucleus)
    rim = _rim(edge, cytoplasm, RIM_SHARE * float(nucleus.sum()))
    blue = rim * np.float32(BLUE_SHARE * nucleus.sum() / max(float(rim.sum()), 1e-6))
    pink = cytoplasm * np.float32(rng.uniform(0.05, 0.16))
    if kind in (SEGMENTED, EOSINOPHIL):
        # Granules take the place of even colour.
        size, strength = (0.35, 0.5) if kind == SEGMENTED else (0.7, 0.9)
        granules = np.clip(1 + strength * smooth_noise(rng, shape, max(size * pixels_per_um, 1.6)), 0, 3)
        pink = pink * granules * np.float32(1.6 if kind == EOSINOPHIL else 1.0)
    return CellPatch(cell, amount.astype(np.float32), pink.astype(np.float32), blue.astype(np.float32))


def _rim(edge: Image, cytoplasm: Image, area_px: float) -> Image:
    """The outermost `area_px` pixels of the cytoplasm; all of it where there is less."""
    depths = np.sort(edge[cytoplasm > 0.5])[::-1]
    if len(depths) <= area_px:
        return cytoplasm
    rim: Image = cytoplasm * soft_edge(depths[int(area_px)] - edge, 2.5)
    return rim


def _nucleus(
    kind: str, shape: tuple[int, int], seat: tuple[float, float], radius: float, rng: np.random.Generator
) -> Image:
    """About the signed distance to the nucleus' border, before its area is set."""
    if kind == BLAST:
        return wobbly_distance(shape, seat, radius, rng, wobble=0.045, stretch=rng.uniform(1.0, 1.2), waves=3)
    if kind == LYMPHOCYTE:
        return wobbly_distance(shape, seat, radius, rng, wobble=0.05, stretch=rng.uniform(1.0, 1.2), waves=3)
    turn = rng.uniform(0, 2 * np.pi)
    if kind == MONOCYTE:  # a kidney
        body = wobbly_distance(shape, seat, radius * 1.12, rng, wobble=0.04, stretch=1.25)
        bite = (seat[0] + radius * 1.05 * np.cos(turn), seat[1] + radius * 1.05 * np.sin(turn))
        return np.maximum(body, -wobbly_distance(shape, bite, radius * 0.72, rng, wobble=0.05))
    lobes = int(rng.integers(3, 6)) if kind == SEGMENTED else 2
    size = radius / np.sqrt(lobes)
    arc = np.linspace(-1, 1, lobes) * (1.9 if kind == SEGMENTED else 1.0) + turn
    ring = radius * (0.75 if kind == SEGMENTED else 0.8)
    centres = [(seat[0] + ring * np.cos(angle), seat[1] + ring * np.sin(angle)) for angle in arc]
    border = np.full(shape, np.inf, np.float32)
    for centre in centres:
        lobe = size * rng.uniform(0.9, 1.1)
        border = np.minimum(border, wobbly_distance(shape, centre, lobe, rng, wobble=0.08, stretch=rng.uniform(1, 1.4)))
    for first, last in pairwise(centres):  # thin bridges of chromatin
        for step in np.linspace(0, 1, 7):
            point = (first[0] + step * (last[0] - first[0]), first[1] + step * (last[1] - first[1]))
            border = np.minimum(border, wobbly_distance(shape, point, 0.16 * radius, rng))
    return border


def _with_area(border: Image, area_px: float) -> Image:
    """`border` shifted so that just `area_px` pixels lie inside."""
    flat = np.partition(border, int(area_px), axis=None)
    shifted: Image = border - flat[int(area_px)]
    return shifted


def _nucleoli(
    chromatin: Image, border: Image, seat: tuple[float, float], radius: float, rng: np.random.Generator, extent: float,
    pixels_per_um: float,
) -> Image:  # fmt: skip
    """One to four pale round nucleoli with a darker rim."""
    for _ in range(rng.integers(1, 5)):
        angle, out = rng.uniform(0, 2 * np.pi), radius * 0.62 * np.sqrt(rng.random())
        centre = (seat[0] + out * np.cos(angle), seat[1] + out * np.sin(angle))
        distance = wobbly_distance(border.shape, centre, rng.uniform(0.65, 1.15) * pixels_per_um, rng, stretch=1.1)
        rim = np.exp(-((distance / (0.3 * pixels_per_um)) ** 2))
        chromatin = (
            chromatin * (1 - np.float32(0.5 * extent) * soft_edge(distance, 2.0)) + np.float32(0.18 * extent) * rim
        )
    return chromatin
