"""The quick way through a data set gives what pydicom's general one gives, or leaves the object to it."""

from __future__ import annotations

import copy
import importlib.util
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from synthetic_images import NATIVE, image, part10

from shared.pixels.quick_dataset import QuickDataset, quick_dataset

EXTERNAL = importlib.util.find_spec("data_store")
FOLDERS = [Path(pydicom.__file__).parent / "data"]
if EXTERNAL and EXTERNAL.origin:
    FOLDERS.append(Path(EXTERNAL.origin).parent / "data")
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.dcm") if path.stat().st_size < 4_000_000)
PIXELS = np.arange(64, dtype="<u2").reshape(8, 8)
# Elements of every kind that `get` reads itself, in an object with a nested sequence and a character set.
NESTED = Dataset()
NESTED.WindowCenter, NESTED.PatientName = [40, 50], "Grün"
OBJECT = image(
    PIXELS,
    SpecificCharacterSet="ISO_IR 100",
    RescaleSlope="1.5",
    RescaleIntercept=" -1024.0E0 ",
    PixelPaddingValue=63,
    WindowCenter=["40", "50"],
    WindowWidth=["400", ""],
    NumberOfFrames="1",
    PresentationLUTShape="IDENTITY",
    ImageType=["DERIVED", "PRIMARY"],
    FrameVOILUTSequence=Sequence([NESTED]),
)


def written(syntax: str = ExplicitVRLittleEndian) -> bytes:
    return part10(copy.deepcopy(OBJECT), syntax)


def by_pydicom(data: bytes) -> tuple[Dataset, int]:
    stream = io.BytesIO(data)
    return dcmread(stream, stop_before_pixels=True), stream.tell()


def assert_the_same(data: bytes) -> bool:
    """Whether the quick way took the object, once it is seen to agree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (quick := quick_dataset(data)) is None:
            return False
        dataset, at = quick
        expected, expected_at = by_pydicom(data)
        assert at == expected_at
        assert dataset.transfer_syntax == expected.file_meta.TransferSyntaxUID
        assert dataset.original_encoding == expected.original_encoding
        assert dataset.original_character_set == expected.original_character_set
        assert list(dataset.keys()) == list(expected.keys())
        tags = list(expected.keys())
        for tag in tags:
            assert_equal_values(dataset, expected, keyword_for_tag(tag))
        for tag in tags:  # now by pydicom's own conversion
            assert outcome(lambda tag=tag: dataset[tag]) == outcome(lambda tag=tag: expected[tag])
        return True


def assert_equal_values(dataset: Dataset, expected: Dataset, keyword: str) -> None:
    if keyword:
        found, wanted = outcome(lambda: dataset.get(keyword)), outcome(lambda: expected.get(keyword))
        assert found == wanted or (found != found and wanted != wanted), keyword


def outcome(action):
    """What it gives, or how it fails: pydicom raises nearly anything on odd values."""
    try:
        return action()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in FILES])
def test_every_file_reads_as_with_pydicom(path):
    assert_the_same(path.read_bytes())


def test_most_image_files_take_the_quick_way():
    taken = [quick_dataset(path.read_bytes()) is not None for path in FILES]
    assert sum(taken) > 0.6 * len(FILES)


@pytest.mark.parametrize("syntax", NATIVE)
def test_little_endian_objects_take_the_quick_way(syntax):
    is_quick = syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    assert assert_the_same(written(syntax)) is is_quick


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_sequences_of_undefined_length_are_read_on_the_way(syntax):
    dataset = dcmread(io.BytesIO(written(syntax)))
    dataset["FrameVOILUTSequence"].is_undefined_length = True
    dataset.FrameVOILUTSequence[0].is_undefined_length_sequence_item = True
    data = part10(dataset, syntax)
    assert b"\xff\xff\xff\xff" in data
    assert assert_the_same(data)
    found, _ = quick_dataset(data)
    assert found.get("FrameVOILUTSequence")[0].PatientName == "Grün"


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("WindowCenter", b"40", 40.0),
        ("WindowCenter", b" -1.5E+2 ", -150.0),
        ("WindowCenter", b"40\\50 ", [40.0, 50.0]),
        ("NumberOfFrames", b"12  ", 12),
        ("PresentationLUTShape", b"INVERSE ", "INVERSE"),
        ("PresentationLUTShape", b"A\\B ", ["A", "B"]),
        ("Rows", b"\x01\x02", 513),
        ("Rows", b"\x01\x02\x03\x04", [513, 1027]),
        ("Rows", b"", None),
        ("WindowCenter", b"", None),
        ("Modality", b"", ""),
    ],
)
def test_values_are_those_that_pydicom_reads(keyword, value, expected):
    tag = tag_for_keyword(keyword)
    file = part10(image(PIXELS))
    start = quick_dataset(file)[1]
    body = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, dictionary_VR(tag).encode(), len(value)) + value
    data = file[:start] + body + file[start:]
    assert assert_the_same(data)
    found = quick_dataset(data)[0].get(keyword)
    assert (list(found) if isinstance(found, MultiValue) else found) == expected


def test_what_is_not_there_is_not_asked_of_pydicom(monkeypatch):
    dataset, _ = quick_dataset(part10(image(PIXELS)))
    monkeypatch.setattr(Dataset, "get", None)
    assert dataset.get("PixelSpacing") is None
    assert dataset.get("PixelSpacing", 7) == 7
    assert dataset.get("Rows") == 8
    assert isinstance(dataset, QuickDataset)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:128] + b"XXXX" + data[132:],
        lambda data: data[: data.index(b"\xe0\x7f\x10\x00")],
        lambda data: data.replace(b"CS", b"C?", 1),
        lambda data: data.replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"),
        lambda data: data.replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.9.9.9"),
        lambda data: data[:200],
        lambda data: b"",
    ],
    ids=["preamble", "no pixels", "value representation", "big-endian", "unknown syntax", "cut off", "empty"],
)
def test_an_unusual_object_is_left_to_pydicom(damage):
    assert quick_dataset(damage(written())) is None


def test_big_endian_is_left_to_pydicom():
    assert quick_dataset(written(ExplicitVRBigEndian)) is None


@given(
    place=st.integers(132, 900),
    bytes_=st.binary(min_size=1, max_size=6),
    syntax=st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_object_reads_as_with_pydicom_or_is_left_to_it(place, bytes_, syntax):
    data = written(syntax)
    place = min(place, data.index(b"\xe0\x7f\x10\x00") + 8)
    assert_the_same(data[:place] + bytes_ + data[place + len(bytes_) :])
