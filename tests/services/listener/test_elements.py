"""The walk over a data set's bytes."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listener_harness import encode, make_dataset
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from services.listener.answers import Outcome, RefusedObjectError
from services.listener.elements import BytesSource
from services.listener.elements import walk as walk_source

SOP = 0x00080018


def walk(data: bytes, syntax: str, wanted: set[int], *, max_bytes: int) -> Mapping[int, bytes]:
    return walk_source(BytesSource(data), syntax, wanted, max_bytes=max_bytes)


DEFLATED = "1.2.840.10008.1.2.1.99"
FILES = (
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_RLE.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_16.dcm",
    "image_dfl.dcm",
    "liver_1frame.dcm",
    "reportsi.dcm",
    "rtdose.dcm",
    "rtplan.dcm",
    "rtstruct.dcm",
    "SC_rgb_rle_2frame.dcm",
    "UN_sequence.dcm",
    "waveform_ecg.dcm",
)


def split(name: str) -> tuple[Dataset, str, bytes]:
    path = Path(get_testdata_file(name, download=False))
    raw = path.read_bytes()
    ds = dcmread(path, force=True)
    syntax = str(ds.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
    if raw[128:132] != b"DICM":
        return ds, syntax, raw
    return ds, syntax, raw[144 + struct.unpack_from("<I", raw, 140)[0] :]


def nested() -> Dataset:
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    inner = Dataset()
    inner.CodeValue = "T-A0100"
    outer = Dataset()
    outer.ConceptCodeSequence = [inner]
    outer["ConceptCodeSequence"].is_undefined_length = True
    ds.ReferencedImageSequence = [outer, outer]
    ds["ReferencedImageSequence"].is_undefined_length = True
    return ds


def boundaries(ds: Dataset, syntax: str) -> set[int]:
    """Where the top level's elements end."""
    found, prefix = set(), Dataset()
    for element in ds:
        prefix.add(element)
        found.add(len(encode(prefix, syntax)))
    return found


@pytest.mark.parametrize("name", FILES)
def test_real_files_are_walked_to_their_end(name: str) -> None:
    try:
        ds, syntax, dataset = split(name)
    except (ValueError, FileNotFoundError):
        pytest.fail(f"{name} does not come with this pydicom")
    found = walk(dataset, syntax, {SOP}, max_bytes=1 << 26)
    assert found.get(SOP, b"").rstrip(b"\0").decode() == ds.get("SOPInstanceUID", "")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lost_its_last_bytes_is_noticed(name: str) -> None:
    _, syntax, dataset = split(name)
    # What follows a deflated stream is padding, which may be lost.
    for lost in (20, 100) if syntax == DEFLATED else (1, 2, 3, 5):
        with pytest.raises(RefusedObjectError) as caught:
            walk(dataset[:-lost], syntax, {SOP}, max_bytes=1 << 26)
        assert caught.value.answer.outcome is Outcome.MALFORMED


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_cut_is_noticed_except_between_elements_of_the_top_level(syntax: str) -> None:
    dataset = encode(nested(), syntax)
    unnoticed = set()
    for cut in range(1, len(dataset)):
        try:
            walk(dataset[:cut], syntax, {SOP}, max_bytes=1 << 20)
        except RefusedObjectError:
            continue
        unnoticed.add(cut)
    ends = boundaries(nested(), syntax) - {len(dataset)}
    assert ends <= unnoticed
    # Zeros after an element are padding, and a big-endian tag begins with one.
    assert all(any(not any(dataset[end:cut]) for end in ends if end <= cut) for cut in unnoticed - {1})


@given(st.binary(max_size=600), st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian, DEFLATED]))
def test_garbage_is_walked_or_refused_and_nothing_else(data: bytes, syntax: str) -> None:
    with contextlib.suppress(RefusedObjectError):
        walk(data, syntax, {SOP}, max_bytes=10_000)


@given(st.data())
def test_a_flipped_byte_is_walked_or_refused_and_nothing_else(draw: st.DataObject) -> None:
    dataset = bytearray(encode(nested()))
    dataset[draw.draw(st.integers(0, len(dataset) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(RefusedObjectError):
        walk(bytes(dataset), ExplicitVRLittleEndian, {SOP}, max_bytes=10_000)


def test_a_deflation_bomb_is_refused_without_being_inflated() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush()
    with pytest.raises(RefusedObjectError) as caught:
        walk(bomb, DEFLATED, {SOP}, max_bytes=100_000)
    assert caught.value.answer.outcome is Outcome.TOO_LARGE


def test_deep_nesting_is_refused_and_does_not_exhaust_the_stack() -> None:
    step = struct.pack("<HHI", 0x0040, 0xA730, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(RefusedObjectError, match="deeply"):
        walk(step * 100_000, ImplicitVRLittleEndian, {SOP}, max_bytes=1 << 24)
