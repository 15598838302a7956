"""multipart/related messages, read as they arrive: RFC 2387, PS3.18 section 8.6.1.2.

The framing is read by python-multipart, which knows form-data only by its name. Nothing of a part is
held back but what might be the beginning of a delimiter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

# RFC 2046 section 5.1.1.
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_MAX_HEADERS: Final = 16
_MAX_HEADER_BYTES: Final = 1024
_MAX_PREAMBLE_BYTES: Final = 4096


class MalformedMultipartError(Exception):
    """The message breaks the rules of multipart messages."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type in lower case, and its parameters as they are: RFC 9110 section 8.3.1."""

    name: str
    parameters: Mapping[str, str]


def parse_media_type(header: str) -> MediaType:
    """Read a Content-Type's value; one without sense has a name that is no media type's."""
    name, parameters = parse_options_header(header)
    return MediaType(
        name.decode("latin-1").strip(),
        {key.decode("latin-1").strip().lower(): value.decode("latin-1").strip() for key, value in parameters.items()},
    )


class PartSink(Protocol):
    """Takes the parts of a message, one after another."""

    def begin(self, content_type: str) -> None:
        """A part begins; its Content-Type is empty if it has none."""

    def write(self, data: memoryview) -> None:
        """A piece of the part's content, valid until this returns."""

    def end(self) -> None:
        """The part is whole: the delimiter after it has arrived."""


class RelatedReader:
    """Brings the parts of one message to `sink`, whatever the pieces it arrives in.

    Raises:
        MalformedMultipartError: from the constructor, `boundary` is none. What `sink` raises goes
            through; after any error the reader is of no more use.
    """

    def __init__(self, boundary: str, sink: PartSink) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise MalformedMultipartError("the boundary is missing or is none")
        self._delimiter = b"--" + boundary.encode("ascii")
        self._preamble: bytearray | None = bytearray()
        self._name = bytearray()
        self._value = bytearray()
        self._content_type = ""
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_headers,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": lambda: sink.begin(self._content_type),
                "on_part_data": lambda data, start, end: sink.write(memoryview(data)[start:end]),
                "on_part_end": sink.end,
                "on_end": self._end,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the message. What follows its closing delimiter is passed over.

        Raises:
            MalformedMultipartError: they cannot follow what came before.
        """
        if self._preamble is not None:
            data = self._past_preamble(self._preamble, data)
        try:
            self._parser.write(data)
        except FormParserError:
            # The library's words quote the message.
            raise MalformedMultipartError("the message is not divided into parts by its boundary") from None

    def finish(self) -> None:
        """Nothing more comes.

        Raises:
            MalformedMultipartError: the closing delimiter has not come.
        """
        if not self._is_whole:
            raise MalformedMultipartError("the message ends before its closing delimiter")

    def _past_preamble(self, preamble: bytearray, data: bytes) -> bytes:
        """RFC 2046 section 5.1.1: what comes before the first delimiter, on a line of its own, means nothing."""
        preamble += data
        line = b"\r\n" + self._delimiter
        start = 0 if preamble.startswith(self._delimiter) else preamble.find(line, 0, _MAX_PREAMBLE_BYTES) + 2
        if start == 1:  # it has not come
            if len(preamble) >= _MAX_PREAMBLE_BYTES:
                raise MalformedMultipartError("the message does not begin with its boundary")
            return b""
        self._preamble = None
        return bytes(preamble[start:])

    def _begin_headers(self) -> None:
        self._content_type = ""

    def _end_header(self) -> None:
        if self._name.lower() == b"content-type":
            self._content_type = self._value.decode("latin-1").strip()
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        self._is_whole = True
