"""Lesions: three shapes with an exact mask, one law of volume for all three.

glioma-like      irregular, infiltrating, ring of enhancement around a necrotic core, wide oedema
meningioma-like  on the dura, round, sharply bounded, homogeneous, with a cleft and a dural tail
metastasis-like  two to four small round nodules at the grey-white junction, ring-enhancing, with halos
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from services.training.phantoms.fields import Grid, smooth_field

NORMAL: Final = "normal"
GLIOMA: Final = "glioma-like"
MENINGIOMA: Final = "meningioma-like"
METASTASIS: Final = "metastasis-like"
LABELS: Final = (NORMAL, GLIOMA, MENINGIOMA, METASTASIS)
RADIUS_MM: Final = (10.0, 16.0)  # of the sphere that has the lesion's whole volume, uniform, whatever the class

Field = NDArray[np.float32]  # (N, H, W)


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """A virtual subject on the output grid.

    Attributes:
        level: 0 cerebrospinal fluid, 1 grey matter, 2 white matter.
        outside_mm: Signed distance to the brain's surface, positive outside.
        dura_mm: Distance outside the brain's surface at which the dura lies.
        white: Share of white matter, 0 to 1.
    """

    level: Field
    outside_mm: Field
    dura_mm: float
    white: Field


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """What a lesion does to the signal: `(1 - cover) * signal + cover * white + enhancement * gain`.

    Attributes:
        cover: Share of the voxel that is lesion, 0 to 1.
        gain: Signal added, in units of the enhancement; negative in necrosis and oedema.
        mask: The lesion's body: cover of at least one half before any necrosis.
    """

    cover: Field
    gain: Field
    mask: NDArray[np.bool_]

    def paint(self, signal: Field, *, white: float, enhancement: float) -> Field:
        """`signal` with the lesion in it."""
        painted: Field = (
            signal * (1 - self.cover) + self.cover * np.float32(white) + self.gain * np.float32(enhancement)
        )
        return np.maximum(painted, np.float32(0.03))


def grow_lesion(label: str, grid: Grid, tissue: Tissue, rng: np.random.Generator) -> Lesion:
    """The lesion of class `label` in a subject; its mask fills its drawn volume to the voxel."""
    if label == NORMAL:
        empty = np.zeros(grid.shape, np.float32)
        return Lesion(empty, empty, np.zeros(grid.shape, np.bool_))
    radius = rng.uniform(*RADIUS_MM)
    return {GLIOMA: _glioma, MENINGIOMA: _meningioma, METASTASIS: _metastases}[label](grid, tissue, radius, rng)


def _glioma(grid: Grid, tissue: Tissue, radius: float, rng: np.random.Generator) -> Lesion:
    here = (tissue.level > 1.5) & (tissue.outside_mm < -12)
    centre = _pick_centre(here, tissue.outside_mm < -8, grid, rng)
    shape = _ellipsoid(grid, centre, radius, rng, spread=0.25)
    coarse = smooth_field(rng, grid, 0.9 * radius)
    fine = smooth_field(rng, grid, 0.4 * radius)
    border = (shape + radius * (0.26 * coarse + 0.2 * fine)).astype(np.float32)
    distance, mask = _fill_volume(border, tissue.outside_mm < -1, grid, radius)
    cover = _soft(distance, 1.2) * _soft(tissue.outside_mm, 0.7)
    core = _soft(distance + radius * rng.uniform(0.3, 0.42) + 0.12 * radius * fine, 0.8)
    patchy = 0.9 + 0.25 * smooth_field(rng, grid, 4.0)
    swelling = _soft(shape - rng.uniform(7.0, 14.0) + 0.35 * radius * coarse, 2.0) * (0.25 + 0.75 * tissue.white)
    oedema = swelling * (1 - cover) * _soft(tissue.outside_mm, 0.7)
    gain = cover * ((1 - core) * patchy - core * rng.uniform(1.4, 2.0)) - 0.8 * oedema
    return Lesion(cover, gain.astype(np.float32), mask)


def _meningioma(grid: Grid, tissue: Tissue, radius: float, rng: np.random.Generator) -> Lesion:
    here = np.abs(tissue.outside_mm) < 2.0
    centre = _pick_centre(here, here, grid, rng)
    shape = _ellipsoid(grid, centre, radius, rng, spread=0.12)
    within_dura = tissue.outside_mm - tissue.dura_mm
    distance = shape + 0.05 * radius * smooth_field(rng, grid, radius)
    distance, mask = _fill_volume(distance, within_dura < 0, grid, radius)
    cover = _soft(distance, 0.4) * _soft(within_dura, 0.4)
    cleft = np.exp(-(((distance - 1.6) / 0.9) ** 2)) * (1 - cover) * _soft(within_dura, 0.4)
    tail = np.exp(-((within_dura / 0.9) ** 2)) * _soft(distance - rng.uniform(7.0, 14.0), 2.0) * (1 - cover)
    gain = cover * rng.uniform(0.9, 1.1) - 1.3 * cleft + 1.2 * tail
    return Lesion(cover, gain.astype(np.float32), mask)


def _metastases(grid: Grid, tissue: Tissue, radius: float, rng: np.random.Generator) -> Lesion:
    count = int(rng.integers(2, 5))
    shares = rng.dirichlet(np.full(count, 8.0))
    radii = radius * shares ** (1 / 3)
    junction = (np.abs(tissue.level - 1.5) < 0.3) & (tissue.outside_mm < -3) & (tissue.outside_mm > -16)
    parenchyma = (tissue.outside_mm < -3) & (tissue.level > 0.7)
    points = grid.points()
    distance = np.full(grid.shape, np.inf, np.float32)
    free = junction
    for size in radii:
        centre = _pick_centre(free, parenchyma, grid, rng)
        distance = np.minimum(distance, _ellipsoid(grid, centre, size, rng, spread=0.06))
        apart = np.sqrt(((points - centre.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)) > 2.2 * radii.max() + 4
        free = free & apart
    distance, mask = _fill_volume(distance, tissue.outside_mm < -0.5, grid, radius)
    cover = _soft(distance, 0.4) * _soft(tissue.outside_mm, 0.7)
    core = _soft(distance + rng.uniform(2.2, 3.2), 0.5)
    halo = _soft(distance - rng.uniform(3.0, 6.0), 1.0) * (0.3 + 0.7 * tissue.white) * (1 - cover)
    gain = cover * ((1 - core) * 1.15 - core * rng.uniform(0.8, 1.6)) - 0.7 * halo * _soft(tissue.outside_mm, 0.7)
    return Lesion(cover, gain.astype(np.float32), mask)


def _pick_centre(
    wanted: NDArray[np.bool_], fallback: NDArray[np.bool_], grid: Grid, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A point (x, y, z) in mm in one of the slab's middle slices, where `wanted` holds if it holds anywhere."""
    count = len(grid.z)
    middle = slice(count // 4, count - count // 4)
    for allowed in (wanted, fallback):
        found = np.argwhere(allowed[middle])
        if len(found):
            n, row, column = found[rng.integers(len(found))]
            z = grid.z[middle][n] + rng.uniform(-0.5, 0.5) * (grid.z[1] - grid.z[0])
            return np.array([grid.x[column], grid.y[row], z])
    return np.array([0.0, 0.0, grid.z[count // 2]])


def _ellipsoid(
    grid: Grid, centre: NDArray[np.float64], radius: float, rng: np.random.Generator, *, spread: float
) -> Field:
    """About the signed distance in mm to a turned ellipsoid whose half axes differ by about `spread`."""
    axes = radius * np.exp(rng.uniform(-spread, spread, 3))
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    offset = grid.points() - centre.reshape(3, 1, 1, 1)
    scaled = np.tensordot(turn / axes[:, None], offset, axes=1)
    distance: Field = ((np.sqrt((scaled**2).sum(axis=0)) - 1) * radius).astype(np.float32)
    return distance


def _fill_volume(
    distance: Field, allowed: NDArray[np.bool_], grid: Grid, radius: float
) -> tuple[Field, NDArray[np.bool_]]:
    """Shift `distance` so that exactly the voxels of a sphere's volume lie below zero where `allowed`."""
    voxel_mm3 = float(np.prod([abs(axis[1] - axis[0]) for axis in (grid.z, grid.y, grid.x)]))
    inside = np.sort(distance[allowed])
    count = min(round(4 / 3 * np.pi * radius**3 / voxel_mm3), len(inside) - 1)
    shifted = distance - inside[count]
    return shifted, (shifted < 0) & allowed


def _soft(distance: Field, width_mm: float) -> Field:
    """1 well below zero, 0 well above: a border `width_mm` wide."""
    share: Field = expit(-distance / np.float32(width_mm))
    return share
