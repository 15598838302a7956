"""Requests for storage commitment as bytes: read in every form that the Standard allows, refused in any other."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode

from services.listener import commitment_requests
from services.listener.commitment_requests import (
    CommitmentRequestError,
    Reference,
    TooManyReferencesError,
    read_request,
)
from shared.ids import is_valid_uid

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
REFERENCES = tuple(Reference("1.2.840.10008.5.1.4.1.1.4", f"1.2.3.{number}") for number in range(3))


def item(reference: Reference) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = reference
    return ds


def request(*, undefined: bool = False) -> Dataset:
    ds = Dataset()
    ds.StorageMediaFileSetID = "X"
    ds.TransactionUID = "1.2.3"
    ds.ReferencedSOPSequence = [item(reference) for reference in REFERENCES]
    ds.ReferencedPerformedProcedureStepSequence = [item(REFERENCES[0])]
    ds.add_new(0x00091001, "SQ", [item(REFERENCES[1])])
    if undefined:
        for element in (ds["ReferencedSOPSequence"], ds[0x00091001]):
            element.is_undefined_length = True
            for one in element.value:
                one.is_undefined_length_sequence_item = True
    return ds


def encoded(ds: Dataset, syntax: str) -> bytes:
    uid = next(one for one in SYNTAXES if one == syntax)
    data = encode(ds, uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated)
    assert data is not None
    return data


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_requests_are_read_in_each_transfer_syntax_and_both_kinds_of_length(syntax: str, undefined: bool) -> None:
    assert read_request(encoded(request(undefined=undefined), syntax), syntax) == ("1.2.3", REFERENCES)


def test_a_sequence_of_unknown_vr_is_read_as_implicit() -> None:
    plain = Dataset()
    plain.TransactionUID = "1.2.3"
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
        for body in (encoded(item(reference), ImplicitVRLittleEndian) for reference in REFERENCES)
    )
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1199, b"UN", 0, len(items)) + items
    data = encoded(plain, ExplicitVRLittleEndian) + sequence
    assert read_request(data, ExplicitVRLittleEndian) == ("1.2.3", REFERENCES)


def test_a_truncated_request_is_refused_at_every_length() -> None:
    for syntax in SYNTAXES:
        ds = request()
        del ds[0x00091001], ds["ReferencedPerformedProcedureStepSequence"], ds["StorageMediaFileSetID"]
        data = encoded(ds, syntax)
        end = len(data) - (syntax == DeflatedExplicitVRLittleEndian)  # which may end with a byte of padding
        for length in range(end):
            with pytest.raises(CommitmentRequestError):
                read_request(data[:length], syntax)


def test_nested_sequences_do_not_exhaust_the_stack() -> None:
    opened = struct.pack("<HHI", 0x0008, 0x1115, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(CommitmentRequestError, match="nested"):
        read_request(opened * 100_000, ImplicitVRLittleEndian)


def test_a_request_that_inflates_to_too_much_is_refused() -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(b"\0" * (commitment_requests._MAX_INFLATED_BYTES + 1)) + deflater.flush()
    assert len(bomb) < 100_000
    with pytest.raises(CommitmentRequestError, match="too long"):
        read_request(bomb, DeflatedExplicitVRLittleEndian)


def test_more_instances_than_the_limit_are_refused() -> None:
    ds = Dataset()
    ds.TransactionUID = "1.2.3"
    empty = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * (commitment_requests.MAX_REFERENCES + 1)
    data = encoded(ds, ImplicitVRLittleEndian) + struct.pack("<HHI", 0x0008, 0x1199, len(empty)) + empty
    with pytest.raises(TooManyReferencesError):
        read_request(data, ImplicitVRLittleEndian)


def check(data: bytes, syntax: str) -> None:
    """Either it is refused, or all that it says can be stored, compared and used as a file's name."""
    try:
        transaction, references = read_request(data, syntax)
    except CommitmentRequestError:
        return
    assert is_valid_uid(transaction)
    assert references
    assert all(is_valid_uid(uid) for reference in references for uid in reference)


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=400), syntax=st.sampled_from(SYNTAXES))
@example(data=b"", syntax=ExplicitVRLittleEndian)
def test_garbage_is_refused(data: bytes, syntax: str) -> None:
    check(data, syntax)


@settings(max_examples=1000, deadline=None)
@given(
    syntax=st.sampled_from(SYNTAXES),
    undefined=st.booleans(),
    changes=st.lists(
        st.tuples(st.sampled_from(["set", "cut", "insert"]), st.integers(0, 1000), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=6,
    ),
)
def test_a_request_that_was_changed_anywhere_is_read_or_refused(
    syntax: str, undefined: bool, changes: list[tuple[str, int, bytes]]
) -> None:
    data = bytearray(encoded(request(undefined=undefined), syntax))
    for kind, at, piece in changes:
        position = at % (len(data) + 1)
        if kind == "insert":
            data[position:position] = piece
        elif kind == "cut":
            del data[position : position + len(piece)]
        else:
            data[position : position + len(piece)] = piece
    check(bytes(data), syntax)
