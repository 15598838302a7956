"""Every image file of pydicom and pydicom-data, rendered by us and by DCMTK."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dcmtk_rendering import DCMJ2PNM, DCML2PNM, GDCMCONV, rendered

from shared.errors import NotAnImageError, UndecodablePixelsError
from shared.pixels import Frame, PixelLimits, read_each, read_frames, read_header

pytestmark = pytest.mark.peers
LIMITS = PixelLimits()
BUNDLED = Path(pydicom.__file__).parent / "data"
EXTERNAL = importlib.util.find_spec("data_store")
STEP = 1 / 255
FRAMES = 12
"""At most, of each file."""

ROUNDING = 0.02 * STEP
"""DCMTK writes integers of 16 bits, we float32."""
UNCOMPRESSED_YCBCR = 2 * STEP
"""DCMTK converts in integers that it cuts off. Of JPEG frames both sides' colours are the same."""
WHOLE_VALUE = 1.0
"""DCMTK makes rescaled values whole numbers where the slope is none; of the window's width."""
NOT_COMPARED = {
    "SC_rgb_32bit": "DCMTK renders no colour of 32 bits",
    "SC_rgb_expb_32bit": "DCMTK renders no colour of 32 bits",
    "eCT_Supplemental": "DCMTK takes no window from functional groups",
    "gdcm-US-ALOKA-16": "DCMTK finds no palette in these tags",
    "rtdose_expb": "DCMTK takes the words of big-endian 32-bit cells in the other order",
    "emri_small_jpeg_2k_lossless_too_short": "DCMTK and GDCM want the sequence delimiter that is missing",
}
UNREADABLE = {
    "JPEG2000-embedded-sequence-delimiter.dcm",  # its code stream was damaged on purpose
    "MR_truncated.dcm",
    "SC_rgb_jpeg.dcm",  # native pixels under a JPEG transfer syntax
    "chrJapMulti.dcm",
    "chrJapMultiExplicitIR6.dcm",
    "chrKoreanMulti.dcm",
    "meta_missing_tsyntax.dcm",
    "nested_priv_SQ.dcm",
    "priv_SQ.dcm",
    "UN_sequence.dcm",
}
"""Images that are damaged, or whose pixels were left out."""


def is_image(path: Path) -> bool:
    try:
        next(read_each(path.read_bytes(), [1], limits=LIMITS))
    except NotAnImageError:
        return False
    except UndecodablePixelsError:
        pass
    return True


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and is_image(path))


FILES = files(BUNDLED) + (files(Path(EXTERNAL.origin).parent / "data") if EXTERNAL and EXTERNAL.origin else [])


def windowed(path: Path, folder: Path) -> Path:
    """The file with a window of its least to its greatest value, if it is grey and has none: fallbacks differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        is_grey = str(dataset.PhotometricInterpretation).startswith("MONOCHROME")
        if not is_grey or dataset.get("WindowCenter") is not None or dataset.get("VOILUTSequence"):
            return path
        if dataset.get("ModalityLUTSequence"):  # DCMTK's default, least to greatest value, is our fallback here
            return path
        try:
            least, most = float(dataset.pixel_array.min()), float(dataset.pixel_array.max())
        except (RuntimeError, ValueError):  # pydicom reads no 12-bit JPEG, and no Number of Frames of 1A
            least, most = 0.0, 2.0**dataset.BitsStored - 1
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        least, most = slope * least + intercept, slope * most + intercept
        dataset.WindowCenter, dataset.WindowWidth = (least + most + 1) / 2, most - least + 1
        dataset.save_as(folder / "windowed.dcm")
    return folder / "windowed.dcm"


def tolerance(path: Path, name: str) -> float:
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    if dataset.get("SamplesPerPixel") == 3 and "ybr" in name and "uncompressed" in name:
        return UNCOMPRESSED_YCBCR
    width = dataset.get("WindowWidth")
    slope = float(dataset.get("RescaleSlope", 1))
    if width and slope != int(slope):
        return ROUNDING + WHOLE_VALUE / float(width if isinstance(width, (int, float)) else width[0])
    return ROUNDING


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.name[:2] == "RG" else (), id=path.name) for path in FILES],
)
def test_a_file_looks_as_dcmtk_renders_it(path, tmp_path):
    missing = [command for command in (DCMJ2PNM, DCML2PNM, GDCMCONV) if not shutil.which(command)]
    if missing:
        if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{missing} not installed, and SIMILIS_REQUIRE_PEERS=1")
        pytest.skip(f"{missing} not installed")
    if path.name in UNREADABLE:
        with pytest.raises(UndecodablePixelsError):
            read_frames(path.read_bytes(), limits=LIMITS)
        return
    is_compared = not any(path.name.startswith(name) for name in NOT_COMPARED)
    shown_path = windowed(path, tmp_path) if is_compared else path
    data = shown_path.read_bytes()
    count = read_header(data, limits=LIMITS).number_of_frames
    ours = list(read_each(data, range(1, min(count, FRAMES) + 1), limits=LIMITS))
    assert all(isinstance(frame, Frame) for frame in ours), ours[0]
    if not is_compared:
        return
    theirs = rendered(shown_path, tmp_path, len(ours))
    assert theirs is not None
    assert len(theirs) == len(ours)
    for frame, other in zip(ours, theirs, strict=True):
        assert frame.pixels.shape == other.shape
        np.testing.assert_allclose(frame.pixels, other, rtol=0, atol=tolerance(shown_path, path.name))


TWINS = [
    ("rtdose_expb.dcm", "rtdose.dcm"),
    ("rtdose_expb_1frame.dcm", "rtdose_1frame.dcm"),
    ("rtdose_rle.dcm", "rtdose.dcm"),
    ("SC_rgb_rle_32bit_2frame.dcm", "SC_rgb_32bit_2frame.dcm"),
    ("SC_rgb_expb_32bit.dcm", "SC_rgb_rle_32bit.dcm"),
    ("gdcm-US-ALOKA-16_big.dcm", "gdcm-US-ALOKA-16.dcm"),
    ("emri_small_jpeg_2k_lossless_too_short.dcm", "emri_small_jpeg_2k_lossless.dcm"),
]
"""What DCMTK cannot judge, and the same pixels in another encoding."""


@pytest.mark.parametrize("names", TWINS, ids=lambda names: names[0])
def test_a_file_looks_as_its_twin_in_another_encoding(names):
    paths = [next(path for path in FILES if path.name == name) for name in names]
    ours, others = (read_frames(path.read_bytes(), limits=LIMITS) for path in paths)
    assert len(ours) == len(others) > 0
    for frame, other in zip(ours, others, strict=True):
        np.testing.assert_array_equal(frame.pixels, other.pixels)


def test_the_files_of_pydicom_data_were_among_them():
    assert EXTERNAL is not None
    assert len(FILES) > 150
