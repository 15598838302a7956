"""STOW-RS against strange bytes and strange cuts, over real sockets and within the process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import pytest
import stow_client as stow
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from listener_harness import Running, make_sample, make_settings
from stow_client import BOUNDARY, connect, dicom_file, head, message, read_all, receiving

from services.listener.answers import RefusedObjectError
from services.listener.file_meta import FileMetaReader
from services.listener.multipart_related import MalformedMultipartError, RelatedReader
from services.listener.ports import MemoryPublisher

CASES = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SAMPLES = [make_sample(study="1.2.3", series="1.2.3.4", sop=f"1.2.3.4.{number}") for number in range(3)]
FILES = [dicom_file(sample) for sample in SAMPLES]
VALID = message(*FILES)
# What the framing and the heads of files are made of.
WORDS = st.sampled_from(
    [
        *(b"\r\n", b"--", b"-", b"\r", b"\n", b": ", b"DICM", bytes(128)),
        *(b"a-boundary", b"--a-boundary", b"\r\n--a-boundary", b"--a-boundary\r\n\r\n", b"\r\n--a-boundary--"),
        b"Content-Type: application/dicom\r\n\r\n",
    ]
)
CONTENT = st.lists(WORDS | st.binary(max_size=20), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = {"stow": {"port": 0, "body_timeout_s": 5.0}, "study_quiet_s": 600.0}
    running = Running(make_settings(tmp_path_factory.mktemp("stow"), **options), MemoryPublisher())
    running.start()
    yield running
    running.stop()


class Parts:
    """Keeps the parts that came to their end."""

    def __init__(self) -> None:
        self.whole: list[tuple[str, bytes]] = []

    def begin(self, content_type: str) -> None:
        self._content_type, self._content = content_type, bytearray()

    def write(self, data: memoryview) -> None:
        self._content += data

    def end(self) -> None:
        self.whole.append((self._content_type, bytes(self._content)))


def read(pieces: Iterable[bytes]) -> tuple[list[tuple[str, bytes]], bool]:
    """The whole parts of a message that comes in these pieces, and whether it was well-formed."""
    parts = Parts()
    reader = RelatedReader(BOUNDARY, parts)
    try:
        for piece in pieces:
            reader.feed(piece)
        reader.finish()
    except MalformedMultipartError:
        return parts.whole, False
    return parts.whole, True


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(body) + 1) for cut in cuts} | {len(body)})
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@CASES
@given(contents=st.lists(CONTENT, max_size=3), cuts=st.lists(st.integers(min_value=0), max_size=20))
def test_a_message_reads_the_same_however_it_is_cut(contents: list[bytes], cuts: list[int]) -> None:
    body = message(*contents)
    whole = read([body])
    assert read(cut(body, cuts)) == whole
    assert read(bytes([byte]) for byte in body) == whole
    if not any(b"--" + BOUNDARY.encode() in content for content in contents):
        assert whole == ([("application/dicom", content) for content in contents], bool(contents) or whole[1])


def test_a_preamble_without_end_is_not_kept() -> None:
    reader = RelatedReader(BOUNDARY, Parts())
    reader.feed(b"x" * 3000)
    with pytest.raises(MalformedMultipartError):
        reader.feed(b"x" * 3000)


@CASES
@given(body=CONTENT, cuts=st.lists(st.integers(min_value=0), max_size=20))
def test_any_bytes_read_the_same_however_they_are_cut(body: bytes, cuts: list[int]) -> None:
    assert read(cut(body, cuts)) == read([body])


@CASES
@given(
    file=st.sampled_from(FILES)
    | st.binary(max_size=200).map(lambda data: bytes(128) + b"DICM" + data)
    | st.binary(max_size=300),
    cuts=st.lists(st.integers(min_value=0), max_size=10),
)
def test_a_files_head_reads_the_same_however_it_is_cut(file: bytes, cuts: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        reader, dataset = FileMetaReader(), None
        try:
            for piece in pieces:
                if dataset is None:
                    dataset = reader.feed(piece)
                else:
                    dataset += piece
        except RefusedObjectError as error:
            return str(error)
        return dataset, reader.meta

    assert outcome(cut(file, cuts)) == outcome([file])


def exchange(listener: Running, request: Iterable[bytes]) -> bytes:
    with connect(listener) as peer:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in request:
                peer.sendall(piece)
            peer.shutdown(1)
        return read_all(peer)


def statuses(answer: bytes) -> set[int]:
    """The statuses of an answer, which may be several of several requests; a closed connection is fine, too."""
    return {int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}


def close_after(length: int | None) -> bytes:
    return head(length).removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"


@CASES
@given(cuts=st.lists(st.integers(min_value=0), max_size=12), is_chunked=st.booleans())
def test_a_valid_request_is_stored_however_it_is_cut(listener: Running, cuts: list[int], is_chunked: bool) -> None:
    pieces = [piece for piece in cut(VALID, cuts) if piece]
    if is_chunked:
        pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    answer = exchange(listener, [close_after(None if is_chunked else len(VALID)), *pieces])
    assert statuses(answer) == {200}
    assert len(listener.journal_files) == 3
    assert receiving(listener) == []


@CASES
@given(body=CONTENT | st.binary(max_size=300), is_wrapped=st.booleans())
@example(body=VALID + VALID, is_wrapped=False)
def test_any_body_is_answered_and_leaves_nothing_half_done(listener: Running, body: bytes, is_wrapped: bool) -> None:
    sent = message(body) if is_wrapped else body
    answer = exchange(listener, [close_after(len(sent)), sent])
    assert statuses(answer) <= {200, 202, 400, 409}
    assert statuses(answer)
    assert receiving(listener) == []


@CASES
@given(
    edits=st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 12), CONTENT), min_size=1, max_size=4),
)
def test_a_mutated_request_stores_only_what_is_answered_as_stored(
    listener: Running, edits: list[tuple[int, int, bytes]]
) -> None:
    body = VALID
    for position, length, instead in edits:
        start = position % len(body)
        body = body[:start] + instead + body[start + length :]
    before = set(listener.journal_files)
    answer = exchange(listener, [close_after(len(body)), body])
    (status,) = statuses(answer)
    assert status in (200, 202, 400, 409)
    if status != 400:
        response = stow.status_and_body(answer)[1]
        named = [item["00081155"]["Value"][0] for item in response.get("00081199", {}).get("Value", [])]
        assert {path.name.rsplit(".", 3)[0] for path in set(listener.journal_files) - before} <= set(named)
    assert receiving(listener) == []


@CASES
@given(data=st.binary(max_size=200), at=st.integers(min_value=0), length=st.integers(0, 10))
def test_any_bytes_for_http_are_no_harm(listener: Running, data: bytes, at: int, length: int) -> None:
    request = head(len(VALID)) + VALID
    start = at % len(head(len(VALID)))
    answer = exchange(listener, [request[:start] + data + request[start + length :]])
    assert not any(status >= 500 for status in statuses(answer))


def test_after_all_of_it_the_door_still_works(listener: Running) -> None:
    sample = make_sample()
    assert stow.store(listener, sample).status_code == 200
    assert receiving(listener) == []
