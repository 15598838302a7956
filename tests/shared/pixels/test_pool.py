"""Decoding in worker processes: real ones, killed, hung and short of memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic_images import image, part10

from shared.errors import (
    ArchiveObjectCorruptError,
    ArchiveObjectMissingError,
    ConfigurationError,
    NotAnImageError,
    OversizedPixelsError,
)
from shared.pixels import FrameError, PixelLimits
from shared.pixels.pool import DecodePool
from shared.pixels.pool_frames import (
    DIED,
    TIMED_OUT,
    DecodeInProcess,
    DecodeRequest,
    DecodersUnavailableError,
    PreparedFrame,
)
from shared.pixels.pool_process import DecodeProcess, ObjectNotBegunError, WorkerLostError, WorkerOptions

SIZE_PX = 28
TROUBLED = str(Path(__file__).with_name("troubled_worker.py"))


def stack(count: int, *, seed: int = 0, size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 4096, (count, size, size), np.uint16)
    return part10(image(pixels, bits_stored=12))


def colour() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (30, 20, 3), np.uint8)
    return part10(image(pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0))


def request(source: bytes | Path, *numbers: int, data: bytes | None = None) -> DecodeRequest:
    known = data if data is not None else source if isinstance(source, bytes) else source.read_bytes()
    return DecodeRequest("key", source, hashlib.sha256(known).hexdigest(), numbers)


def options(trouble: str = "", *, timeout_s: float = 30.0, memory_bytes: int = 0, **limits: int) -> WorkerOptions:
    command = (sys.executable, TROUBLED, trouble) if trouble else WorkerOptions.__dataclass_fields__["command"].default
    return WorkerOptions(SIZE_PX, PixelLimits(**limits), timeout_s, memory_bytes, command)


class Noted:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.counts: list[int] = []

    def queued(self, objects: int) -> None:
        self.counts.append(objects)

    def worker_replaced(self, reason: str) -> None:
        self.replaced.append(reason)


@pytest.fixture(scope="module")
def pool():
    with DecodePool(options(max_frame_pixels=1_000_000, memory_bytes=1 << 30), 2) as running:
        yield running


def told(frames) -> list[tuple[int, str]]:
    return [(item.number, item.reason if isinstance(item, FrameError) else "ok") for item in frames]


def outcome(pool: DecodePool, wanted: DecodeRequest) -> list[tuple[int, str]]:
    (found,) = (told(frames) for frames in pool.objects([wanted]))
    return found


def test_a_pool_gives_what_the_process_itself_would(pool, tmp_path):
    path = tmp_path / "object.dcm"
    path.write_bytes(stack(5, seed=3))
    requests = [request(stack(4), 1, 2, 3, 4), request(colour(), 1), request(path, 2, 5), request(stack(1), 1)]
    here = [list(frames) for frames in DecodeInProcess(SIZE_PX, PixelLimits()).objects(requests)]
    there = [list(frames) for frames in pool.objects(requests)]
    assert [[item.number for item in frames] for frames in there] == [[1, 2, 3, 4], [1], [2, 5], [1]]
    for ours, theirs in zip(here, there, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.square, other.square)
    assert there[1][0].square.shape == (SIZE_PX, SIZE_PX, 3)
    assert there[0][0].square.shape == (SIZE_PX, SIZE_PX)


def test_errors_of_an_object_reach_its_reader_and_the_next_goes_on(pool, tmp_path):
    data, gone = stack(1), tmp_path / "gone.dcm"
    huge = image(np.zeros((2, 2), np.uint16))
    huge.Rows = huge.Columns = 60_000  # a bomb: 7 GB, if it were believed
    requests = [
        request(b"no DICOM", 1),
        DecodeRequest("key", data, "0" * 64, (1,)),
        request(gone, 1, data=data),
        request(part10(huge), 1),
        request(data, 1),
    ]
    expected = [NotAnImageError, ArchiveObjectCorruptError, ArchiveObjectMissingError, OversizedPixelsError]
    objects = pool.objects(requests)
    for error in expected:
        with pytest.raises(error) as raised:
            next(next(objects))
        assert str(tmp_path) not in str(raised.value)
    assert told(next(objects)) == [(1, "ok")]


def test_a_frame_beyond_the_object_is_reported_and_the_others_are_there(pool):
    assert outcome(pool, request(stack(2), 1, 2, 9)) == [(1, "ok"), (2, "ok"), (9, "UndecodablePixelsError")]


def test_several_threads_share_a_pool_and_each_gets_its_own(pool):
    expected, got = {}, {}

    def read(seed: int) -> None:
        requests = [request(stack(3, seed=seed * 10 + n), 1, 2, 3) for n in range(5)]
        expected[seed] = [
            f.square for frames in DecodeInProcess(SIZE_PX, PixelLimits()).objects(requests) for f in frames
        ]
        got[seed] = [f.square for frames in pool.objects(requests) for f in frames]

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, squares in expected.items():
        np.testing.assert_array_equal(np.stack(got[seed]), np.stack(squares))


def test_a_reader_that_leaves_early_leaves_the_pool_usable(pool):
    objects = pool.objects(request(stack(40), *range(1, 41)) for _ in range(10))
    next(next(objects))
    objects.close()
    assert outcome(pool, request(stack(2), 1, 2)) == [(1, "ok"), (2, "ok")]


def test_objects_are_read_only_a_few_ahead(pool):
    taken = []

    def requests():
        for number in range(50):
            taken.append(number)
            yield request(stack(1), 1)

    objects = pool.objects(requests())
    list(next(objects))
    assert len(taken) <= 4
    objects.close()


@pytest.mark.parametrize(("trouble", "reason"), [("die:3", DIED), ("abort:3", DIED), ("hang:3", TIMED_OUT)])
def test_a_lost_worker_costs_one_frame_and_is_replaced(trouble, reason):
    noted = Noted()
    with DecodePool(options(trouble, timeout_s=1.5), 1, noted) as pool:
        before = pool.pids
        assert outcome(pool, request(stack(5), 1, 2, 3, 4, 5)) == [
            (1, "ok"),
            (2, "ok"),
            (3, reason),
            (4, "ok"),
            (5, "ok"),
        ]
        assert pool.pids != before
    assert noted.replaced == [reason]
    assert noted.counts[-1] == 0


def test_an_object_that_costs_two_workers_is_given_up_and_the_next_is_decoded():
    with DecodePool(options("die:2,die:4"), 1) as pool:
        first, second = (
            told(frames) for frames in pool.objects([request(stack(6), *range(1, 7)), request(stack(1), 1)])
        )
    assert first == [(1, "ok"), (2, DIED), (3, "ok"), (4, DIED), (5, DIED), (6, DIED)]
    assert second == [(1, "ok")]


def test_a_worker_killed_from_outside_in_mid_decode_is_replaced():
    with DecodePool(options("hang:2", timeout_s=60.0), 1) as pool:
        objects = pool.objects([request(stack(3), 1, 2, 3)])
        items = next(objects)
        assert isinstance(next(items), PreparedFrame)
        os.kill(pool.pids[0], signal.SIGKILL)
        assert told(items) == [(2, DIED), (3, "ok")]


def test_a_worker_that_died_idle_costs_no_frame():
    noted = Noted()
    with DecodePool(options(), 1, noted) as pool:
        kill_and_await(pool.pids[0])
        assert outcome(pool, request(stack(3), 1, 2, 3)) == [(1, "ok"), (2, "ok"), (3, "ok")]
    assert noted.replaced == [DIED]


def test_a_study_left_in_a_hanging_decoder_costs_the_next_no_frame():
    with DecodePool(options("hang:3", timeout_s=1.0), 1) as pool:
        objects = pool.objects([request(stack(9), 1, 2, 3)])
        next(next(objects))
        objects.close()
        assert outcome(pool, request(stack(2), 1, 2)) == [(1, "ok"), (2, "ok")]


def test_frames_decoded_before_a_crash_are_given_however_slow_their_reader():
    process = DecodeProcess(options("die:5"))
    try:
        process.wait_until_ready()
        frames = process.frames(request(stack(6), *range(1, 7)))
        assert told(next(frames) for _ in range(3)) == [(1, "ok"), (2, "ok"), (3, "ok")]
        await_end(process.pid)
        assert told([next(frames)]) == [(4, "ok")]
        with pytest.raises(WorkerLostError):
            next(frames)
    finally:
        process.kill()


def test_a_worker_that_cannot_be_given_the_object_is_told_from_one_that_fails_at_it():
    process = DecodeProcess(options())
    try:
        process.wait_until_ready()
        kill_and_await(process.pid)
        with pytest.raises(ObjectNotBegunError):
            next(process.frames(request(stack(1), 1)))
    finally:
        process.kill()


def test_a_message_that_is_only_started_is_timed_out():
    with DecodePool(options("half:2", timeout_s=1.0), 1) as pool:
        started = time.monotonic()
        assert outcome(pool, request(stack(3), 1, 2, 3)) == [(1, "ok"), (2, TIMED_OUT), (3, "ok")]
        assert time.monotonic() - started < 20


def test_a_system_that_has_no_process_left_is_a_passing_trouble_and_leaks_nothing(monkeypatch):
    def refused(*_args, **_options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with DecodePool(options(), 1) as pool:
        kill_and_await(pool.pids[0])
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", refused)
            counts = set()
            for _ in range(3):
                with pytest.raises(DecodersUnavailableError):
                    outcome(pool, request(stack(1), 1))
                counts.add(len(list(Path("/proc/self/fd").iterdir())))
        assert len(counts) == 1
        assert outcome(pool, request(stack(1), 1)) == [(1, "ok")]


def test_a_worker_cannot_take_more_memory_than_it_may():
    with DecodePool(options("gorge:2", memory_bytes=1 << 29), 1) as pool:
        assert outcome(pool, request(stack(3), 1, 2, 3)) == [(1, "ok"), (2, "UndecodablePixelsError"), (3, "ok")]


def test_workers_that_do_not_start_are_a_wrong_setting():
    broken = WorkerOptions(SIZE_PX, PixelLimits(), 5.0, 0, (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(ConfigurationError, match="do not start"):
        DecodePool(broken, 1)


def test_closing_ends_the_workers_and_whoever_waits():
    pool = DecodePool(options("hang:2", timeout_s=60.0), 1)
    (worker,) = pool.pids
    objects = pool.objects([request(stack(2), 1, 2)])
    frames = next(objects)
    next(frames)
    threading.Timer(0.2, pool.close).start()
    started = time.monotonic()
    with pytest.raises(DecodersUnavailableError):
        next(frames)
    assert time.monotonic() - started < 10
    pool.close()
    assert not is_alive(worker)


def test_workers_end_with_a_parent_that_is_killed_even_in_mid_decode(tmp_path):
    before = shared_segments()
    (tmp_path / "object.dcm").write_bytes(stack(2))
    owner = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("pool_owner.py")), str(tmp_path / "object.dcm")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    with owner:
        workers = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(workers) == 2
        assert all(map(is_alive, workers))
        owner.kill()
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    assert shared_segments() == before


def test_two_thousand_frames_leave_memory_and_descriptors_as_they_were(pool):
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    data = stack(50, size=128)
    known = request(data, *range(1, 51))
    for frames in pool.objects([known] * 4):  # first uses settle
        assert len(list(frames)) == 50
    before, open_before = [rss_bytes(pid) for pid in (os.getpid(), *pool.pids)], descriptors()
    count = sum(1 for frames in pool.objects(known for _ in range(40)) for _ in frames)
    assert count == 2000
    after = [rss_bytes(pid) for pid in (os.getpid(), *pool.pids)]
    assert max(now - then for now, then in zip(after, before, strict=True)) < 20_000_000
    assert descriptors() == open_before


def test_a_worker_holds_no_torch_and_no_secret(pool, monkeypatch):
    for pid in pool.pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "torch" not in maps
    monkeypatch.setenv("SIMILIS_ARCHIVE__SECRET_ACCESS_KEY", "hush")
    with DecodePool(options(), 1) as fresh:
        assert b"hush" not in Path(f"/proc/{fresh.pids[0]}/environ").read_bytes()


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def shared_segments() -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return {path.name for path in Path("/dev/shm").iterdir()}
    return set()


def kill_and_await(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    await_end(pid)


def await_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
