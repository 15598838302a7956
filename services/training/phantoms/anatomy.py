"""Anatomy: a real head's tissue, from the T1 template that nilearn ships or from a NIfTI file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.errors import ConfigurationError

ICBM152: Final = "icbm152-2009a"
MARGIN_MM: Final = 24  # room for skull and scalp around a skull-stripped brain
_ICBM_FILE: Final = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_COARSE_MM: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """One anatomy on grids whose axes run to the right, to the front and to the top (RAS).

    Attributes:
        name: What it is, as the model card calls it.
        sha256: Of the files it was read from.
        tissue: float32 (X, Y, Z), 1 mm: 0 cerebrospinal fluid, 1 grey matter, 2 white matter, in between mixtures.
        surface_mm: float32 (X/3, Y/3, Z/3), 3 mm: signed distance to the brain's surface, positive outside.
        centre: (3,) voxel of `tissue` in the middle of the brain's bounding box.
    """

    name: str
    sha256: str
    tissue: NDArray[np.float32]
    surface_mm: NDArray[np.float32]
    centre: NDArray[np.float64]

    def sample_tissue(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Tissue at `points` (3, ...), in mm from the centre; 0 outside the grid."""
        return _sample(self.tissue, points, self.centre, 1.0, 0.0)

    def sample_surface_mm(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Signed distance in mm to the brain's surface at `points` (3, ...), in mm from the centre."""
        return _sample(self.surface_mm, points, self.centre, float(_COARSE_MM), 99.0)


def _sample(
    grid: NDArray[np.float32], points: NDArray[np.float64], centre: NDArray[np.float64], step_mm: float, outside: float
) -> NDArray[np.float32]:
    offset = centre.reshape(3, *(1,) * (points.ndim - 1)) - (step_mm - 1) / 2
    sampled: NDArray[np.float32] = ndimage.map_coordinates(
        grid, (points + offset) / step_mm, order=1, mode="constant", cval=outside, output=np.float32
    )
    return sampled


@lru_cache(maxsize=1)
def icbm152() -> Anatomy:
    """The ICBM152 2009a symmetric template that nilearn ships, with its grey and white matter maps.

    Raises:
        ConfigurationError: nilearn is not installed, or lacks the files.
    """
    spec = find_spec("nilearn")  # located, not imported: the import costs seconds
    if spec is None or spec.origin is None:
        raise ConfigurationError("the brain template comes with nilearn: install similis[train]")
    data = Path(spec.origin).parent / "datasets" / "data"
    files = [data / _ICBM_FILE.format(kind) for kind in ("t1", "gm", "wm")]
    t1, grey, white = (_read_ras_1mm(file) for file in files)
    brain = (t1 > 0) & (grey + white > 12)
    maps = (grey + 2 * white) / np.maximum(grey + white, 255.0)
    # The maps are crisper than the averaged T1, which still holds the deep nuclei: half of each.
    return _build(ICBM152, files, 0.5 * maps + 0.5 * _tissue_of(t1, brain), brain)


def from_nifti(path: Path, name: str | None = None) -> Anatomy:
    """An anatomy from a skull-stripped T1 volume.

    Raises:
        ConfigurationError: the file can't be read, or is no skull-stripped volume.
    """
    t1 = _read_ras_1mm(path)
    brain = t1 > 0
    if not 0.02 < brain.mean() < 0.7:
        raise ConfigurationError(f"{path}: expected a skull-stripped T1 volume, with zeros outside the brain")
    return _build(name or path.name.removesuffix(".gz").removesuffix(".nii"), [path], _tissue_of(t1, brain), brain)


def _read_ras_1mm(path: Path) -> NDArray[np.float32]:
    """The volume of `path`, (X, Y, Z) in RAS order, resampled to 1 mm if it is not."""
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
        volume = np.asarray(image.dataobj, dtype=np.float32)
        zooms = tuple(float(zoom) for zoom in image.header.get_zooms()[:3])
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise ConfigurationError(f"{path}: not a readable NIfTI volume: {error}") from error
    while volume.ndim > 3:
        volume = volume[..., 0]
    if any(abs(zoom - 1) > 0.01 for zoom in zooms):
        volume = ndimage.zoom(volume, zooms, order=1)
    return volume


def _tissue_of(t1: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """T1 signal -> tissue scale: one-dimensional k-means finds the three means, straight lines join them."""
    values = t1[brain][::31]
    means = np.quantile(values, (0.05, 0.4, 0.85))
    for _ in range(30):
        nearest = np.abs(values[:, None] - means).argmin(axis=1)
        means = np.array([values[nearest == k].mean() if np.any(nearest == k) else means[k] for k in range(3)])
    fluid, grey, white = means
    knots = (0.5 * fluid, fluid, grey, white, white + (white - grey))
    tissue = np.zeros_like(t1)
    tissue[brain] = np.interp(t1[brain], knots, (0.0, 0.15, 1.0, 2.0, 2.3))
    return tissue


def _build(name: str, files: list[Path], tissue: NDArray[np.float32], brain: NDArray[np.bool_]) -> Anatomy:
    brain = np.pad(brain, MARGIN_MM + 8)
    tissue = np.pad(tissue, MARGIN_MM + 8)
    brain = np.pad(brain, [(0, -size % _COARSE_MM) for size in brain.shape])
    coarse = brain.reshape(*(part for size in brain.shape for part in (size // _COARSE_MM, _COARSE_MM)))
    inside = coarse.mean(axis=(1, 3, 5)) > 0.5
    # Sulci and the fissure are inside the skull: close them, then fill the ventricles.
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(inside, iterations=3))
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    surface = ndimage.gaussian_filter((distance * _COARSE_MM).astype(np.float32), 0.8)
    filled = np.argwhere(inside)
    centre = (filled.min(axis=0) + filled.max(axis=0)) / 2 * _COARSE_MM
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return Anatomy(name, digest.hexdigest(), tissue.astype(np.float32), surface, centre)
