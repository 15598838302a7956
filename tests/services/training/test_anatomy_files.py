from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from services.training.phantoms import anatomy_files
from services.training.phantoms.anatomy import from_nifti
from services.training.phantoms.anatomy_files import KNOWN, AnatomyFile, prepare_anatomies, prepared_anatomies
from shared.errors import ConfigurationError

SHAPE = (60, 70, 50)


def radius() -> np.ndarray:
    middle = np.array(SHAPE).reshape(3, 1, 1, 1) / 2
    return np.linalg.norm(np.indices(SHAPE) - middle, axis=0)


def nifti(values: np.ndarray) -> bytes:
    image = nibabel.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    return gzip.compress(image.to_bytes(), mtime=0)


@pytest.fixture
def brain() -> bytes:
    return nifti(np.select([radius() < 8, radius() < 17, radius() < 22], [30, 110, 80], 0))


@pytest.fixture
def head() -> bytes:
    """A brain in a bright skull on a background that is not 0."""
    return nifti(np.select([radius() < 8, radius() < 17, radius() < 22, radius() < 24], [30, 110, 80, 200], 3))


@pytest.fixture
def mask() -> bytes:
    return nifti(radius() < 22)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_wheel_s_volume_and_mask_become_a_skull_stripped_anatomy(
    head: bytes, mask: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = AnatomyFile("someone", "a wheel", sha256(head), sha256(mask))
    monkeypatch.setattr(anatomy_files, "KNOWN", (known,))
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/t1.nii.gz", head)
        archive.writestr("package/mask.nii.gz", mask)
        archive.writestr("package/code.py", "")
    (path,) = prepare_anatomies([wheel], tmp_path / "anatomies")
    assert path.name == "someone.nii.gz"
    first = path.read_bytes()
    stripped = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(stripped > 0, radius() < 22)
    assert stripped.max() < 200
    assert from_nifti(path).name == "someone"
    prepare_anatomies([wheel], tmp_path / "anatomies")
    assert path.read_bytes() == first


def test_ripples_outside_the_brain_are_cut_at_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rippled = np.select([radius() < 22, radius() > 28], [100, 12], 0)
    rippled[0, 0, 0] = 90  # bright, but apart
    data = nifti(rippled)
    monkeypatch.setattr(anatomy_files, "KNOWN", (AnatomyFile("mean", "a tarball", sha256(data), floor=30.0),))
    tarball = tmp_path / "package.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        member = tarfile.TarInfo("package/mean.nii.gz")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    (path,) = prepare_anatomies([tarball], tmp_path / "anatomies")
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj) > 0, radius() < 22)


def test_a_skull_stripped_volume_that_nobody_knows_goes_by_its_file_s_name(brain: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.nii.gz").write_bytes(brain)
    prepare_anatomies([tmp_path / "mine.nii.gz"], tmp_path / "anatomies")
    assert list(prepared_anatomies(tmp_path / "anatomies")) == ["mine"]


def test_known_anatomies_come_first_and_in_a_steady_order(tmp_path: Path) -> None:
    for name in ("zebra", "ape", *(anatomy.name for anatomy in reversed(KNOWN))):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / ".partial-colin27.nii.gz.tmp").touch()
    assert list(prepared_anatomies(tmp_path)) == [*(anatomy.name for anatomy in KNOWN), "ape", "zebra"]


@pytest.mark.parametrize("content", [b"", b"no volume", b"PK\x03\x04 broken"])
def test_what_is_no_volume_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(content)
    with pytest.raises(ConfigurationError):
        prepare_anatomies([tmp_path / "broken.nii.gz"], tmp_path / "anatomies")
    assert not list((tmp_path / "anatomies").iterdir())


def test_a_head_with_its_skull_is_refused(tmp_path: Path) -> None:
    (tmp_path / "head.nii.gz").write_bytes(nifti(np.ones(SHAPE)))
    with pytest.raises(ConfigurationError, match="skull-stripped"):
        prepare_anatomies([tmp_path / "head.nii.gz"], tmp_path / "anatomies")
