"""Evidence frames that hang or crash their decoder: real worker processes, which are replaced."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.explainer.app import DecodeMetrics, open_frame_reader
from services.explainer.settings import ExplainerSection, ExplainerSettings
from shared.archive import instance_key
from shared.errors import UndecodablePixelsError
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.pixels.pool_process import WorkerOptions
from tests.services.explainer.conftest import SERIES, SOP, STUDY, evidence, mr_slice

TROUBLED = str(Path(__file__).parents[2] / "shared" / "pixels" / "troubled_worker.py")
TIMEOUT_S = 1.0


@pytest.fixture
def troubled():
    """One worker whose decoder hangs at frame 1 and crashes at frame 2."""
    options = WorkerOptions(None, PixelLimits(), TIMEOUT_S, 0, (sys.executable, TROUBLED, "hang:1,abort:2"))
    reader = FrameReader.in_workers(options, 1, DecodeMetrics())
    reader.start()
    yield reader
    reader.close()


def test_frames_that_cost_a_worker_have_no_map_and_the_others_have_theirs(with_policy, archive, diagnosed, troubled):
    archive.put(instance_key(STUDY, SERIES, SOP), mr_slice(frames=3))
    step = with_policy("findings", 3)
    step = replace(step, make=replace(step.make, reader=troubled))

    event = step(diagnosed.model_copy(update={"evidence": tuple(evidence(number=number) for number in (1, 2, 3))}))

    assert [made.frame_number for made in event.maps] == [3]
    assert [(failed.frame_number, failed.reason) for failed in event.frames_failed] == [
        (1, "undecodable"),
        (2, "undecodable"),
    ]
    assert "timed out" in event.frames_failed[0].detail
    assert "died" in event.frames_failed[1].detail


def test_a_diagnosis_of_nothing_but_such_frames_is_permanent_within_the_time_out(step, diagnosed, troubled):
    step = replace(step, make=replace(step.make, reader=troubled))
    started = time.monotonic()

    with pytest.raises(UndecodablePixelsError, match="timed out"):
        step(diagnosed)

    assert time.monotonic() - started < 20  # the decoder hangs for an hour; the machine may be busy


def test_maps_by_workers_are_those_of_the_process(step, archive, diagnosed):
    reader = open_frame_reader(ExplainerSettings(explainer=ExplainerSection(decode_workers=1)))
    first = step(diagnosed)
    here = archive.get(first.maps[0].map_key)
    archive.objects = {key: data for key, data in archive.objects.items() if not key.startswith("explanations/")}
    try:
        second = replace(step, make=replace(step.make, reader=reader))(diagnosed)
    finally:
        reader.close()

    assert archive.get(second.maps[0].map_key) == here
