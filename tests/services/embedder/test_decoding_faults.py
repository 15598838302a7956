"""A study whose decoders are in trouble: real worker processes that die, hang, and are killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from embedder_studies import SeriesSpec, archive_study, dicom, slices

from services.embedder.app import DecodeMetrics, open_decoder
from services.embedder.batches import SharedBatches
from services.embedder.settings import EmbedderSection
from shared.archive import LocalArchive
from shared.errors import UndecodablePixelsError
from shared.events import Decision, StudyDiagnosed
from shared.pixels import PixelLimits
from shared.pixels.pool import DecodePool
from shared.pixels.pool_frames import DecodeInProcess
from shared.pixels.pool_process import WorkerOptions
from shared.vector_index.memory import MemoryIndex

TROUBLED = str(Path(__file__).parents[2] / "shared" / "pixels" / "troubled_worker.py")
STACK = "1.2.826.1.4"


@pytest.fixture
def pooled(embed, encoder, tmp_path):
    """The step on a local archive, with a pool of one worker in the given trouble."""
    opened = []

    def with_trouble(trouble: str, *, timeout_s: float = 30.0, workers: int = 1):
        options = WorkerOptions(encoder.input_size_px, PixelLimits(), timeout_s, 0, (sys.executable, TROUBLED, trouble))
        step = replace(
            embed,
            archive=LocalArchive(tmp_path),
            decoder=DecodePool(options, workers, DecodeMetrics()),
            batches=SharedBatches(encoder),
        )
        opened.append(step)
        return step

    yield with_trouble
    for step in opened:
        step.close()


def stack(frames: int) -> SeriesSpec:
    return SeriesSpec({STACK: dicom(STACK, frames=frames)}, {STACK: frames})


@pytest.mark.parametrize(
    ("trouble", "reason", "words"),
    [("die:3", "decoder-died", "the decoder died"), ("hang:3", "timed-out", "the decoder timed out")],
)
def test_a_frame_that_costs_a_worker_makes_the_study_partial(pooled, index, trouble, reason, words):
    step = pooled(trouble, timeout_s=1.5)
    (event,) = step(archive_study(step.archive, stack(6)))
    assert event.decision is Decision.FINDING
    assert event.partial
    assert [(frame.sop_instance_uid, frame.frame_number, frame.reason) for frame in event.frames_failed] == [
        (STACK, 3, reason)
    ]
    assert words in event.frames_failed[0].detail
    assert "1 frames could not be decoded" in event.reason
    assert event.skipped == ()
    assert event.frames_embedded == index.count() == 5


def test_a_study_outlives_the_kill_of_its_worker(pooled, index):
    step = pooled(",".join(f"wait:{n}" for n in range(1, 31)))
    received = archive_study(step.archive, stack(30))

    def kill() -> None:
        time.sleep(0.8)
        os.kill(step.decoder.pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    (event,) = step(received)
    killer.join()
    assert [frame.reason for frame in event.frames_failed] == ["decoder-died"]
    assert event.frames_embedded == index.count() == 29


def test_a_study_of_which_no_frame_can_be_decoded_is_an_error(pooled, index):
    step = pooled("die:1,die:2")
    with pytest.raises(UndecodablePixelsError, match="the decoder died"):
        step(archive_study(step.archive, stack(2)))
    assert index.count() == 0


def test_several_studies_at_once_share_workers_and_batches_and_get_their_own_diagnoses(pooled, embed, index, encoder):
    step = pooled("none:0", workers=2)
    step.batches._wait_s = 5.0
    made = [(slices(6, prefix=f"1.2.9.{n}", seed=n), f"1.2.9.{n}") for n in range(4)]
    alone = [embed(archive_study(embed.archive, series, study=uid)) for series, uid in made]
    encoder.encoded.clear()
    received = [archive_study(step.archive, series, study=uid) for series, uid in made]
    together: dict[int, tuple[StudyDiagnosed, ...]] = {}

    def diagnose(n: int) -> None:
        together[n] = replace(step, index=MemoryIndex(encoder.dim))(received[n])

    threads = [threading.Thread(target=diagnose, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, (one,) in enumerate(alone):
        (other,) = together[n]
        assert other.classes == one.classes
        assert other.evidence == one.evidence
    assert sum(encoder.encoded) == 24
    assert encoder.encoded.count(encoder.batch_size) >= 5  # 6 is no multiple of 4: studies filled each other's


def test_the_settings_choose_between_workers_and_the_process_itself(encoder):
    assert isinstance(open_decoder(EmbedderSection(decode_workers=0), 28, PixelLimits()), DecodeInProcess)
    pool = open_decoder(EmbedderSection(decode_workers=2, decode_memory_bytes=1 << 30), 28, PixelLimits())
    try:
        assert len(pool.pids) == 2
    finally:
        pool.close()
