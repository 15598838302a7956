"""Processes that use a crosswalk and are killed while they do."""

from __future__ import annotations

import os
import time
from multiprocessing.reduction import DupFd
from pathlib import Path

from services.listener.crosswalk import Crosswalk
from services.listener.reidentify import forget
from shared.pseudonym import Pseudonyms

KEY = b"k" * 32
PSEUDONYMS = Pseudonyms(b"p" * 32)


def pseudonym(patient_id: str) -> str:
    return PSEUDONYMS.of(issuer="HOSPITAL", patient_id=patient_id, study_instance_uid="1.2.3")


def write_in_pieces(size_bytes: int) -> None:
    """From now on a write takes at most `size_bytes`, as POSIX allows, and its time."""
    whole = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        time.sleep(0.0005)
        return whole(descriptor, bytes(data)[:size_bytes], offset)

    os.pwrite = pwrite  # type: ignore[assignment]


def note_forever(path: Path, acknowledged: DupFd, first: int) -> None:
    """Note one patient after the other; each number is written to `acknowledged` once its note is durable."""
    write_in_pieces(8)
    report = acknowledged.detach()
    crosswalk = Crosswalk(path, KEY)
    number = first
    while True:
        patient_id = f"SECRET-{number}"
        crosswalk.note(pseudonym(patient_id), "HOSPITAL", patient_id, "")
        os.write(report, b"%d\n" % number)
        number += 1


def forget_forever(path: Path, started: DupFd) -> None:
    """Forget one patient after the other, from the last to the first."""
    os.write(started.detach(), b".")
    for number in range(10_000, 0, -1):
        forget(path, KEY, [pseudonym(f"SECRET-{number}")])
