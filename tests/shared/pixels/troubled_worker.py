"""A decode worker whose decoder is in trouble at some frames: `troubled_worker.py TROUBLE:FRAME,... SPEC`.

hang      never returns
die       is killed, as by the kernel when memory runs out
abort     crashes in C
half      starts a message and never ends it
gorge     asks for ever more memory
wait      takes a tenth of a second
flood     gives this frame without end
skip      says nothing of this frame
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np

from shared.errors import UndecodablePixelsError
from shared.pixels import pool_worker
from shared.pixels.frame import FrameError
from shared.pixels.pool_frames import numbers_of, prepared


def troubled(request, data, size_px, limits):
    """As `prepared`, with the troubles of the command line."""
    for number in numbers_of(request, data, limits):
        one = replace(request, frame_numbers=(number,), evenly=None)
        for trouble in TROUBLES.get(number, ()):
            match trouble:
                case "hang":
                    time.sleep(3600)
                case "half":
                    os.write(SOCKET, b"\0\0\0\x40{")
                    time.sleep(3600)
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "abort":
                    os.abort()
                case "wait":
                    time.sleep(0.1)
                case "gorge":
                    yield gorged(number)
                    break
                case "flood":
                    while True:
                        yield from prepared(one, data, size_px, limits)
                case "skip":
                    break
        else:
            yield from prepared(one, data, size_px, limits)


def gorged(number):
    """What becomes of a decoder that asks for too much: `guarded` gives its MemoryError this form."""
    try:
        np.empty((3 << 30,), np.uint8)
    except MemoryError:
        return FrameError(number, UndecodablePixelsError.__name__, "MemoryError")
    raise AssertionError("there is no limit")


SOCKET = json.loads(sys.argv[2])["socket"]
TROUBLES: dict[int, list[str]] = {}
for part in sys.argv.pop(1).split(","):
    name, _, at = part.partition(":")
    TROUBLES.setdefault(int(at or 0), []).append(name)

if __name__ == "__main__":
    pool_worker.prepared = troubled
    pool_worker.main()
