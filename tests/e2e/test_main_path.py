"""From a DICOM push to a diagnosis on a topic, a vector, a map and a similarity answer. All parts real."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from services.training.phantoms.brain_dicom import PhantomStudy
from tests.e2e.support import Subscriber, System, dataset_bytes, dcmtk, frames_indexed

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(600)]

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def push(program: list[str], peer: tuple[str, str, str], files: list[Path], report: Path | None = None) -> str:
    aec, host, port = peer
    names = [str(file) for file in files]
    command = [*program, "-v", "-aec", aec, host, port, *names]
    if report is not None:
        command = [*program, "-v", "-aec", aec, "+crf", str(report), host, port, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def successes(said: str) -> int:
    """How many stores a verbose DCMTK sender reports as successful."""
    return len(re.findall(r"Received Store Response \(Success\)", said))


Received = tuple[tuple[str, str, str], Path]


@pytest.fixture
def bit_preserving(tmp_path: Path) -> Iterator[Received]:
    """DCMTK's own receiver, which writes the data set's bytes exactly as they came, and its folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "storescp"
    folder.mkdir()
    command = [dcmtk("storescp"), "-od", str(folder), "-B", "+xa", "+uf", "-fe", ".dcm", str(port)]
    receiver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield ("ANY-SCP", "127.0.0.1", str(port)), folder
    receiver.kill()
    receiver.wait()


def inflate(dataset: bytes) -> bytes:
    """A deflated data set's content: PS3.5 section A.5."""
    return zlib.decompress(dataset, wbits=-zlib.MAX_WBITS)


@pytest.mark.peers
class TestPhantomsByStorescu:
    def test_every_success_has_its_object_its_vector_its_event_and_findings_a_map(
        self,
        system: System,
        subscriber: Subscriber,
        phantoms: list[PhantomStudy],
        bit_preserving: Received,
    ) -> None:
        files = [image for study in phantoms for image in study.images]
        said = push([dcmtk("storescu")], system.dicom, files)
        assert successes(said) == len(files), said
        studies = {study.study_instance_uid for study in phantoms}
        diagnoses = subscriber.wait_diagnosed(studies)

        # Its object, as received: what a bit-preserving receiver gets from the same sender.
        peer, folder = bit_preserving
        said = push([dcmtk("storescu")], peer, files)
        assert successes(said) == len(files), said
        archived = system.archived()
        expected = {str(pydicom.dcmread(file).SOPInstanceUID): file for file in folder.iterdir()}
        assert len(expected) == len(files)
        for sop, file in expected.items():
            assert dataset_bytes(archived[sop]) == dataset_bytes(file)

        for study in phantoms:
            uid = study.study_instance_uid
            (event,) = diagnoses[uid]
            # Its event: one, by the task, for all its frames.
            assert (event["task"], event["revision"], event["partial"]) == ("brain-mr", 1, False)
            assert event["frames_embedded"] == len(study.images)
            assert sum(entry["probability"] for entry in event["classes"]) == pytest.approx(1.0, abs=1e-3)
            assert event["notice"] == "research use only"
            # Its vectors: each image has one, and an uploaded image finds itself first.
            for image in study.images:
                sop = str(pydicom.dcmread(image, stop_before_pixels=True).SOPInstanceUID)
                assert frames_indexed(system.http, sop) == 1
            upload = {"file": ("slice.dcm", study.images[3].read_bytes())}
            (first, *_) = system.http.post("/v1/search/upload", files=upload).raise_for_status().json()["results"]
            assert (first["study_instance_uid"], first["score"]) == (uid, pytest.approx(1.0, abs=1e-4))

        # Its neighbours are other patients' studies, best first.
        body = {"study_instance_uid": phantoms[0].study_instance_uid}
        hits = system.http.post("/v1/search", json=body).raise_for_status().json()["results"]
        assert len(hits) >= 7
        assert phantoms[0].study_instance_uid not in {hit["study_instance_uid"] for hit in hits}
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)

        # A part of a frame finds parts of other patients' frames.
        assert system.http.get("/v1/info").json()["region_search"] is True
        strongest = diagnoses[phantoms[0].study_instance_uid][0]["evidence"][0]
        body = {
            "sop_instance_uid": strongest["sop_instance_uid"],
            "frame_number": strongest["frame_number"],
            "region": {"left": 0.3, "top": 0.3, "width": 0.3, "height": 0.2},
        }
        hits = system.http.post("/v1/search", json=body).raise_for_status().json()["results"]
        assert len(hits) >= 7
        assert phantoms[0].study_instance_uid not in {hit["study_instance_uid"] for hit in hits}
        assert {(hit["region"]["width"], hit["region"]["height"]) for hit in hits} == {(0.25, 0.25)}

        # A map for every finding, signed, of the model's grid, with an overlay to look at.
        findings = {uid for uid in studies if diagnoses[uid][0]["decision"] == "finding"}
        assert findings, "no phantom with a lesion was called a finding"
        subscriber.read(lambda seen: findings <= {v["study_instance_uid"] for t, _, v in seen if "explained" in t})
        for topic, _, event in subscriber.seen:
            if topic != "similis.study.explained.v1" or event["study_instance_uid"] not in findings:
                continue
            for entry in event["maps"]:
                saliency = np.load(system.data / "archive" / entry["map_key"])
                assert saliency.dtype == np.float32
                assert saliency.ndim == 2
                assert np.isfinite(saliency).all()
                assert entry["value_min"] == pytest.approx(float(saliency.min()))
                assert (system.data / "archive" / entry["overlay_key"]).read_bytes().startswith(b"\x89PNG")

    def test_a_map_of_another_class_is_made_on_request(
        self, system: System, subscriber: Subscriber, phantoms: list[PhantomStudy]
    ) -> None:
        study = phantoms[0]
        push([dcmtk("storescu")], system.dicom, list(study.images))
        subscriber.wait_diagnosed({study.study_instance_uid})
        sop = str(pydicom.dcmread(study.images[2], stop_before_pixels=True).SOPInstanceUID)
        body = {
            "study_instance_uid": study.study_instance_uid,
            "task": "brain-mr",
            "label": "meningioma-like",
            "frames": [{"sop_instance_uid": sop}],
        }
        told = system.http.post("/v1/explanations", json=body).raise_for_status().json()
        until = time.monotonic() + 300
        while told["state"] == "waiting" and time.monotonic() < until:
            time.sleep(0.5)
            told = system.http.get(told["url"]).raise_for_status().json()
        assert told["state"] == "explained", told
        (made,) = told["maps"]
        assert (made["sop_instance_uid"], made["target_label"], made["requested"]) == (sop, "meningioma-like", True)
        assert made["faithfulness"]["random_insertion_auc"] > 0
        assert system.http.get(made["overlay_url"]).raise_for_status().content.startswith(b"\x89PNG")
        subscriber.read(
            lambda seen: told["request_id"] in {v.get("request_id") for t, _, v in seen if "explained" in t}
        )
        objects = list((system.data / "archive" / "explanations" / study.study_instance_uid).rglob("*.dcm"))
        assert objects
        for path in objects:
            ds = pydicom.dcmread(path)
            assert ds.StudyInstanceUID == study.study_instance_uid
            assert "RESEARCH USE ONLY" in ds.SeriesDescription.upper()

    def test_sending_the_same_again_changes_nothing(
        self, system: System, subscriber: Subscriber, phantoms: list[PhantomStudy]
    ) -> None:
        study = phantoms[0]
        push([dcmtk("storescu")], system.dicom, list(study.images))
        subscriber.wait_diagnosed({study.study_instance_uid})
        manifests = system.data / "archive" / "manifests" / study.study_instance_uid
        before = {path.name: path.read_bytes() for path in manifests.iterdir()}
        said = push([dcmtk("storescu")], system.dicom, list(study.images))
        assert successes(said) == len(study.images), said
        time.sleep(4.0)  # twice the quiet period: a new revision would be there
        assert {path.name: path.read_bytes() for path in manifests.iterdir()} == before

    def test_no_identity_leaves_the_archive(
        self, system: System, subscriber: Subscriber, phantoms: list[PhantomStudy]
    ) -> None:
        push([dcmtk("storescu")], system.dicom, [image for study in phantoms for image in study.images])
        subscriber.wait_diagnosed({study.study_instance_uid for study in phantoms})
        headers = [pydicom.dcmread(study.images[0], stop_before_pixels=True) for study in phantoms]
        secrets = {str(value) for header in headers for value in (header.PatientName, header.PatientID)}
        assert all(len(secret) > 5 for secret in secrets)
        seen = "\n".join(str(record) for record in subscriber.seen)
        pages = [system.http.get(f"/v1/studies/{study.study_instance_uid}").text for study in phantoms]
        pages += [system.http.get("/v1/studies").text, system.http.get("/").text]
        metrics = [system.http.get(url).text for url in system.endpoints["metrics"].values()]
        logs = [path.read_text(errors="replace") for path in (system.data / "log").iterdir()]
        names = [str(path) for path in system.data.rglob("*")]
        archive = system.data / "archive"
        documents = [path.read_text() for path in archive.rglob("*.json")]
        for text in (seen, *pages, *metrics, *logs, "\n".join(names), *documents):
            for secret in secrets:
                assert secret not in text


@pytest.mark.peers
class TestRealFilesByDcmsend:
    def test_every_success_has_its_object_its_vector_and_its_event(
        self,
        system: System,
        subscriber: Subscriber,
        bit_preserving: Received,
        tmp_path: Path,
    ) -> None:
        report = tmp_path / "report.txt"
        program = [dcmtk("dcmsend"), "+sd", "+r", "--no-halt", "--no-uid-checks", "--decompress-never"]
        push(program, system.dicom, [PYDICOM_FILES], report)
        accepted = accepted_by(report)
        assert len(accepted) > 60, report.read_text()
        studies = {str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in accepted.values()}
        events = read_until_settled(subscriber, studies)

        peer, folder = bit_preserving
        push(program, peer, [PYDICOM_FILES], tmp_path / "again.txt")
        exact = {dataset_bytes(file) for file in folder.iterdir()}
        archived = system.archived()
        for sop, path in accepted.items():
            kept = dataset_bytes(archived[sop])
            if pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_deflated:
                # DCMTK's receiver inflates even when it preserves bits, so here the source is the oracle.
                assert inflate(kept) == inflate(dataset_bytes(path))
            else:
                assert kept in exact, f"{sop} is not archived as it was received"

        skipped = {skip["sop_instance_uid"]: skip["reason"] for event in events.values() for skip in event["skipped"]}
        dead = {v["study_instance_uid"] for t, _, v in subscriber.seen if t == "similis.study.received.v1.dlq"}
        embedded = 0
        for sop, path in accepted.items():
            study = str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
            if sop in skipped or study in dead:
                continue
            assert frames_indexed(system.http, sop) > 0, f"{path.name} ({sop}) got Success but has no vector"
            embedded += 1
        assert embedded > 40
        # Reports, plans and waveforms were stored, and named as what they are.
        assert "not-an-image" in skipped.values()


def accepted_by(report: Path) -> dict[str, Path]:
    """SOP Instance UID to the file that was answered with Success, from dcmsend's report."""
    found = {}
    for block in report.read_text().split("\n\n"):
        fields = dict(re.findall(r"^\s*([\w ]+?)\s*: (.*)$", block, re.MULTILINE))
        if fields.get("DIMSE Status", "").endswith("(Success)"):
            path = Path(fields["Filename"])
            # The report quotes the file meta; what is sent is the data set's own UID.
            found[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
    return found


def read_until_settled(subscriber: Subscriber, studies: set[str]) -> dict[str, dict]:
    """Read until each study has a diagnosis of its newest revision, or a dead letter that says why not."""

    def newest() -> dict[str, dict]:
        return {uid: max(events, key=lambda e: e["revision"]) for uid, events in subscriber.diagnoses().items()}

    def settled(seen: list) -> bool:
        received: dict[str, int] = {}
        for topic, _, value in seen:
            if topic == "similis.study.received.v1":
                uid = value["study_instance_uid"]
                received[uid] = max(received.get(uid, 0), value["revision"])
        dead = {v["study_instance_uid"] for t, _, v in seen if t == "similis.study.received.v1.dlq"}
        done = {uid for uid, event in newest().items() if event["revision"] == received.get(uid)}
        return studies <= received.keys() and studies <= done | dead

    subscriber.read(settled, timeout_s=400)
    return newest()


def test_the_readme_s_consumer_prints_diagnoses(system: System, subscriber: Subscriber, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    endpoints = system.data / "run" / "endpoints.json"
    assert "demo-data/run/endpoints.json" in code
    script = tmp_path / "consumer.py"
    script.write_text(code.replace("demo-data/run/endpoints.json", str(endpoints)))
    with subprocess.Popen([sys.executable, "-u", str(script)], stdout=subprocess.PIPE, text=True) as consumer:
        assert consumer.stdout is not None
        line = consumer.stdout.readline()
        consumer.kill()
    # Which of several partitions comes first is anybody's guess.
    subscriber.read(lambda _: line.split()[0] in subscriber.diagnoses())
