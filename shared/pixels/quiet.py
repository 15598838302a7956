"""Warnings left out in one thread, whatever other threads do.

`warnings.catch_warnings` swaps the filters of the whole process: of two threads inside it, the first that leaves takes
the other's filter away, and the last puts the first one's back for ever (its documentation says so). pydicom's
warnings quote elements' values, so one filter stays in place here, and asks which thread it is.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_installing = threading.Lock()
_here = threading.local()


class _InsideQuiet(type):
    def __subclasscheck__(cls, subclass: type) -> bool:
        """How the filters match a warning's class: every class, where this thread is inside `quiet`."""
        return getattr(_here, "depth", 0) > 0


class _LeftOut(Warning, metaclass=_InsideQuiet):
    """The category of the filter."""


def _install() -> None:
    """Put the filter first, where it is not: other filters came after it, or were reset, as tests do."""
    with _installing:
        if not warnings.filters or warnings.filters[0][2] is not _LeftOut:
            warnings.simplefilter("ignore", _LeftOut)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out every Python warning of this thread. Safe in any number of threads, and inside itself."""
    if not warnings.filters or warnings.filters[0][2] is not _LeftOut:
        _install()
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1


_install()
