"""Errors that nobody foresaw, told without their text: libraries quote what they choke on, and that may be identity."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from pathlib import Path

from shared.errors import SimilisError


def told(error: BaseException) -> str:
    """What may be said of an error in a log, a header or a record: ours in its own words, others by kind and place."""
    if isinstance(error, SimilisError):
        return str(error)
    name = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        name = f"{name} {errno.errorcode[error.errno]}"
    return f"{name} in {place_of(error)}"


def place_of(error: BaseException) -> str:
    """Where it was raised: file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"


def path_of(error: BaseException) -> str:
    """How the program came there, the outermost call first; the lines of source code that it ran, no values."""
    return "".join(traceback.format_tb(error.__traceback__)).rstrip()


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on: the first cause last."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
