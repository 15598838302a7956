"""Errors that nobody foresaw, told without their text: libraries quote what they choke on, and that may be identity."""

from __future__ import annotations

import traceback
from pathlib import Path

from shared.errors import SimilisError


def told(error: BaseException) -> str:
    """What may be said of an error in a log, a header or a record: ours in its own words, others by kind and place."""
    if isinstance(error, SimilisError):
        return str(error)
    return f"{type(error).__name__} in {place_of(error)}"


def place_of(error: BaseException) -> str:
    """Where it was raised: file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"


def path_of(error: BaseException) -> str:
    """How the program came there, the outermost call first; the lines of source code that it ran, no values."""
    return "".join(traceback.format_tb(error.__traceback__)).rstrip()
