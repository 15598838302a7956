"""Whole frames through worker processes: the same pixels as in the process, and no harm by what goes wrong."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_images import image, part10

from shared.errors import (
    ArchiveObjectCorruptError,
    ConfigurationError,
    NotAnImageError,
    OversizedPixelsError,
    UndecodablePixelsError,
)
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.pixels.pool_frames import DIED, TIMED_OUT, DecodersUnavailableError
from shared.pixels.pool_memory import SLOTS, WholeFrames, anonymous_file
from shared.pixels.pool_process import WorkerOptions

TROUBLED = str(Path(__file__).with_name("troubled_worker.py"))
LIMITS = PixelLimits(max_frame_pixels=1_000_000)


class Noted:
    def __init__(self) -> None:
        self.replaced: list[str] = []

    def queued(self, objects: int) -> None:
        pass

    def worker_replaced(self, reason: str) -> None:
        self.replaced.append(reason)


def options(trouble: str = "", timeout_s: float = 30.0) -> WorkerOptions:
    command = (sys.executable, TROUBLED, trouble) if trouble else WorkerOptions.__dataclass_fields__["command"].default
    return WorkerOptions(None, LIMITS, timeout_s, 1 << 30, command)


def stack(count: int, rows: int = 40, columns: int = 24, **elements: object) -> bytes:
    pixels = np.random.default_rng(rows).integers(0, 4096, (count, rows, columns), np.uint16)
    return part10(image(pixels, bits_stored=12, **elements))


def png(mode: str) -> bytes:
    pixels = np.random.default_rng(2).integers(0, 255, (31, 17, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def reader():
    opened = FrameReader.in_workers(options(), 1)
    yield opened
    opened.close()


def test_frames_of_workers_are_those_of_the_process(reader):
    colour = np.random.default_rng(1).integers(0, 255, (30, 20, 3), np.uint8)
    files = [
        (stack(5, PixelSpacing=["1.5", "1"]), (1, 2, 3, 4, 5), False),
        (stack(1, 700, 900), (1,), False),  # longer than the frames before and after
        (stack(3), (2,), False),
        (part10(image(colour, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)), (1,), False),
        (png("RGB"), (1,), True),
        (png("L"), (1,), True),
    ]
    here = FrameReader.in_process(LIMITS)
    for data, numbers, is_picture in files:
        ours = here.read(data, numbers, is_picture=is_picture)
        theirs = reader.read(data, numbers, is_picture=is_picture)
        assert [frame.number for frame in theirs] == list(numbers)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
            assert (one.pixel_aspect, one.notes) == (other.pixel_aspect, other.notes)
    assert ours[0].pixels.shape == (31, 17)
    assert here.read(files[0][0])[0].pixel_aspect == 1.5


def test_an_error_of_the_object_or_of_a_frame_is_raised_and_the_next_is_read(reader):
    huge = image(np.zeros((2, 2), np.uint16))
    huge.Rows = huge.Columns = 60_000
    data = stack(2)
    for expected, read in (
        (NotAnImageError, lambda: reader.read(b"no DICOM")),
        (NotAnImageError, lambda: reader.read(b"no picture", is_picture=True)),
        (OversizedPixelsError, lambda: reader.read(part10(huge))),
        (OversizedPixelsError, lambda: reader.read(data, (1, 2), max_decoded_bytes=40 * 24 * 4)),
        (UndecodablePixelsError, lambda: reader.read(data, (1, 9))),
        (ArchiveObjectCorruptError, lambda: reader.read(data, sha256="0" * 64)),
    ):
        with pytest.raises(expected):
            read()
    assert len(reader.read(data, (1, 2), sha256=hashlib.sha256(data).hexdigest())) == 2


@pytest.mark.parametrize(
    ("trouble", "reason", "words"), [("hang", TIMED_OUT, "timed out"), ("die", DIED, "died"), ("abort", DIED, "died")]
)
def test_a_frame_that_costs_a_worker_is_undecodable_within_the_time_out(trouble, reason, words):
    noted = Noted()
    reader = FrameReader.in_workers(options(f"{trouble}:1", timeout_s=1.0), 1, noted)
    reader.start()
    try:
        started = time.monotonic()
        with pytest.raises(UndecodablePixelsError, match=words):
            reader.read(stack(8), range(1, 9))
        assert time.monotonic() - started < 20  # the decoder hangs for an hour; the machine may be busy
        assert [frame.number for frame in reader.read(stack(3), (2, 3))] == [2, 3]
    finally:
        reader.close()
    assert noted.replaced == [reason]


def test_so_many_frames_as_wanted_are_chosen_evenly_where_they_are_decoded(reader):
    data = stack(9)
    for opened in (reader, FrameReader.in_process(LIMITS)):
        assert [[frame.number for frame in opened.read(data, evenly=most)] for most in (1, 3, 20)] == [
            [1],
            [1, 5, 9],
            list(range(1, 10)),
        ]
    with pytest.raises(NotAnImageError):
        reader.read(b"no DICOM", evenly=3)


@pytest.mark.parametrize("trouble", ["hang:5", "die:5", "flood:5", "skip:1,skip:5,skip:9"])
def test_an_object_whose_chosen_frames_cost_a_worker_is_undecodable(trouble):
    noted = Noted()
    reader = FrameReader.in_workers(options(trouble, timeout_s=1.0), 1, noted)
    reader.start()
    try:
        with pytest.raises(UndecodablePixelsError, match="the decoder"):
            reader.read(stack(9), evenly=3)
        assert [frame.number for frame in reader.read(stack(9), (2, 3))] == [2, 3]
    finally:
        reader.close()
    assert len(noted.replaced) == 1


@pytest.mark.parametrize("trouble", ["flood", "skip"])
def test_a_worker_gives_the_frames_that_were_asked_for_and_no_others(trouble):
    """Else one that a hostile image took over fills the service's memory, and its reader waits for ever."""
    noted, found = Noted(), []
    reader = FrameReader.in_workers(options(f"{trouble}:2"), 1, noted)

    def read() -> None:
        try:
            found.append([frame.number for frame in reader.read(stack(2), (1, 2))])
        except UndecodablePixelsError as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    reader.close()
    if trouble == "flood":
        assert found == [[1, 2]]
    else:
        assert isinstance(found[0], UndecodablePixelsError)
    assert noted.replaced == [DIED]


def test_workers_start_with_the_first_frame_and_end_with_the_reader(monkeypatch):
    opened = []
    reader = FrameReader.in_workers(options(), 1)
    plain = reader._open_decoder
    monkeypatch.setattr(reader, "_open_decoder", lambda: opened.append(plain()) or opened[-1])
    threads = [threading.Thread(target=reader.read, args=(stack(1),)) for _ in range(4)]
    assert not opened
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (pool,) = opened
    (worker,) = pool.pids
    reader.close()
    reader.close()
    assert not Path(f"/proc/{worker}").exists()
    with pytest.raises(DecodersUnavailableError):
        reader.read(stack(1))


def test_workers_that_do_not_start_are_a_wrong_setting_at_start_and_a_passing_trouble_later():
    broken = WorkerOptions(None, LIMITS, 5.0, 0, (sys.executable, "-c", "raise SystemExit(3)"))
    reader = FrameReader.in_workers(broken, 1)
    with pytest.raises(ConfigurationError, match="do not start"):
        reader.start()
    with pytest.raises(DecodersUnavailableError):
        reader.read(stack(1))


def test_no_word_of_a_worker_makes_the_service_read_what_is_not_there():
    descriptor = anonymous_file(0, fixed=False)
    memory = WholeFrames(descriptor, 100)
    frame = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    memory.put(1, frame)
    np.testing.assert_array_equal(memory.take(1, (2, 4, 3)), frame)
    for slot, shape in (
        (1, (2, 5, 3)),  # longer than what was written
        (1, (11, 10)),
        (1, (-2, -4)),
        (1, (0, 4)),
        (1, (2, 4, 2)),
        (1, (24,)),
        (1, (2, 2, 2, 3)),
        (SLOTS, (2, 4)),
        (-1, (2, 4)),
    ):
        with pytest.raises(ValueError, match="frame"):
            memory.take(slot, shape)
    os.ftruncate(descriptor, 0)
    with pytest.raises(ValueError, match="not there"):
        memory.take(1, (2, 4, 3))
    memory.close()
