"""What a long STOW-RS request takes of memory."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest
import stow_client as stow
from listener_harness import MR, Running, Sample, encode, make_dataset
from pydicom.uid import ExplicitVRLittleEndian
from stow_client import BOUNDARY, dicom_file

OBJECT_BYTES = 256 << 20
CHUNK = bytes(1 << 20)


def long_message(count: int) -> Iterator[bytes]:
    """A request with objects of `OBJECT_BYTES` of pixels each, a chunk at a time."""
    for number in range(count):
        ds = make_dataset(study="1.2.3", series="1.2.3.4", sop=f"1.2.3.4.{number}")
        del ds.PixelData
        sample = Sample(encode(ds), "1.2.3", "1.2.3.4", ds.SOPInstanceUID, MR, ExplicitVRLittleEndian)
        yield b"\r\n--" + BOUNDARY.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n"
        yield dicom_file(sample) + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", OBJECT_BYTES)
        for _ in range(OBJECT_BYTES // len(CHUNK)):
            yield CHUNK
    yield b"\r\n--" + BOUNDARY.encode() + b"--\r\n"


@pytest.mark.slow
def test_an_upload_of_any_length_takes_the_same_memory(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(stow={"port": 0}, study_quiet_s=60.0)
    process = psutil.Process()
    before = process.memory_info().rss
    peak = [before]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        response = stow.post(listener, long_message(2))
    finally:
        is_over.set()
        watching.join()
    assert (response.status_code, len(stow.stored(response))) == (200, 2)
    assert sum(path.stat().st_size for path in listener.journal_files) > 2 * OBJECT_BYTES
    # The client's own buffers are in it.
    assert peak[0] - before < 24 << 20
