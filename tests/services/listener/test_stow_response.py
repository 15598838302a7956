"""What a Store transaction is answered with, and what the head of a DICOM file must say."""

from __future__ import annotations

import json
import struct

import pytest
from listener_harness import MR, make_sample
from stow_client import dicom_file

from services.listener.answers import Answer, Outcome, RefusedObjectError
from services.listener.file_meta import FileMeta, FileMetaReader
from services.listener.multipart_related import parse_media_type
from services.listener.stow_response import (
    DICOM_JSON,
    DICOM_XML,
    InstanceResult,
    choose_media_type,
    problem,
    response_to,
    status_of,
)


def results(*outcomes: Outcome) -> list[InstanceResult]:
    return [InstanceResult(MR, f"1.2.{number}", Answer(outcome)) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([Outcome.STORED], 200),
        ([Outcome.STORED, Outcome.DUPLICATE, Outcome.SET_ASIDE, Outcome.DROPPED], 200),
        ([Outcome.STORED, Outcome.NO_SPACE], 202),
        ([Outcome.NO_SPACE, Outcome.NO_SPACE], 503),
        ([Outcome.NO_SPACE, Outcome.MALFORMED], 409),
        ([Outcome.TOO_LARGE], 413),
        ([Outcome.CONFLICT], 409),
        ([Outcome.FAILED], 409),
    ],
)
def test_the_status_says_how_much_was_stored(outcomes: list[Outcome], status: int) -> None:
    answered = response_to(results(*outcomes), DICOM_JSON)
    assert (status_of(results(*outcomes)), answered.status_code) == (status, status)
    assert ("retry-after" in answered.headers) == (status == 503)


def test_every_failure_has_a_reason_that_is_no_success() -> None:
    for outcome in set(Outcome) - {Outcome.STORED, Outcome.DUPLICATE, Outcome.SET_ASIDE, Outcome.DROPPED}:
        content = json.loads(response_to(results(outcome), DICOM_JSON).body)
        (item,) = content["00081198"]["Value"]
        assert item["00081197"]["Value"] == [Answer(outcome).status] != [0]
        assert item["00081155"]["Value"] == ["1.2.0"]
        assert "00081199" not in content


@pytest.mark.parametrize("uid", ["", "A^B", "1.2.840.10008.1.2 ", "../etc", "1" * 65])
def test_what_is_no_uid_is_in_no_response(uid: str) -> None:
    for result in (
        InstanceResult(MR, uid, Answer(Outcome.MALFORMED)),
        InstanceResult(uid, "1.2", Answer(Outcome.MALFORMED)),
    ):
        content = json.loads(response_to([result], DICOM_JSON).body)
        assert content["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]
        assert "00081198" not in content


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", DICOM_JSON),
        ("*/*", DICOM_JSON),
        ("application/json", DICOM_JSON),
        ("application/dicom+json", DICOM_JSON),
        ("application/dicom+xml", DICOM_XML),
        ("application/dicom+xml, application/dicom+json", DICOM_JSON),
        ("application/dicom+xml, application/dicom+json;q=0.9", DICOM_XML),
        ("application/dicom+xml, */*;q=0.1", DICOM_XML),
        ("text/html, application/*;q=0.2", DICOM_JSON),
        ("text/html", None),
        ("application/dicom+json;q=0, */*", None),
        ("application/dicom+json;q=nonsense", None),
        (",;=,", None),
    ],
)
def test_the_media_type_is_the_one_that_the_client_prefers(accept: str, chosen: str | None) -> None:
    assert choose_media_type(accept) == chosen


def test_a_problem_is_json_of_its_own_type() -> None:
    response = problem(413, "too long")
    assert json.loads(response.body) == {"title": "The request is too large", "status": 413, "detail": "too long"}
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("header", "name", "boundary"),
    [
        ('Multipart/Related; Type="application/dicom"; Boundary="a b"', "multipart/related", "a b"),
        ("multipart/related;boundary=abc", "multipart/related", "abc"),
        ("", "", None),
        (";;;=", "", None),
    ],
)
def test_a_media_type_is_read_with_its_parameters(header: str, name: str, boundary: str | None) -> None:
    media_type = parse_media_type(header)
    assert (media_type.name, media_type.parameters.get("boundary")) == (name, boundary)


def element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr in (b"OB", b"UN"):
        return struct.pack("<HH2s2xI", 2, number, vr, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def file(group: bytes, *, length: int | None = None, dataset: bytes = b"\x08\0\x16\0UI\0\0") -> bytes:
    total = element(0, b"UL", struct.pack("<I", len(group) if length is None else length))
    return bytes(128) + b"DICM" + total + group + dataset


GROUP = (
    element(1, b"OB", b"\0\1")
    + element(2, b"UI", b"1.2\0")
    + element(3, b"UI", b"1.3\0")
    + element(16, b"UI", b"1.4\0")
)


def test_a_files_head_is_read_to_its_data_set() -> None:
    reader = FileMetaReader()
    assert reader.feed(file(GROUP + element(0x102, b"OB", b"\1" * 40))) == b"\x08\0\x16\0UI\0\0"
    assert reader.meta == FileMeta("1.2", "1.3", "1.4")


def test_a_head_without_its_length_ends_before_the_next_group() -> None:
    content = bytes(128) + b"DICM" + GROUP
    reader = FileMetaReader()
    found = [reader.feed(bytes([byte])) for byte in content + b"\x08\0\x16\0UI\0\0"]
    assert found == [None] * (len(found) - 1) + [b"\x08\0\x16\0UI\0\0"]
    assert reader.meta == FileMeta("1.2", "1.3", "1.4")


def test_a_data_set_that_looks_like_the_head_is_told_from_it_by_the_length() -> None:
    deflated = element(3, b"UI", b"9.9\0") + b"more"
    reader = FileMetaReader()
    assert reader.feed(file(GROUP, dataset=deflated)) == deflated
    assert reader.meta.sop_instance_uid == "1.3"


@pytest.mark.parametrize(
    "content",
    [
        bytes(200),
        file(GROUP, length=len(GROUP) + 4),
        file(GROUP, length=len(GROUP) - 4),
        file(GROUP, length=1 << 20) + bytes(1 << 17),
        file(element(0x102, b"OB", bytes(1 << 17))),
        file(element(0x102, b"OB", bytes(1000)) * 100),
        file(element(2, b"\0\0", b"1.2\0")),
        file(b"\x08\0\x16\0UI\0\0"),
        bytes(128) + b"DICM\x08\0\x16\0UI\0\0",
        bytes(128) + b"DICM" + element(0, b"UL", b"\1\0") + GROUP,
    ],
)
def test_what_is_no_head_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedObjectError):
        FileMetaReader().feed(content + bytes(100))


def test_a_value_that_is_no_uid_is_not_kept_whole() -> None:
    reader = FileMetaReader()
    reader.feed(file(element(2, b"UI", b"1" * 30_000) + element(3, b"UI", b"1" * 64)))
    assert len(reader.meta.sop_class_uid) < 70
    assert len(reader.meta.sop_class_uid) > 64
    assert reader.meta.sop_instance_uid == "1" * 64


def test_the_harness_makes_files_that_are_read() -> None:
    sample = make_sample()
    reader = FileMetaReader()
    assert reader.feed(dicom_file(sample)) == sample.dataset
    assert reader.meta == FileMeta(MR, sample.sop, sample.transfer_syntax)
