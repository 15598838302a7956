"""Nodules of the lung phantom: an outline and how it is painted, from LIDC-IDRI's readers or from laws like theirs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from services.training.phantoms.canvas import Image, Mask, Stroke, draw_strokes, smooth_noise, soft_edge
from services.training.phantoms.lung_sources import OUTLINE_POINTS, Outlines, load_outlines
from shared.errors import ConfigurationError

BENIGN: Final = "benign-like"
MALIGNANT: Final = "malignant-like"
LIDC, OWN = "lidc", "own"
EVALUATION_SHARE: Final = 0.35
"""Of each class's LIDC outlines, those that only the held-out sources draw."""


@dataclass(frozen=True, slots=True, eq=False)
class Nodule:
    """Outline around the centre in units of the radius, and how it is painted (votes as in `Outlines`)."""

    outline: NDArray[np.float64]
    spiculation: float
    margin: float
    texture: float
    calcification: float


def draw_nodule(outlines: str, label: str, rng: np.random.Generator, *, held_out: bool = False) -> Nodule:
    """A nodule of class `label`; with LIDC's outlines from one of two pools that share none (see `outline_pool`).

    Raises:
        ConfigurationError: LIDC's outlines are wanted, but not kept on this machine, or too few for two pools.
    """
    if outlines == OWN:
        return _own_nodule(label, rng)
    kept = load_outlines()
    if kept is None:
        raise ConfigurationError("LIDC's outlines are not in the cache: see 'Lung phantom' in docs/data.md")
    chosen = outline_pool(kept, label, held_out=held_out)
    if not len(chosen):
        raise ConfigurationError(f"too few of LIDC's outlines are kept to draw a {label} nodule")
    index = int(chosen[rng.integers(len(chosen))])
    _, spiculation, _, margin, texture, calcification = (float(vote) for vote in kept.votes[index])
    return Nodule(kept.radii[index].astype(np.float64), spiculation, margin, texture, calcification)


def outline_pool(outlines: Outlines, label: str, *, held_out: bool) -> NDArray[np.int64]:
    """Indices of a class's outlines for the sources that training holds out, or for the others.

    The outlines' own hashes decide, so that neither their order nor a seed moves one from pool to pool.
    """
    chosen = _of_class(outlines, label)
    hashes = [hashlib.sha256(np.ascontiguousarray(outlines.radii[index], "<f4").tobytes()).digest() for index in chosen]
    # Equal outlines go to one pool: the cut is a hash, not a rank.
    cut = sorted(hashes)[round(EVALUATION_SHARE * len(hashes))] if hashes else b""
    return np.array([index for index, own in zip(chosen, hashes, strict=True) if (own < cut) == held_out], np.int64)


def _of_class(outlines: Outlines, label: str) -> NDArray[np.int64]:
    """Nodules that the readers agree on, and that look as their class is described: the phantom's caricature."""
    malignancy, spiculation, lobulation = outlines.votes[:, :3].T
    if label == BENIGN:
        wanted = (malignancy <= 2.34) & (spiculation <= 1.7)
    else:
        wanted = (malignancy >= 3.66) & ((spiculation >= 2.0) | (lobulation >= 2.5))
    return np.flatnonzero(wanted)


def _own_nodule(label: str, rng: np.random.Generator) -> Nodule:
    """Outline and votes from laws like LIDC's."""
    angles = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    radius = np.ones(OUTLINE_POINTS)
    rough = 0.05 if label == BENIGN else 0.14
    for wave in range(2, 8):
        radius += rough * rng.normal() * np.cos(wave * angles + rng.uniform(0, 2 * np.pi)) / wave**0.4
    radius = np.maximum(radius, 0.4)
    radius /= np.sqrt((radius**2).mean())
    outline = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    if label == BENIGN:
        return Nodule(outline, 1.0, rng.uniform(4.0, 5.0), rng.uniform(4.0, 5.0), rng.choice([3.5, 6.0]))
    return Nodule(outline, rng.uniform(2.0, 5.0), rng.uniform(2.5, 4.5), rng.uniform(4.0, 5.0), 6.0)


def paint_nodule(
    nodule: Nodule, shape: tuple[int, int], place: tuple[float, float], radius: float, rng: np.random.Generator
) -> tuple[Image, Image, Mask]:
    """Cover of the nodule with spicules and feeding vessels, its chalk, and the mask of its body."""
    turn = rng.uniform(0, 2 * np.pi)
    sine, cosine = np.sin(turn), np.cos(turn)
    points = radius * nodule.outline @ np.array([[cosine, sine], [-sine, cosine]])
    body = _fill(points, shape, place)
    distance = (ndimage.distance_transform_edt(~body) - ndimage.distance_transform_edt(body)).astype(np.float32)
    # Margin votes run from 1 (poorly defined) to 5 (sharp).
    softness = 1.2 + 1.6 * (5 - nodule.margin)
    solid = 0.55 + 0.45 * (nodule.texture - 1) / 4
    mottle = 1 + 0.08 * smooth_noise(rng, shape, 4) * np.float32(1.2 if nodule.spiculation > 1.8 else 0.4)
    cover = soft_edge(distance, softness) * np.float32(solid) * mottle
    strokes = []
    if nodule.spiculation > 1.8:
        for angle in rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, round(5 + 3.5 * nodule.spiculation)):
            angle += rng.normal(0, 0.15)
            reach = radius * rng.uniform(1.35, 1.35 + 0.18 * nodule.spiculation)
            strokes.append(_ray(place, angle, 0.75 * radius, reach, 2.6, 0.6))
    for _ in range(rng.integers(1, 4)):  # vessels that lead to the nodule, in both classes
        strokes.append(_ray(place, rng.uniform(0, 2 * np.pi), 0.8 * radius, radius * rng.uniform(1.8, 2.6), 2.2, 1.4))
    cover = np.maximum(cover, draw_strokes(shape, strokes) * np.float32(0.85))
    chalk = np.zeros(shape, np.float32)
    if nodule.calcification < 5.0:
        spot = (place[0] + rng.normal(0, 0.12) * radius, place[1] + rng.normal(0, 0.12) * radius)
        chalk = draw_strokes(shape, [Stroke(spot, (spot[0] + 1, spot[1]), radius * 0.35, radius * 0.35)], softness_px=2)
    return cover.astype(np.float32), chalk, body


def _ray(
    centre: tuple[float, float], angle: float, start: float, end: float, radius: float, end_radius: float
) -> Stroke:
    sine, cosine = float(np.sin(angle)), float(np.cos(angle))
    first, last = ((centre[0] + at * cosine, centre[1] + at * sine) for at in (start, end))
    return Stroke(first, last, radius / 2, end_radius / 2)


def _fill(points: NDArray[np.float64], shape: tuple[int, int], place: tuple[float, float]) -> Mask:
    """The pixels whose centres lie inside the outline (even-odd rule)."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    inside = np.zeros(shape, np.bool_)
    absolute = points + np.array(place)
    low, high = np.floor(absolute.min(axis=0)).astype(int), np.ceil(absolute.max(axis=0)).astype(int) + 1
    top, left = np.maximum(low, 0)
    bottom, right = np.minimum(high, shape)
    rows, columns = rows[top:bottom], columns[:, left:right]
    window = inside[top:bottom, left:right]
    for (r0, c0), (r1, c1) in zip(absolute, np.roll(absolute, -1, axis=0), strict=True):
        if r0 == r1:
            continue
        crosses = (r0 > rows) != (r1 > rows)
        window ^= crosses & (columns < (c1 - c0) * (rows - r0) / (r1 - r0) + c0)
    return inside
