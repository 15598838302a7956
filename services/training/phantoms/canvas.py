"""Drawing for flat phantoms: smooth noise, warps, tapering lines and soft edges, all in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from services.training.phantoms.fields import Grid, smooth_field

Image = NDArray[np.float32]  # (H, W) or (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], correlation_px: float) -> Image:
    """(H, W) of about unit variance; values `correlation_px` apart are nearly independent."""
    rows, columns = (np.arange(size, dtype=np.float64) for size in shape)
    field: Image = smooth_field(rng, Grid(z=np.zeros(1), y=rows, x=columns), correlation_px)[0]
    return field


def fractal_noise(rng: np.random.Generator, shape: tuple[int, int], coarse_px: float, octaves: int = 3) -> Image:
    """(H, W) of about unit variance: octaves of smooth noise, each half as wide and .6 as strong."""
    total = np.zeros(shape, np.float32)
    weights = 0.6 ** np.arange(octaves)
    for octave, weight in enumerate(weights):
        total += np.float32(weight) * smooth_noise(rng, shape, max(coarse_px / 2**octave, 1.5))
    return total / np.float32(np.sqrt((weights**2).sum()))


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """Where each pixel of the result lies in the base image: rows and columns, float64 (H, W) each."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    def of(self, base: Image, *, order: int = 1) -> Image:
        """`base` warped, channel by channel; beyond its edge, the edge's values."""
        at = (self.rows, self.columns)
        if base.ndim == 3:
            return np.stack([self.of(base[..., channel], order=order) for channel in range(base.shape[2])], axis=-1)
        warped: Image = ndimage.map_coordinates(base, at, order=order, mode="nearest", output=np.float32)
        return warped


def subject_warp(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre: tuple[float, float],
    *,
    turn_deg: float,
    scale: float,
    mirror: bool,
    reach_px: float,
    correlation_px: float,
) -> Warp:
    """Turn, scale, mirror and bend a base image around `centre` (row, column) into a subject of its own.

    Args:
        rng: What the bending is drawn from.
        shape: Of the result.
        centre: The point of the base image in the middle of the result.
        turn_deg: Anticlockwise.
        scale: Base pixels per pixel of the result.
        mirror: Left for right.
        reach_px: Standard deviation of the bending, in base pixels.
        correlation_px: Of the bending, in pixels of the result.
    """
    rows = np.arange(shape[0])[:, None] - (shape[0] - 1) / 2
    columns = (np.arange(shape[1])[None] - (shape[1] - 1) / 2) * (-1 if mirror else 1)
    angle = np.deg2rad(turn_deg)
    turned_rows = scale * (rows * np.cos(angle) - columns * np.sin(angle)) + centre[0]
    turned_columns = scale * (rows * np.sin(angle) + columns * np.cos(angle)) + centre[1]
    bend = [reach_px * smooth_noise(rng, shape, correlation_px) for _ in range(2)]
    return Warp(turned_rows + bend[0], turned_columns + bend[1])


@dataclass(frozen=True, slots=True)
class Stroke:
    """A straight piece of a vessel: (row, column) ends and its half width at each, in pixels."""

    start: tuple[float, float]
    end: tuple[float, float]
    start_radius: float
    end_radius: float


def draw_strokes(shape: tuple[int, int], strokes: Sequence[Stroke], *, softness_px: float = 1.0) -> Image:
    """(H, W) cover of the strokes, 0 to 1, edges `softness_px` wide; where they cross, the greater."""
    cover = np.zeros(shape, np.float32)
    for stroke in strokes:
        reach = max(stroke.start_radius, stroke.end_radius) + softness_px
        low = [int(np.floor(min(a, b) - reach)) for a, b in zip(stroke.start, stroke.end, strict=True)]
        high = [int(np.ceil(max(a, b) + reach)) + 1 for a, b in zip(stroke.start, stroke.end, strict=True)]
        top, left = (max(0, value) for value in low)
        bottom, right = (min(size, value) for size, value in zip(shape, high, strict=True))
        if top >= bottom or left >= right:
            continue
        rows = np.arange(top, bottom)[:, None] - stroke.start[0]
        columns = np.arange(left, right)[None] - stroke.start[1]
        along = (stroke.end[0] - stroke.start[0], stroke.end[1] - stroke.start[1])
        length = max(along[0] ** 2 + along[1] ** 2, 1e-9)
        share = np.clip((rows * along[0] + columns * along[1]) / length, 0, 1)
        distance = np.hypot(rows - share * along[0], columns - share * along[1])
        radius = stroke.start_radius + share * (stroke.end_radius - stroke.start_radius)
        here = np.clip((radius - distance) / softness_px + 0.5, 0, 1) * np.minimum(1, 2 * radius / softness_px)
        window = cover[top:bottom, left:right]
        np.maximum(window, here, out=window, casting="same_kind")
    return cover


def grow_vessel(
    rng: np.random.Generator,
    start: tuple[float, float],
    direction_rad: float,
    radius: float,
    *,
    length_px: float,
    least_radius: float,
    bend: float = 0.12,
    branching: float = 0.12,
    curl: float = 0.0,
) -> list[Stroke]:
    """A branching, tapering vessel.

    Args:
        rng: What it is drawn from.
        start: (row, column).
        direction_rad: From the row axis to the column axis.
        radius: Half width at the start.
        length_px: Of the trunk; branches are shorter.
        least_radius: Where a vessel ends.
        bend: Standard deviation of the turn at each step, in radians.
        branching: Chance of a branch at each step.
        curl: Turn of the trunk at each step, in radians.
    """
    strokes: list[Stroke] = []
    pending = [(start, direction_rad, radius, length_px, curl)]
    while pending:
        point, angle, width, left, curling = pending.pop()
        step = max(2.5, length_px / 40)
        taper = (max(least_radius / width, 0.02)) ** (step / max(left, step))
        while left > 0 and width > least_radius and len(strokes) < 2500:
            angle += rng.normal(0, bend) + curling
            after = (point[0] + step * np.cos(angle), point[1] + step * np.sin(angle))
            strokes.append(Stroke(point, after, width, width * taper))
            point, width, left = after, width * taper, left - step
            if rng.random() < branching:
                side = rng.choice((-1.0, 1.0))
                share = rng.uniform(0.5, 0.8)
                pending.append((point, angle + side * rng.uniform(0.5, 1.1), width * share, left * 0.75, -curling / 2))
                angle -= side * rng.uniform(0.05, 0.3)
    return strokes


def soft_edge(distance_px: Image, width_px: float) -> Image:
    """1 inside (negative distance), 0 outside, with an edge `width_px` wide."""
    edge: Image = np.clip(0.5 - distance_px / max(width_px, 1e-3), 0, 1).astype(np.float32)
    return edge


def wobbly_distance(
    shape: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    rng: np.random.Generator,
    *,
    wobble: float = 0.0,
    stretch: float = 1.0,
    waves: int = 4,
) -> Image:
    """(H, W) about the signed distance to a closed outline of mean radius `radius`; negative inside.

    Args:
        shape: Of the result.
        centre: (row, column).
        radius: In pixels: the outline's area is about a circle's of this radius.
        rng: What the outline is drawn from.
        wobble: Standard deviation of the radius over the outline, as a share of it.
        stretch: Long axis over short axis.
        waves: The finest wave around the outline.
    """
    turn = rng.uniform(0, np.pi)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    columns = np.arange(shape[1], dtype=np.float32)[None] - np.float32(centre[1])
    long = np.sqrt(stretch)
    first = (rows * np.float32(np.cos(turn)) + columns * np.float32(np.sin(turn))) / np.float32(long)
    second = (columns * np.float32(np.cos(turn)) - rows * np.float32(np.sin(turn))) * np.float32(long)
    distance: Image = np.hypot(first, second)
    if wobble > 0:
        table = np.zeros(256)
        angles = np.linspace(-np.pi, np.pi, 256)
        for wave in range(2, waves + 1):
            table += rng.normal() * np.cos(wave * angles + rng.uniform(0, 2 * np.pi)) / wave**0.5
        table *= wobble / max(float(table.std()), 1e-6)
        around = np.arctan2(second, first)
        distance = distance - np.float32(radius) * np.interp(around, angles, table).astype(np.float32)
    return distance - np.float32(radius)
