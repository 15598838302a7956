"""What every answer of the query service must be, whatever was asked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from services.query.security import SECURITY_HEADERS

MARK: Final = "Zq7x^Mark"
"""Stands in whatever a hostile client makes up: it must come back in no header, and in no problem but in its path."""

# The server refuses what is no HTTP by itself, before there is a request to answer.
_NOT_HTTP: Final = b"Invalid HTTP request received."
_HEADERS: Final = frozenset(
    {
        "accept-ranges", "allow", "cache-control", "connection", "content-length", "content-type", "date", "etag",
        "last-modified", "retry-after", "transfer-encoding", "www-authenticate", "x-accel-buffering",
    }
    | {name for name, _ in SECURITY_HEADERS}
)  # fmt: skip
_GIVEAWAYS: Final = (b"Traceback", b'File "/', b"site-packages", b"root:x:0:", b"from __future__")


class FindingError(AssertionError):
    """The service did what it must not do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came over the wire; names of headers are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    method: str = "GET"

    def all_of(self, name: str) -> list[str]:
        """The values of every header of a name."""
        return [value for found, value in self.headers if found == name]

    def __str__(self) -> str:
        return f"{self.status} {dict(self.headers)} {self.body[:600]!r}"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the service knows and no answer tells: identity, and where things lie on its disk."""

    words: tuple[str, ...]
    places: tuple[str, ...]


def check_answer(answer: Answer, secrets: Secrets) -> None:
    """Look at one answer.

    Raises:
        FindingError: it is an error of the service's own, tells what it must not, lacks a security header, or is an
            error without a problem document.
    """
    if answer.status == 400 and answer.body == _NOT_HTTP:
        return
    if answer.status >= 500:
        raise FindingError(f"a {answer.status}")
    _check_leaks(answer, secrets)
    _check_headers(answer)
    if answer.status >= 400:
        _check_problem(answer)
    elif answer.status >= 300 and answer.status != 304:
        raise FindingError("a redirect")


def _check_leaks(answer: Answer, secrets: Secrets) -> None:
    whole = "\n".join(f"{name}: {value}" for name, value in answer.headers).encode() + answer.body
    for word in (*(word.encode() for word in (*secrets.words, *secrets.places)), *_GIVEAWAYS):
        if word in whole:
            raise FindingError(f"{word!r} in the answer")


def _check_headers(answer: Answer) -> None:
    for name, value in SECURITY_HEADERS:
        if answer.all_of(name) != [value]:
            raise FindingError(f"{name} is {answer.all_of(name)}")
    for name, value in answer.headers:
        if name not in _HEADERS:
            raise FindingError(f"a header {name}")
        if MARK.lower() in value.lower():
            raise FindingError(f"the client's own words in {name}")
    if len(answer.all_of("cache-control")) != 1:
        raise FindingError("not one Cache-Control")


def _check_problem(answer: Answer) -> None:
    if answer.all_of("content-type") != ["application/problem+json"]:
        raise FindingError("an error that is no problem document")
    if answer.method == "HEAD":
        return
    problem = json.loads(answer.body)
    if problem["status"] != answer.status or not problem["title"] or not problem["detail"]:
        raise FindingError("a problem that does not say what it is")
    if not re.fullmatch(r"urn:similis:problem:[a-z0-9-]+", problem["type"]):
        raise FindingError("a problem without a type")
    if not problem.pop("instance").isascii() or MARK.lower() in json.dumps(problem).lower():
        raise FindingError("the client's own words in a problem")
