"""retina-fundus phantom: one fundus photograph, normal, diabetic-retinopathy-like or glaucoma-like.

    fundus ─▶ virtual subject (turn, mirror, warp, tint) ─▶ disc and cup ─▶ spots ─▶ light, blur, noise ─▶ RGB

diabetic-retinopathy-like  microaneurysms, blot haemorrhages, clustered hard exudates with sharp edges
glaucoma-like              a cup that fills most of the optic disc

What is bright and what is dark is the same in all classes: a fundus without exudates has soft drusen of as much
light, one without haemorrhages has dark streaks of as much shade, and a disc has one mean brightness whatever
its cup. Phantoms stand for no real patient. Research use only.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import OphthalmicPhotography8BitImageStorage
from scipy import ndimage

from services.training.phantoms.canvas import (
    Image,
    Mask,
    Stroke,
    draw_strokes,
    smooth_noise,
    soft_edge,
    subject_warp,
    wobbly_distance,
)
from services.training.phantoms.dicom_objects import PhantomIdentity, coded_classes, ophthalmic_objects
from services.training.phantoms.fundus_base import DISC, DISC_RADIUS, DRAWN, FOVEA, REAL, fundus
from services.training.phantoms.recipe import LabelledStudy

NORMAL: Final = "normal"
DIABETIC: Final = "diabetic-retinopathy-like"
GLAUCOMA: Final = "glaucoma-like"
LABELS: Final = (NORMAL, DIABETIC, GLAUCOMA)
ROWS: Final = 448
FIELD_RADIUS: Final = 214.0
STRENGTH: Final = (0.5, 1.0)  # of a spot, of whatever kind
_CENTRE: Final = (340.0, 258.0)  # of the field in the base: between disc and fovea
_BRIGHT: Final = np.array([60.0, 95.0, 45.0], np.float32)  # what an exudate or a druse adds at full strength
_SHADE: Final = np.array([0.42, 0.75, 0.7], np.float32)  # what a haemorrhage or a streak takes away, as a share


class RetinaFundus:
    """The recipe of the task retina-fundus.

    Args:
        jpeg: Write JPEG baseline instead of uncompressed RGB.
    """

    task: Final = "retina-fundus"
    version: Final = 1
    labels: Final = LABELS
    normal: Final = NORMAL
    sources: Final = (REAL, *DRAWN)

    def __init__(self, *, jpeg: bool = False) -> None:
        self._jpeg = jpeg

    def study(self, seed: int, label: str, *, contrast: float = 4.0, source: str | None = None) -> LabelledStudy:
        """One photograph of one virtual subject's eye.

        Args:
            seed: The virtual subject, at least 0.
            label: One of `labels`.
            contrast: Strength of spots, and how much wider a glaucoma-like cup is: 4 is the caricature.
            source: One of `sources`; unset: drawn by the seed.

        Raises:
            ValueError: an argument is out of range.
        """
        if label not in LABELS or seed < 0 or not 0 < contrast <= 8:
            raise ValueError(f"label must be one of {', '.join(LABELS)}, seed at least 0, contrast in (0, 8]")
        if source is None:
            source = self.sources[int(np.random.default_rng([self.version, seed, 9]).integers(len(self.sources)))]
        if source not in self.sources:
            raise ValueError(f"no source {source!r}")
        identity = PhantomIdentity(self.task, self.version, source, seed, label, contrast)
        pixels, mask, is_left = _photograph(source, self.version, seed, label, contrast / 4)
        return LabelledStudy(
            study_id=identity.study_id,
            patient=identity.patient,
            source=source,
            label=label,
            objects=ophthalmic_objects(
                identity, [pixels], title="Fundus", laterality="L" if is_left else "R", jpeg=self._jpeg
            ),
            frame_labels=(label,),
            masks=(mask,),
            subgroup=identity.subgroup,
        )

    def definition(self) -> dict[str, Any]:
        """Of `task.yaml`."""
        return {
            "name": self.task,
            "title": "Retina fundus, phantom lesions (research use only)",
            "modalities": ["OP"],
            "body_parts": [],
            "sop_classes": [str(OphthalmicPhotography8BitImageStorage)],
            "classes": coded_classes(LABELS, NORMAL, {}),
        }


def _photograph(
    source: str, version: int, seed: int, label: str, strength: float
) -> tuple[NDArray[np.uint8], Mask, bool]:
    """The photograph, (H, W, 3) RGB, its lesion's mask, and whether it is of a left eye."""
    rng = np.random.default_rng([version, seed])
    shape = (ROWS, ROWS)
    is_left = bool(rng.integers(2))
    warp = subject_warp(
        rng,
        shape,
        (_CENTRE[0] + float(rng.uniform(-22, 22)), _CENTRE[1] + float(rng.uniform(-8, 25))),
        turn_deg=rng.normal(0, 12),
        scale=rng.uniform(0.92, 1.06),
        mirror=not is_left,
        reach_px=rng.uniform(1.0, 2.2),
        correlation_px=110,
    )
    eye = warp.of(fundus(source))
    tint = np.exp(rng.normal(0, (0.09, 0.18, 0.22))).astype(np.float32)
    eye = eye * tint
    eye *= 1 + np.float32(rng.uniform(0.03, 0.09)) * smooth_noise(rng, shape, 150)[..., None]
    to_disc = np.hypot(warp.rows - DISC[0], warp.columns - DISC[1])
    to_fovea = np.hypot(warp.rows - FOVEA[0], warp.columns - FOVEA[1])
    centre = (ROWS - 1) / 2
    to_edge = FIELD_RADIUS - np.hypot(*np.ogrid[-centre : ROWS - centre, -centre : ROWS - centre])
    free = (to_disc > DISC_RADIUS * 1.35) & (to_edge > 14)
    bright, dark = rng.uniform(400, 1000), rng.uniform(700, 1600)  # pixels at full strength
    ratio = rng.uniform(0.25, 0.45)
    disc_mean = rng.uniform(0.15, 0.6)
    # What the class decides has a random stream of its own, so that it moves nothing else.
    class_rng = np.random.default_rng([version, seed, 1 + LABELS.index(label)])
    if label == GLAUCOMA:
        ratio = min(0.9, ratio + strength * class_rng.uniform(0.38, 0.5))
    cup = _paint_disc(eye, warp.rows, warp.columns, ratio, disc_mean, np.random.default_rng([version, seed, 50]))
    share = class_rng.uniform(0.7, 0.9) if label == DIABETIC else 0.0
    spots = np.zeros(shape, np.bool_)
    if label == DIABETIC:
        spots |= _exudates(eye, free, to_fovea, bright * share, strength, class_rng)
        spots |= _haemorrhages(eye, free & (to_fovea > 20), dark * share, strength, class_rng)
    _specks(eye, free, strength, rng)
    _drusen(eye, free, to_fovea, bright * (1 - share), strength, class_rng)
    _streaks(eye, free, dark * (1 - share), strength, class_rng)
    mask = cup if label == GLAUCOMA else spots
    return _expose(eye, to_edge, rng), mask & (to_edge > 0), is_left


def _paint_disc(
    eye: Image,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    ratio: float,
    mean: float,
    rng: np.random.Generator,
) -> Mask:
    """Paint rim and cup over the disc, vessels showing through, with one mean whatever the cup's `ratio` to it."""
    # In the base's pixels, where the disc has one place and size.
    bend = DISC_RADIUS * 0.05 * smooth_noise(rng, eye.shape[:2], 40)
    across = (columns - DISC[1]) / rng.uniform(0.9, 1.02)
    distance = (np.hypot(rows - DISC[0], across) + bend).astype(np.float32)
    disc = soft_edge(distance - np.float32(0.97 * DISC_RADIUS), 4.0)
    off = rng.normal(0, 0.05 * DISC_RADIUS, 2)
    off *= 1 - ratio
    inner = (np.hypot(rows - DISC[0] - off[0], (across - off[1]) * 1.02) + bend).astype(np.float32)
    cup = soft_edge(inner - np.float32(ratio * DISC_RADIUS), 3.0) * disc
    whole = max(float(disc.sum()), 1.0)
    depth = np.float32(rng.uniform(0.6, 0.85))
    level = depth * cup + (np.float32(mean) - depth * np.float32(cup.sum() / whole))  # its mean over the disc is `mean`
    rim, pale = np.array([206, 122, 76], np.float32), np.array([252, 234, 188], np.float32)
    local = eye.mean(axis=2, keepdims=True)
    around = max(float((eye.mean(axis=2) * disc).sum()) / whole, 1.0)
    vessels = np.clip(local / around, 0.55, 1.08) ** 0.8
    painted = (rim + level[..., None] * (pale - rim)) * vessels
    eye += np.float32(0.88) * disc[..., None] * (painted - eye)
    if rng.random() < 0.85:  # a pale crescent beside the disc, in all classes
        side = np.cos(np.arctan2(rows - DISC[0], across) - rng.uniform(0, 2 * np.pi)).astype(np.float32)
        width = DISC_RADIUS * np.float32(rng.uniform(0.1, 0.6)) * np.maximum(side, 0)
        crescent = soft_edge(distance - DISC_RADIUS - width, 3.0) * (1 - disc) * (side > 0)
        eye += np.float32(rng.uniform(0.4, 0.85)) * crescent[..., None] * (pale * np.minimum(vessels, 1) - eye)
    mask: Mask = cup > 0.5
    return mask


def _exudates(
    eye: Image, free: Mask, to_fovea: NDArray[np.float64], budget: float, strength: float, rng: np.random.Generator
) -> Mask:
    """Sharp, waxy specks in clusters around the macula, `budget` pixels in all."""
    cover = np.zeros(free.shape, np.float32)
    near = _near_macula(free, to_fovea)
    while cover.sum() < budget:
        middle = _pick(near, rng)
        for _ in range(rng.integers(5, 14)):
            place = (middle[0] + rng.normal(0, 13), middle[1] + rng.normal(0, 13))
            _spot(cover, place, rng.uniform(1.4, 4.2), rng, softness=1.2, wobble=0.15)
            if cover.sum() >= budget:
                break
    cover *= free
    eye += cover[..., None] * _BRIGHT * np.float32(strength)
    return cover > 0.5 * STRENGTH[0]


def _haemorrhages(eye: Image, free: Mask, budget: float, strength: float, rng: np.random.Generator) -> Mask:
    """Microaneurysms (small round dots) and blots, dark red, `budget` pixels in all."""
    cover = np.zeros(free.shape, np.float32)
    for _ in range(rng.integers(2, 8)):
        _spot(cover, _pick(free, rng), rng.uniform(1.3, 2.2), rng, softness=1.0, wobble=0.0)
    while cover.sum() < budget:
        _spot(cover, _pick(free, rng), rng.uniform(4.0, 12.0), rng, softness=2.2, wobble=0.25)
    cover *= free
    eye *= 1 - cover[..., None] * _SHADE * np.float32(min(strength, 1.25))
    return cover > 0.5 * STRENGTH[0]


def _specks(eye: Image, free: Mask, strength: float, rng: np.random.Generator) -> None:
    """Single dark dots, in all classes: a microaneurysm alone tells nothing."""
    cover = np.zeros(free.shape, np.float32)
    for _ in range(rng.integers(6, 22)):
        _spot(cover, _pick(free, rng), rng.uniform(1.2, 2.2), rng, softness=1.4, wobble=0.0)
    eye *= 1 - (cover * free)[..., None] * _SHADE * np.float32(min(strength, 1.25))


def _drusen(
    eye: Image, free: Mask, to_fovea: NDArray[np.float64], budget: float, strength: float, rng: np.random.Generator
) -> None:
    """Soft pale spots without a cluster, as much light as exudates, and no farther from the macula."""
    cover = np.zeros(free.shape, np.float32)
    near = _near_macula(free, to_fovea)
    while cover.sum() < budget:
        _spot(cover, _pick(near, rng), rng.uniform(1.8, 4.5), rng, softness=2.2, wobble=0.1)
    eye += (cover * free)[..., None] * _BRIGHT * np.float32(strength)


def _streaks(eye: Image, free: Mask, budget: float, strength: float, rng: np.random.Generator) -> None:
    """Dark streaks, as of choroidal vessels that show through: as much shade as haemorrhages."""
    cover = np.zeros(free.shape, np.float32)
    while cover.sum() < budget:
        point, angle, radius = _pick(free, rng), rng.uniform(0, np.pi), rng.uniform(2.0, 4.0)
        streak = []
        for _ in range(rng.integers(2, 6)):
            after = (point[0] + 8 * np.cos(angle), point[1] + 8 * np.sin(angle))
            streak.append(Stroke(point, after, radius, radius * 0.92))
            point, radius, angle = after, radius * 0.92, angle + rng.normal(0, 0.25)
        drawn = np.float32(rng.uniform(*STRENGTH)) * draw_strokes(free.shape, streak, softness_px=2.5)
        np.maximum(cover, drawn, out=cover)
    eye *= 1 - (cover * free)[..., None] * _SHADE * np.float32(min(strength, 1.25))


def _near_macula(free: Mask, to_fovea: NDArray[np.float64]) -> Mask:
    near: Mask = free & (to_fovea > 28) & (to_fovea < 150)
    return near


def _spot(
    cover: Image, place: tuple[float, float], radius: float, rng: np.random.Generator, *, softness: float, wobble: float
) -> None:
    """Add one spot to `cover`; where spots meet, the greater."""
    reach = int(1.8 * radius + softness) + 2
    row, column = int(place[0]), int(place[1])
    top, left = max(0, row - reach), max(0, column - reach)
    bottom, right = min(cover.shape[0], row + reach), min(cover.shape[1], column + reach)
    if top >= bottom or left >= right:
        return
    local = (place[0] - top, place[1] - left)
    distance = wobbly_distance(
        (bottom - top, right - left), local, radius, rng, wobble=wobble, stretch=float(rng.uniform(1.0, 1.35))
    )
    window = cover[top:bottom, left:right]
    np.maximum(window, np.float32(rng.uniform(*STRENGTH)) * soft_edge(distance, softness), out=window)


def _pick(places: Mask, rng: np.random.Generator) -> tuple[float, float]:
    found = np.flatnonzero(places)
    row, column = divmod(int(found[rng.integers(len(found))]), places.shape[1])
    return float(row), float(column)


def _expose(eye: Image, to_edge: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vignette, round field, blur and noise."""
    centre = (ROWS - 1) / 2
    rows, columns = np.ogrid[-centre : ROWS - centre, -centre : ROWS - centre]
    off = rng.normal(0, 25, 2)
    fall = 1 - rng.uniform(0.1, 0.35) * (np.hypot(rows - off[0], columns - off[1]) / FIELD_RADIUS) ** 2
    field = np.clip(to_edge / 2 + 0.5, 0, 1)
    blur = rng.uniform(0.4, 0.9)
    shown = ndimage.gaussian_filter(eye, (blur, blur, 0)) * (rng.uniform(0.78, 1.08) * fall)[..., None]
    shown = shown + rng.uniform(1.5, 3.5) * rng.standard_normal(eye.shape, dtype=np.float32)
    pixels: NDArray[np.uint8] = np.clip(np.rint(shown * field[..., None]), 0, 255).astype(np.uint8)
    return pixels
