"""kill -9 of everything in the middle of a push, a restart, a re-push: the end state is the undisturbed one."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.sop_class import MRImageStorage

from services.local.app import Profile
from services.local.settings import LocalSettings
from services.training.phantoms.brain_dicom import write_phantoms
from tests.e2e.support import QUIET_S, Subscriber, System, dataset_bytes, frames_indexed, subscribed

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(900)]


class Sender(threading.Thread):
    """Pushes files one after the other and notes which were answered with Success."""

    def __init__(self, dicom: dict[str, Any], files: list[Path], *, pause_s: float) -> None:
        super().__init__()
        self._dicom, self._files, self._pause_s = dicom, files, pause_s
        self.acknowledged: list[Path] = []

    def run(self) -> None:
        ae = AE()
        ae.network_timeout = ae.dimse_timeout = 5
        ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        association = ae.associate(self._dicom["host"], self._dicom["port"], ae_title=self._dicom["ae_title"])
        if not association.is_established:
            return
        for file in self._files:
            try:
                answer = association.send_c_store(str(file))
            except (RuntimeError, ValueError):
                return  # the association broke
            if getattr(answer, "Status", None) != 0x0000:
                return
            self.acknowledged.append(file)
            time.sleep(self._pause_s)
        association.release()


def facts(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What must not depend on being disturbed."""
    newest = max(events, key=lambda event: event["revision"])
    return {
        "task": newest["task"],
        "decision": newest["decision"],
        "label": newest["label"],
        "classes": [(entry["label"], pytest.approx(entry["probability"], abs=1e-4)) for entry in newest["classes"]],
        "points": sorted(frame["point_id"] for frame in newest["evidence"]),
        "frames": newest["frames_embedded"],
    }


def test_the_end_state_is_that_of_an_undisturbed_run(
    system: System, subscriber: Subscriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files go as they are, so that the archive can be compared with them byte for byte.
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    phantoms = write_phantoms(tmp_path / "phantoms", studies=4, seed=2026)
    files = [image for study in phantoms for image in study.images]
    studies = {study.study_instance_uid for study in phantoms}
    undisturbed = Sender(system.endpoints["dicom"], files, pause_s=0.0)
    undisturbed.run()
    assert undisturbed.acknowledged == files
    expected = {uid: facts(events) for uid, events in subscriber.wait_diagnosed(studies).items() if uid in studies}

    settings = LocalSettings(data=tmp_path / "killed", dicom_port=0, http_port=0, kafka_port=0, study_quiet_s=QUIET_S)
    with Profile(settings) as profile:
        first = Sender(profile.start()["dicom"], files, pause_s=0.25)
        first.start()
        # In the middle: some studies received, the first perhaps being embedded, one half pushed.
        while len(first.acknowledged) < len(files) * 5 // 8:
            assert first.is_alive()
            time.sleep(0.02)
        profile.kill9()
    first.join()
    acknowledged = list(first.acknowledged)
    assert 0 < len(acknowledged) < len(files)

    with Profile(settings) as profile:
        endpoints = profile.start()
        second = Sender(endpoints["dicom"], [file for file in files if file not in acknowledged], pause_s=0.0)
        second.run()
        assert acknowledged + second.acknowledged == files
        after = wait_whole(endpoints["kafka"], {uid: fact["frames"] for uid, fact in expected.items()})

        with httpx.Client(base_url=endpoints["http"], timeout=60.0) as http:
            assert http.get("/v1/info").json()["frames_indexed"] == len(files)
            for file in files:
                sop = str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
                assert frames_indexed(http, sop) == 1

    archived = {path.stem: path for path in (settings.data / "archive" / "instances").rglob("*.dcm")}
    for file in files:
        sop = str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
        assert dataset_bytes(archived[sop]) == dataset_bytes(file)
    for uid, events in after.items():
        assert facts(events) == expected[uid]
        # Once more may have been said after the crash, but only ever the same.
        by_revision: dict[int, set[str]] = {}
        for event in events:
            by_revision.setdefault(event["revision"], set()).add(event["event_id"])
        assert all(len(ids) == 1 for ids in by_revision.values())


def wait_whole(bootstrap: str, frames: dict[str, int]) -> dict[str, list[Any]]:
    """Read the diagnoses until the newest of each study covers all its frames."""
    with subscribed(bootstrap) as subscriber:

        def whole(_: object) -> bool:
            told = subscriber.diagnoses()
            return frames.keys() <= told.keys() and all(
                max(told[uid], key=lambda event: event["revision"])["frames_embedded"] == count
                for uid, count in frames.items()
            )

        subscriber.read(whole, timeout_s=400)
        return subscriber.diagnoses()
