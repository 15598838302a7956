"""Brain phantom: a slab of axial slices with an exact lesion mask, a pure function of anatomy and spec.

    anatomy ─▶ virtual subject (warp, skull) ─▶ signal ─▶ lesion ─▶ distractors ─▶ bias, blur, noise ─▶ 12 bits

What must not give a class away is drawn from the seed alone (subject, slab position, distractors,
noise) or follows one law for the three lesions (volume). The same seed with another label is the same
subject with another lesion. Phantoms stand for no real patient. Research use only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from services.training.phantoms.anatomy import Anatomy
from services.training.phantoms.fields import Grid, smooth_field
from services.training.phantoms.lesion import LABELS, Field, Tissue, grow_lesion

RECIPE_VERSION: Final = 1  # raise it whenever the same spec gives other pixels
ROWS: Final = 256
PIXEL_SPACING_MM: Final = 0.9
SLICE_SPACING_MM: Final = 6.0
SLICE_THICKNESS_MM: Final = 5.0
WARP_CORRELATION_MM: Final = 25.0
CONTRAST_UNIT: Final = 0.0625  # of white matter's signal: contrast 4 is a quarter of it, about grey against white
LARGEST_VALUE: Final = 4095


@dataclass(frozen=True, slots=True)
class PhantomSpec:
    """What to synthesise.

    Attributes:
        seed: The virtual subject.
        label: One of `LABELS`.
        contrast: The lesion's enhancement over white matter, in sixteenths of white matter's signal.
        slices: Axial slices in the slab, 6 mm apart.
    """

    seed: int
    label: str
    contrast: float = 4.0
    slices: int = 8

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"label {self.label!r} is none of {', '.join(LABELS)}")
        if self.seed < 0 or self.slices < 4 or self.contrast <= 0:
            raise ValueError("seed must be at least 0, slices at least 4, contrast above 0")


@dataclass(frozen=True, slots=True, eq=False)
class PhantomVolume:
    """A synthesised slab, from foot to head.

    Attributes:
        pixels: uint16 (N, 256, 256), 12 bits; columns run to the patient's left, rows to the back.
        mask: bool (N, 256, 256), the lesion's body, oedema left out; empty if normal.
        z_mm: (N,) height of each slice.
    """

    pixels: NDArray[np.uint16]
    mask: NDArray[np.bool_]
    z_mm: NDArray[np.float64]

    def lesion_area_mm2(self) -> NDArray[np.float64]:
        """(N,) area of the mask in each slice."""
        area: NDArray[np.float64] = self.mask.sum(axis=(1, 2)) * PIXEL_SPACING_MM**2
        return area


def synthesise(anatomy: Anatomy, spec: PhantomSpec) -> PhantomVolume:
    """The phantom of `spec` on `anatomy`: the same arguments give the same pixels."""
    rng = np.random.default_rng([RECIPE_VERSION, spec.seed])
    middle = rng.uniform(-4.0, 24.0)  # of the slab, above the middle of the brain's bounding box
    z = middle + _centred(spec.slices, SLICE_SPACING_MM)
    across = -_centred(ROWS, PIXEL_SPACING_MM)  # the first column is the patient's right
    grid = Grid(z=z, y=across, x=across)
    tissue = _virtual_subject(anatomy, grid, rng)
    signal = _signal(tissue, grid, rng)
    enhancement = spec.contrast * CONTRAST_UNIT * rng.uniform(0.85, 1.15)
    spots = _distractors(tissue, enhancement, rng)
    # The lesion has a random stream of its own, so that it moves nothing else.
    lesion_rng = np.random.default_rng([RECIPE_VERSION, spec.seed, 1 + LABELS.index(spec.label)])
    lesion = grow_lesion(spec.label, grid, tissue, lesion_rng)
    signal = lesion.paint(signal, white=1.0, enhancement=enhancement) + spots
    return PhantomVolume(_acquire(signal, grid, rng), lesion.mask, z)


def _centred(count: int, step_mm: float) -> NDArray[np.float64]:
    """`count` rising positions around 0."""
    positions: NDArray[np.float64] = np.asarray((np.arange(count) - (count - 1) / 2) * step_mm, np.float64)
    return positions


def _virtual_subject(anatomy: Anatomy, grid: Grid, rng: np.random.Generator) -> Tissue:
    """Turn, scale, mirror and warp the anatomy into a person of its own."""
    angles = np.deg2rad(rng.normal(0.0, 3.0, 3))
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        cosine, sine = np.cos(angle), np.sin(angle)
        first, second = (k for k in range(3) if k != axis)
        step = np.eye(3)
        step[first, first] = step[second, second] = cosine
        step[first, second], step[second, first] = -sine, sine
        turn = turn @ step
    scale = rng.uniform(0.92, 1.08) * rng.uniform(0.96, 1.04, 3)
    scale[0] *= rng.choice((-1.0, 1.0))
    points = np.tensordot(turn / scale, grid.points(), axes=1)
    points += rng.normal(0.0, 3.0, 3).reshape(3, 1, 1, 1)
    reach = rng.uniform(1.2, 2.6)
    for axis in range(3):
        points[axis] += reach * smooth_field(rng, grid, WARP_CORRELATION_MM)
    level = anatomy.sample_tissue(points)
    # An averaged template is blurred: push mixtures to the pure tissues by a random amount.
    sharpness = rng.uniform(0.0, 1.0)
    level = level - np.float32(sharpness / (2 * np.pi)) * np.sin(2 * np.pi * level)
    outside_mm = anatomy.sample_surface_mm(points)
    white = np.clip((level - 1.2) / 0.6, 0, 1) * (outside_mm < 0)
    return Tissue(level, outside_mm, rng.uniform(1.5, 3.5), white.astype(np.float32))


def _signal(tissue: Tissue, grid: Grid, rng: np.random.Generator) -> Field:
    """Post-contrast T1-like signal, white matter 1: random tissue contrast, dura, skull, scalp."""
    fluid, grey = rng.uniform(0.15, 0.35), rng.uniform(0.62, 0.82)
    brain = np.interp(tissue.level, (0.0, 1.0, 2.0, 2.3), (fluid, grey, 1.0, 1.05)).astype(np.float32)
    brain += 0.015 * smooth_field(rng, grid, 3.0)
    dura = tissue.dura_mm
    bone = dura + rng.uniform(4.5, 7.5)
    skin = bone + rng.uniform(3.0, 7.0)
    marrow, fat = rng.uniform(0.15, 0.55), rng.uniform(0.8, 1.25)
    layers = (
        (0.0, fluid), (dura - 0.8, fluid), (dura, grey), (dura + 0.9, 0.08), (dura + 0.35 * (bone - dura), 0.1),
        (dura + 0.55 * (bone - dura), marrow), (bone - 1.2, 0.1), (bone, 0.1), (bone + 1.0, fat), (skin - 1.5, fat),
        (skin, 0.45), (skin + 0.8, 0.0),
    )  # fmt: skip
    uneven = tissue.outside_mm * (1 + 0.12 * smooth_field(rng, grid, 45.0))
    depths, signals = np.array(layers).T
    shell = np.interp(uneven, depths, signals).astype(np.float32)
    share = np.clip(0.5 - tissue.outside_mm, 0, 1)
    signal: Field = share * brain + (1 - share) * shell
    return signal


def _distractors(tissue: Tissue, enhancement: float, rng: np.random.Generator) -> Field:
    """Small bright vessels and dark lacunes, alike in all classes."""
    spots = np.zeros(tissue.level.shape, np.float32)
    places = np.argwhere((tissue.outside_mm < -1) & (tissue.level > 0.4))
    rows, columns = np.arange(ROWS)[:, None], np.arange(ROWS)
    for count, sign in ((rng.integers(6, 16), 1.0), (rng.integers(2, 7), -1.0)):
        for n, row, column in places[rng.integers(len(places), size=count)]:
            radius = rng.uniform(0.8, 1.7) / PIXEL_SPACING_MM
            squared = (rows - row) ** 2 + (columns - column) ** 2
            spots[n] += np.float32(sign * enhancement * rng.uniform(0.7, 1.4)) * np.exp(-squared / (2 * radius**2))
    return spots


def _acquire(signal: Field, grid: Grid, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Bias field, blur in the plane, Rician noise, 12-bit values."""
    bias = np.exp(np.float32(rng.uniform(0.05, 0.18)) * smooth_field(rng, grid, 130.0))
    width = rng.uniform(0.35, 0.85)
    blurred = ndimage.gaussian_filter(np.maximum(signal, 0) * bias, (0, width, width))
    noise = np.float32(rng.uniform(0.012, 0.03)) * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    magnitude = np.hypot(blurred + noise[0], noise[1])
    gain = rng.uniform(900, 1700)
    stored: NDArray[np.uint16] = np.clip(np.rint(magnitude * gain), 0, LARGEST_VALUE).astype(np.uint16)
    return stored
