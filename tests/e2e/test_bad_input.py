"""Bad input gets a clear error in the right place, is counted, and the pipeline goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from confluent_kafka import Producer
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, generate_uid
from pynetdicom import AE, _config
from pynetdicom.sop_class import MRImageStorage

from services.training.phantoms.brain_dicom import PhantomStudy
from tests.e2e.support import Subscriber, System

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(300)]

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(autouse=True)
def as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    # Send files as they are, without reading them into a data set first.
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


@pytest.fixture
def slices(phantoms: list[PhantomStudy]) -> Iterator[list[Dataset]]:
    """A new study's slices, made of a phantom's."""
    study, series = generate_uid(), generate_uid()
    made = []
    for image in phantoms[1].images[:3]:
        ds = pydicom.dcmread(image)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        made.append(ds)
    return made


def store(system: System, paths: list[Path]) -> list[Dataset]:
    """C-STORE each file over one association; the answers."""
    title, host, port = system.dicom
    ae = AE()
    for path in paths:
        meta = pydicom.filereader.read_file_meta_info(path)
        ae.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    association = ae.associate(host, int(port), ae_title=title)
    assert association.is_established
    answers = [association.send_c_store(str(path)) for path in paths]
    association.release()
    return answers


def write(folder: Path, datasets: list[Dataset]) -> list[Path]:
    paths = []
    for number, ds in enumerate(datasets):
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1])
    return paths


def corrupted(ds: Dataset) -> Dataset:
    """The slice with a JPEG 2000 pixel stream that is none."""
    ds.PixelData = encapsulate([b"no codestream " * 100])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return ds


def test_a_report_without_pixels_is_stored_and_named(system: System, subscriber: Subscriber) -> None:
    path = PYDICOM_FILES / "reportsi.dcm"
    (answer,) = store(system, [path])
    assert answer.Status == 0x0000
    header = pydicom.dcmread(path)
    event = subscriber.wait_diagnosed({str(header.StudyInstanceUID)})[header.StudyInstanceUID][-1]
    assert (event["decision"], event["frames_embedded"]) == ("no-task", 0)
    assert [skip["reason"] for skip in event["skipped"]] == ["not-an-image"]
    assert str(header.SOPInstanceUID) in system.archived()


def test_a_corrupt_slice_makes_the_study_partial(
    system: System, subscriber: Subscriber, slices: list[Dataset], tmp_path: Path
) -> None:
    before = system.metric("embedder", "similis_embedder_skipped_instances_total")
    corrupted(slices[1])
    assert {answer.Status for answer in store(system, write(tmp_path, slices))} == {0x0000}
    study = str(slices[0].StudyInstanceUID)
    event = subscriber.wait_diagnosed({study})[study][-1]
    assert event["partial"]
    assert event["frames_embedded"] == 2
    assert [(skip["sop_instance_uid"], skip["reason"]) for skip in event["skipped"]] == [
        (str(slices[1].SOPInstanceUID), "undecodable")
    ]
    assert system.metric("embedder", "similis_embedder_skipped_instances_total") == before + 1


def test_a_study_with_no_readable_image_is_dead_lettered_with_the_reason(
    system: System, subscriber: Subscriber, slices: list[Dataset], tmp_path: Path
) -> None:
    store(system, write(tmp_path, [corrupted(slices[0])]))
    study = str(slices[0].StudyInstanceUID)
    topic = "similis.study.received.v1.dlq"

    def mine() -> list[dict[str, str]]:
        return [h for t, h, v in subscriber.seen if t == topic and v["study_instance_uid"] == study]

    subscriber.read(lambda _: bool(mine()))
    assert mine()[0]["similis-error-class"] == "UndecodablePixelsError"
    assert "JPEG 2000" in mine()[0]["similis-error-message"]


def test_a_truncated_data_set_is_refused_and_the_association_goes_on(
    system: System, slices: list[Dataset], tmp_path: Path
) -> None:
    before = system.metric("listener", "similis_listener_objects_total")
    whole, broken = write(tmp_path, slices[:2])
    broken.write_bytes(broken.read_bytes()[:-1000])
    refused, stored = store(system, [broken, whole])
    assert refused.Status & 0xF000 in (0xA000, 0xC000)
    assert refused.ErrorComment
    assert stored.Status == 0x0000
    assert str(slices[1].SOPInstanceUID) not in system.archived()
    assert system.metric("listener", "similis_listener_objects_total") == before + 2


def test_an_unknown_transfer_syntax_is_not_accepted(system: System) -> None:
    before = system.metric("listener", "similis_listener_presentation_contexts_rejected_total")
    title, host, port = system.dicom
    ae = AE()
    ae.add_requested_context(MRImageStorage, "1.2.3.4.5")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate(host, int(port), ae_title=title)
    assert [str(context.abstract_syntax) for context in association.rejected_contexts] == [MRImageStorage]
    assert association.send_c_echo().Status == 0x0000
    association.release()
    assert system.metric("listener", "similis_listener_presentation_contexts_rejected_total") == before + 1


def test_mixed_patients_are_flagged_and_no_task_judges_them(
    system: System, subscriber: Subscriber, slices: list[Dataset], tmp_path: Path
) -> None:
    slices[2].PatientID = "PHANTOM-SOMEBODY-ELSE"
    store(system, write(tmp_path, slices))
    study = str(slices[0].StudyInstanceUID)
    event = subscriber.wait_diagnosed({study})[study][-1]
    assert (event["mixed_patients"], event["decision"], event["label"]) == (True, "abstained", None)
    received = [
        v for t, _, v in subscriber.seen if t == "similis.study.received.v1" and v["study_instance_uid"] == study
    ]
    assert len(received[-1]["patient_pseudonyms"]) == 2


def test_the_same_uid_with_other_bytes_is_refused_and_what_was_stored_stays(
    system: System, slices: list[Dataset], tmp_path: Path
) -> None:
    (first,) = write(tmp_path, slices[:1])
    assert store(system, [first])[0].Status == 0x0000
    slices[0].PatientComments = "another data set"
    (second,) = write(tmp_path, slices[:1])
    assert store(system, [second])[0].Status == 0x0111


@pytest.mark.parametrize("value", [b"no JSON at all", b'{"event_id": 1}', b"\xff\xfe"])
def test_a_malformed_event_is_dead_lettered_and_the_partition_goes_on(
    system: System, subscriber: Subscriber, slices: list[Dataset], tmp_path: Path, value: bytes
) -> None:
    producer = Producer({"bootstrap.servers": system.endpoints["kafka"]})
    for topic, key in (
        ("similis.study.received.v1", slices[0].StudyInstanceUID),
        ("similis.diagnosis.brain-mr.v1", ""),
    ):
        producer.produce(topic, value=value, key=key)
    assert producer.flush(20) == 0
    store(system, write(tmp_path, slices[:1]))
    study = str(slices[0].StudyInstanceUID)
    # The same key, so the same partition: the study's event comes after the malformed one.
    subscriber.wait_diagnosed({study})
    for dlq in ("similis.study.received.v1.dlq", "similis.diagnosis.brain-mr.v1.dlq"):
        expected = (dlq, "MalformedEventError", value)
        subscriber.read(
            lambda _, expected=expected: (
                expected
                in [(topic, headers.get("similis-error-class"), raw) for topic, headers, raw in subscriber.malformed]
            )
        )


@pytest.mark.parametrize(
    ("name", "content", "statuses"),
    [
        ("notes.txt", b"no image", {415, 422}),
        ("broken.png", b"\x89PNG\r\n\x1a\nbroken", {415, 422}),
        ("broken.dcm", b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00", {415, 422}),
        ("report.dcm", (PYDICOM_FILES / "reportsi.dcm").read_bytes(), {415, 422}),
        ("empty", b"", {400, 415, 422}),
    ],
)
def test_an_upload_that_is_no_image_gets_problem_details(
    system: System, name: str, content: bytes, statuses: set[int]
) -> None:
    answer = system.http.post("/v1/search/upload", files={"file": (name, content)})
    assert answer.status_code in statuses
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert problem["detail"]
