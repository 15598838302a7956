"""Named places where a test can end the process as kill -9 or a power cut would.

Outside of such a test `reach` does nothing: only a process that calls `arm` can be made to die.

    part.opened  part.written  journal.renamed  journal.synced  journal.kept  store.answered
    publish.objects  publish.verified  publish.manifest  publish.announced  publish.marked  publish.purged
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from typing import Final

POINTS: Final = (
    "part.opened",
    "part.written",
    "journal.renamed",
    "journal.synced",
    "journal.kept",
    "store.answered",
    "publish.objects",
    "publish.verified",
    "publish.manifest",
    "publish.announced",
    "publish.marked",
    "publish.purged",
)

_armed: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Note that the process is at `point`."""
    if _armed is not None:
        _armed(point)


def arm(point: str, passes: int) -> None:
    """Kill this process, with no time to tidy up, when it has been at `point` `passes` times and comes again.

    Raises:
        ValueError: there is no such point.
    """
    global _armed
    if point not in POINTS:
        raise ValueError(f"no fault point is called {point!r}")
    seen = itertools.count()

    def die(reached: str) -> None:
        if reached == point and next(seen) >= passes:
            os.kill(os.getpid(), signal.SIGKILL)

    _armed = die
