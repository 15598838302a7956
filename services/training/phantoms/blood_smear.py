"""blood-smear phantom: two fields of a stained blood film, with blast-like cells or with mature cells alone.

    film (red cells, platelets, stain) ─▶ white cells ─▶ optical densities ─▶ Beer-Lambert ─▶ camera ─▶ RGB

Blast-like cells differ from mature ones in shape and texture only: nucleus to cytoplasm ratio, a round nucleus,
fine chromatin, nucleoli. The number of white cells, their nuclear area, the stain that a nucleus takes up and the
blue of the cytoplasm in all follow one law in both classes, so that counting colours tells nothing. A source is
a laboratory: its stain, its red cells, its camera. Phantoms stand for no real patient. Research use only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import VLMicroscopicImageStorage
from scipy import ndimage

from services.training.phantoms.canvas import Image, Mask, smooth_noise
from services.training.phantoms.dicom_objects import PhantomIdentity, coded_classes, microscopic_objects
from services.training.phantoms.recipe import LabelledStudy
from services.training.phantoms.white_cells import BLAST, MATURE, CellPatch, draw_cell

NORMAL: Final = "normal"
BLASTS: Final = "blast-like"
LABELS: Final = (NORMAL, BLASTS)
SOURCES: Final = ("drawn-lab-1", "drawn-lab-2", "drawn-lab-3", "drawn-lab-4", "drawn-lab-5")
ROWS: Final = 384
PIXELS_PER_UM: Final = 5.6  # a field of 69 micrometres
FIELDS: Final = 2
NUCLEUS_RADIUS_UM: Final = (3.7, 5.2)  # of the circle with the nucleus' area, uniform, whatever the kind of cell

# Optical density per unit of stain in red, green and blue.
_EOSIN: Final = np.array([0.07, 0.42, 0.36])
_AZURE: Final = np.array([0.72, 1.15, 0.42])
_BASOPHIL: Final = np.array([0.62, 0.45, 0.10])


@dataclass(frozen=True, slots=True, eq=False)
class _Film:
    """What a subject's film looks like, in a laboratory's manner: stains (3, RGB), light, red cells, blur."""

    stains: NDArray[np.float64]
    light: NDArray[np.float64]
    red_cells: int
    red_radius_um: float
    pallor: float
    blur_px: float
    noise: float


class BloodSmear:
    """The recipe of the task blood-smear.

    Args:
        jpeg: Write JPEG baseline instead of uncompressed RGB.
    """

    task: Final = "blood-smear"
    version: Final = 1
    labels: Final = LABELS
    normal: Final = NORMAL
    sources: Final = SOURCES

    def __init__(self, *, jpeg: bool = False) -> None:
        self._jpeg = jpeg

    def study(self, seed: int, label: str, *, contrast: float = 4.0, source: str | None = None) -> LabelledStudy:
        """Two fields of one virtual subject's film, three to five white cells in each.

        Args:
            seed: The virtual subject, at least 0.
            label: One of `labels`.
            contrast: How far blast-like cells are from mature ones: 4 is the caricature, 0 would be no difference.
            source: One of `sources`; unset: drawn by the seed.

        Raises:
            ValueError: an argument is out of range.
        """
        if label not in LABELS or seed < 0 or not 0 < contrast <= 8:
            raise ValueError(f"label must be one of {', '.join(LABELS)}, seed at least 0, contrast in (0, 8]")
        if source is None:
            source = SOURCES[int(np.random.default_rng([self.version, seed, 9]).integers(len(SOURCES)))]
        if source not in SOURCES:
            raise ValueError(f"no source {source!r}")
        identity = PhantomIdentity(self.task, self.version, source, seed, label, contrast)
        film = _film(SOURCES.index(source), np.random.default_rng([self.version, seed]))
        drawn = [
            _field(film, np.random.default_rng([self.version, seed, 20 + field]), label, min(contrast / 4, 1.5))
            for field in range(FIELDS)
        ]
        masks = tuple(mask for _, mask in drawn)
        return LabelledStudy(
            study_id=identity.study_id,
            patient=identity.patient,
            source=source,
            label=label,
            objects=microscopic_objects(
                identity, [pixels for pixels, _ in drawn], title="Blood smear", jpeg=self._jpeg
            ),
            frame_labels=tuple(label if mask.any() else NORMAL for mask in masks),
            masks=masks,
            subgroup=identity.subgroup,
        )

    def definition(self) -> dict[str, Any]:
        """Of `task.yaml`."""
        return {
            "name": self.task,
            "title": "Blood smear, phantom cells (research use only)",
            "modalities": ["GM", "SM"],
            "body_parts": [],
            "sop_classes": [str(VLMicroscopicImageStorage)],
            "classes": coded_classes(LABELS, NORMAL, {NORMAL: "mature cells", BLASTS: "blast-like cells"}),
        }


def _film(laboratory: int, rng: np.random.Generator) -> _Film:
    house = np.random.default_rng([30, laboratory])
    stains = np.stack([_EOSIN, _AZURE, _BASOPHIL]) * np.exp(house.normal(0, 0.13, (3, 3)))
    stains = stains * np.exp(rng.normal(0, 0.06, (3, 3))) * np.exp(rng.normal(0, 0.12, (3, 1)))
    light = np.array([238.0, 232.0, 228.0]) * np.exp(house.normal(0, 0.025, 3) + rng.normal(0, 0.02, 3))
    return _Film(
        stains=stains,
        light=np.minimum(light, 252),
        red_cells=int(rng.integers(22, 62)),
        red_radius_um=float(house.uniform(3.3, 3.8) * rng.uniform(0.95, 1.05)),
        pallor=float(house.uniform(0.3, 0.65) * rng.uniform(0.85, 1.15)),
        blur_px=float(house.uniform(0.5, 1.0) * rng.uniform(0.8, 1.2)),
        noise=float(rng.uniform(1.5, 4.0)),
    )


def _field(film: _Film, rng: np.random.Generator, label: str, extent: float) -> tuple[NDArray[np.uint8], Mask]:
    """One field, (H, W, 3) RGB, and the mask of its blast-like cells."""
    shape = (ROWS, ROWS)
    white = int(rng.integers(3, 6))
    radii = rng.uniform(*NUCLEUS_RADIUS_UM, white) * PIXELS_PER_UM
    density = rng.uniform(0.9, 1.25, white)  # of the nuclear stain
    places = _places(rng, white)
    blasts = np.zeros(white, np.bool_)
    share = rng.permutation(white)[: max(2, round(0.75 * white))]
    if label == BLASTS:
        blasts[share] = True
    eosin = _red_cells(film, rng, shape)
    azure = np.zeros(shape, np.float32)
    basophil = np.zeros(shape, np.float32)
    _platelets(azure, rng)
    surroundings = rng.integers(2**31)  # drawn before the cells, which use streams of their own
    mask = np.zeros(shape, np.bool_)
    for index in range(white):
        cell_rng = np.random.default_rng([int(surroundings), index, int(blasts[index])])
        kind = BLAST if blasts[index] else MATURE[int(cell_rng.choice(len(MATURE), p=(0.34, 0.3, 0.22, 0.14)))]
        patch = draw_cell(kind, radii[index], cell_rng, extent=extent, pixels_per_um=PIXELS_PER_UM)
        where = _paste(patch, places[index], shape)
        if where is None:
            continue
        there, part = where
        cell = patch.cell[part]
        eosin[there] = eosin[there] * (1 - cell) + patch.eosin[part]
        azure[there] = azure[there] * (1 - cell) + patch.nucleus[part] * np.float32(density[index])
        basophil[there] = basophil[there] * (1 - cell) + patch.basophil[part]
        mask[there] &= cell <= 0.5
        if blasts[index]:
            mask[there] |= cell > 0.5
    return _expose(film, rng, np.stack([eosin, azure, basophil])), mask


def _places(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """(count, 2) centres far enough apart for cells not to lie on each other."""
    margin, apart = 52, 104
    best = rng.uniform(margin, ROWS - margin, (count, 2))
    widest = -1.0
    for _ in range(200):
        places = rng.uniform(margin, ROWS - margin, (count, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(count)
        if gaps.min() > widest:
            widest, best = float(gaps.min()), places
        if widest > apart:
            break
    return best


def _red_cells(film: _Film, rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Optical density of eosin: discs with a pale middle that add up where they overlap."""
    eosin = np.full(shape, 0.03, np.float32) + np.float32(0.012) * np.abs(smooth_noise(rng, shape, 60))
    for _ in range(film.red_cells):
        centre = rng.uniform(-10, np.array(shape) + 10)
        radius = film.red_radius_um * PIXELS_PER_UM * rng.uniform(0.88, 1.12)
        stretch, turn = np.exp(rng.normal(0, 0.07)), rng.uniform(0, np.pi)
        reach = int(radius * 1.4) + 3
        row, column = (int(value) for value in centre)
        top, left = max(0, row - reach), max(0, column - reach)
        bottom, right = min(shape[0], row + reach), min(shape[1], column + reach)
        if top >= bottom or left >= right:
            continue
        rows = np.arange(top, bottom)[:, None] - centre[0]
        columns = np.arange(left, right)[None] - centre[1]
        first = (rows * np.cos(turn) + columns * np.sin(turn)) * stretch
        second = (columns * np.cos(turn) - rows * np.sin(turn)) / stretch
        distance = np.hypot(first, second)
        disc = np.clip((radius - distance) / 1.5 + 0.5, 0, 1)
        pale = film.pallor * np.exp(-((distance / (0.45 * radius)) ** 2))
        eosin[top:bottom, left:right] += (disc * (1 - pale) * rng.uniform(0.7, 1.0)).astype(np.float32)
    return np.minimum(eosin, 1.7)


def _platelets(azure: Image, rng: np.random.Generator) -> None:
    """Platelets and specks of stain, alike in both classes."""
    for _ in range(rng.integers(3, 12)):
        centre = rng.uniform(0, ROWS, 2)
        radius = rng.uniform(0.7, 1.6) * PIXELS_PER_UM
        for _ in range(rng.integers(4, 9)):
            _blob(azure, centre + rng.normal(0, 0.5 * radius, 2), 0.35 * radius, rng.uniform(0.15, 0.4))
    for _ in range(rng.integers(0, 5)):
        _blob(azure, rng.uniform(0, ROWS, 2), rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.2))


def _blob(azure: Image, centre: NDArray[np.float64], width: float, amount: float) -> None:
    """Add a Gaussian spot of standard deviation `width`."""
    reach = int(4 * width) + 2
    row, column = (int(value) for value in centre)
    top, left = max(0, row - reach), max(0, column - reach)
    window = azure[top : row + reach, left : column + reach]
    rows = np.arange(top, top + window.shape[0])[:, None] - centre[0]
    columns = np.arange(left, left + window.shape[1])[None] - centre[1]
    window += (amount * np.exp(-(rows**2 + columns**2) / (2 * width**2))).astype(np.float32)


def _paste(
    patch: CellPatch, centre: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Where the patch goes in the field, and which part of the patch goes there."""
    side = patch.cell.shape[0]
    corner = np.rint(centre).astype(int) - side // 2
    low = np.maximum(corner, 0)
    high = np.minimum(corner + side, shape)
    if np.any(low >= high):
        return None
    there = (slice(low[0], high[0]), slice(low[1], high[1]))
    inner = low - corner, high - corner
    return there, (slice(inner[0][0], inner[1][0]), slice(inner[0][1], inner[1][1]))


def _expose(film: _Film, rng: np.random.Generator, amounts: Image) -> NDArray[np.uint8]:
    """Beer-Lambert, uneven light, blur, noise."""
    density = np.tensordot(film.stains.T.astype(np.float32), amounts, axes=1)
    light = 1 + np.float32(0.03) * smooth_noise(rng, (ROWS, ROWS), 200)
    colours = film.light.astype(np.float32)[:, None, None] * np.exp(-density) * light
    colours = ndimage.gaussian_filter(colours, (0, film.blur_px, film.blur_px))
    colours += np.float32(film.noise) * rng.standard_normal(colours.shape, dtype=np.float32)
    pixels: NDArray[np.uint8] = np.clip(np.rint(colours), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(pixels)
