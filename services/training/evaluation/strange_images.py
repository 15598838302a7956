"""Images that a head must not judge, to see whether it says so. A pure function of the seed.

What comes with installed packages is used (pydicom's CT, scikit-image's photographs), what is made from the task's own
images (inverted, cut, ...), noise, and the phantoms of the other tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from services.training.phantoms import NAMES, recipe
from shared.pixels import Frame, PixelLimits, read_frames

Pixels = NDArray[np.float32]

_PHOTOGRAPHS: Final = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "coins.png", "motorcycle_left.png",
    "brick.png", "grass.png", "page.png",
)  # fmt: skip
_PHANTOMS: Final = 12  # of each other task at most: some take a second to make
_CT_FILES: Final = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")


@dataclass(frozen=True, slots=True)
class StrangeSet:
    """One kind of strange image; each is a study of its own.

    Attributes:
        is_required: Whether a head that cannot tell this kind apart has failed. Turned images are the same organ by
            the same modality: they are shown, not required.
    """

    kind: str
    frames: tuple[Frame, ...]
    is_required: bool


def strange_sets(task: str, own: Sequence[Frame], *, count: int, seed: int) -> list[StrangeSet]:
    """Every kind that can be had here.

    Args:
        task: The head's task: its own phantoms are not strange.
        own: Frames of fresh studies, at least one, from which the altered kinds are made.
        count: Images of each kind.
        seed: Same seed, same images.
    """
    rng = np.random.default_rng([seed, 17])
    chosen = [own[int(index)] for index in np.linspace(0, len(own) - 1, count).round()]
    made: list[tuple[str, bool, list[Frame]]] = [
        ("inverted", True, [_altered(frame, lambda pixels: 1 - pixels) for frame in chosen]),
        ("noise", True, _noise(rng, count)),
        ("photographs", True, _photographs(rng, count)),
        ("blank or a plain ramp", True, _blank(count)),
        ("strongly blurred", False, [_altered(frame, _blurred) for frame in chosen]),
        ("cut to the middle quarter", False, [_altered(frame, _middle_quarter) for frame in chosen]),
        ("tiles in another order", False, [_altered(frame, lambda pixels: _tiles(pixels, rng)) for frame in chosen]),
        ("turned by 90 degrees", False, [_altered(frame, np.rot90) for frame in chosen]),
        ("upside down", False, [_altered(frame, np.flipud) for frame in chosen]),
    ]
    made.append(("real CT (pydicom's test files)", task != "lung-ct", _real_ct(rng, count)))
    made += [(f"{name} phantoms", True, _phantoms(name, count, seed)) for name in NAMES if name != task]
    return [StrangeSet(kind, tuple(frames), required) for kind, required, frames in made if frames]


def _altered(frame: Frame, change: Callable[[Pixels], Pixels]) -> Frame:
    return Frame(np.ascontiguousarray(change(frame.pixels), np.float32), frame.number, frame.pixel_aspect)


def _noise(rng: np.random.Generator, count: int) -> list[Frame]:
    uniform = [rng.random((256, 256)) for _ in range(count - count // 2)]
    normal = [np.clip(rng.normal(0.5, 0.2, (128, 128)), 0, 1) for _ in range(count // 2)]
    return [Frame(pixels.astype(np.float32), 1) for pixels in (*uniform, *normal)]


def _blank(count: int) -> list[Frame]:
    levels = [np.full((256, 256), level) for level in np.linspace(0, 1, count - count // 2)]
    ramps = [np.tile(np.linspace(0, top, 256), (256, 1)) for top in np.linspace(0.3, 1, count // 2)]
    return [Frame(pixels.astype(np.float32), 1) for pixels in (*levels, *ramps)]


def _photographs(rng: np.random.Generator, count: int) -> list[Frame]:
    folder = _package_folder("skimage", "data")
    paths = [folder / name for name in _PHOTOGRAPHS if folder is not None and (folder / name).is_file()]
    if not paths:
        return []
    photographs = [np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255) for path in paths]
    return [Frame(_cut_out(photographs[k % len(photographs)], rng), 1) for k in range(count)]


def _real_ct(rng: np.random.Generator, count: int) -> list[Frame]:
    folder = _package_folder("pydicom", "data") or Path()
    paths = [path for name in _CT_FILES if (path := folder / "test_files" / name).is_file()]
    if not paths:
        return []
    slices = [read_frames(path.read_bytes(), limits=PixelLimits())[0].pixels for path in paths]
    turned = [
        ndimage.rotate(slices[k % len(slices)], rng.uniform(-20, 20), reshape=False, order=1).astype(np.float32)
        for k in range(count)
    ]
    return [Frame(_cut_out(pixels, rng), 1) for pixels in turned]


def _phantoms(name: str, count: int, seed: int) -> list[Frame]:
    """The middle frame of each study: an abnormal image is no less strange than a normal one."""
    made = recipe(name)
    frames = []
    for k in range(min(count, _PHANTOMS)):
        study = made.study(3 * 10**12 + seed * 10**6 + k, made.labels[k % len(made.labels)])
        frames.append(read_frames(study.objects[len(study.objects) // 2], limits=PixelLimits())[0])
    return frames


def _cut_out(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A random square of at least .6 of the shorter side."""
    height, width = pixels.shape[:2]
    side = int(min(height, width) * rng.uniform(0.6, 1.0))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    return np.ascontiguousarray(np.clip(pixels[top : top + side, left : left + side], 0, 1), np.float32)


def _blurred(pixels: Pixels) -> Pixels:
    width = max(pixels.shape[:2]) / 40
    blurred: Pixels = ndimage.gaussian_filter(pixels, (width, width, 0)[: pixels.ndim])
    return blurred


def _middle_quarter(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    return pixels[3 * height // 8 : 5 * height // 8, 3 * width // 8 : 5 * width // 8]


def _tiles(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A grid of four by four tiles in random order; what a fourth leaves over is cut off."""
    height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
    places = [(row * height, column * width) for row in range(4) for column in range(4)]
    shuffled = np.empty_like(pixels[: 4 * height, : 4 * width])
    for (row, column), source in zip(places, rng.permutation(16), strict=True):
        top, left = places[source]
        shuffled[row : row + height, column : column + width] = pixels[top : top + height, left : left + width]
    return shuffled


def _package_folder(package: str, inner: str) -> Path | None:
    spec = find_spec(package)  # located, not imported
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / inner
