"""STOW-RS: what is stored, and what the response says of it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
import stow_client as stow
from listener_harness import MR, Running, Sample, encode, journal_name, make_dataset, make_sample
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pydicom.valuerep import VR
from stow_client import dicom_file, failed, message, other_failures, post, receiving, stored

from services.listener import metrics

Start = Callable[..., Running]
LONG_QUIET = {"study_quiet_s": 60.0}


@pytest.fixture
def listener(start_listener: Start) -> Running:
    return start_listener(stow={"port": 0}, **LONG_QUIET)


def names(listener: Running) -> set[str]:
    return {path.name for path in listener.journal_files}


def test_a_listener_that_was_not_asked_to_has_no_stow_door(start_listener: Start) -> None:
    assert start_listener().stow_url is None


def test_objects_are_kept_as_they_were_sent_before_they_are_called_stored(listener: Running) -> None:
    samples = [make_sample(study="1.2.3", series="1.2.3.4") for _ in range(3)]
    response = stow.store(listener, *samples)
    assert names(listener) == {journal_name(sample, "STOW-RS") for sample in samples}
    assert receiving(listener) == []
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/dicom+json"
    assert stored(response) == [sample.sop for sample in samples]
    assert list(response.json()) == ["00081190", "00081199"]


def test_the_study_of_a_request_is_published_with_the_door_as_its_caller(start_listener: Start) -> None:
    listener = start_listener(stow={"port": 0, "ae_title": "WEB"})
    samples = [make_sample(study="1.2.3", series="1.2.3.4") for _ in range(2)]
    stow.store(listener, *samples, path="/studies/1.2.3")
    manifest = listener.manifest("1.2.3")
    assert manifest.calling_ae_titles == ("WEB",)
    assert len(list(manifest.instances())) == 2


def test_the_same_object_again_is_success_by_either_door(listener: Running) -> None:
    sample = make_sample()
    assert stow.store(listener, sample).status_code == 200
    again = stow.store(listener, sample)
    assert (again.status_code, stored(again)) == (200, [sample.sop])
    with listener.send() as sender:
        assert sender.store(sample).Status == 0
    assert len(listener.journal_files) == 1


def test_the_response_is_a_data_set_that_pydicom_reads(listener: Running) -> None:
    good, bad = make_sample(), make_sample()
    ds = Dataset.from_json(post(listener, message(dicom_file(good), dicom_file(bad, sop_instance_uid="1.2.999"))).text)
    assert ds.RetrieveURL is None or ds.RetrieveURL == ""
    assert [item.ReferencedSOPInstanceUID for item in ds.ReferencedSOPSequence] == [good.sop]
    assert ds.ReferencedSOPSequence[0].ReferencedSOPClassUID == MR
    assert [(item.ReferencedSOPInstanceUID, item.FailureReason) for item in ds.FailedSOPSequence] == [
        ("1.2.999", 0xA900)
    ]


def test_xml_is_answered_to_who_prefers_it(listener: Running) -> None:
    sample = make_sample()
    response = stow.store(listener, sample, Accept="application/dicom+json;q=0.5, application/dicom+xml")
    assert response.headers["content-type"] == "application/dicom+xml"
    names = {"n": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    root = ElementTree.fromstring(response.content)
    path = "n:DicomAttribute[@keyword='ReferencedSOPSequence']/n:Item/n:DicomAttribute[@tag='00081155']/n:Value"
    assert [node.text for node in root.findall(path, names)] == [sample.sop]


@pytest.mark.parametrize("accept", ["text/html", "application/dicom+json;q=0"])
def test_a_client_that_takes_no_media_type_of_ours_is_refused_before_anything_is_stored(
    listener: Running, accept: str
) -> None:
    response = stow.store(listener, make_sample(), Accept=accept)
    assert response.status_code == 406
    assert response.headers["content-type"] == "application/problem+json"
    assert listener.journal_files == []


def test_some_failures_among_successes_are_202(listener: Running) -> None:
    good, truncated, strange = make_sample(), make_sample(), make_sample()
    response = post(
        listener,
        message(
            dicom_file(truncated)[:-10],
            dicom_file(good),
            dicom_file(strange, transfer_syntax_uid="1.2.840.10008.1.2.999"),
            b"no DICOM file",
        ),
    )
    assert response.status_code == 202
    assert stored(response) == [good.sop]
    assert failed(response) == {truncated.sop: 0xC000, strange.sop: 0xC122}
    assert other_failures(response) == [0xC000]
    assert names(listener) == {journal_name(good, "STOW-RS")}
    assert receiving(listener) == []


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.6.1"}, 0xC122),
        ({"sop_class_uid": "1.2.840.10008.1.1"}, 0x0122),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.2.2.1"}, 0x0122),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"}, 0xA900),
    ],
)
def test_an_object_whose_file_says_what_is_not_stored_is_409(
    listener: Running, meta: dict[str, str], reason: int
) -> None:
    sample = make_sample()
    response = post(listener, message(dicom_file(sample, **meta)))
    assert (response.status_code, failed(response)) == (409, {sample.sop: reason})
    assert listener.journal_files == []


@pytest.mark.parametrize("meta", [{"transfer_syntax_uid": ""}, {"sop_class_uid": "MR"}, {"sop_instance_uid": "../1"}])
def test_a_file_without_a_usable_head_is_a_failure_without_a_name(listener: Running, meta: dict[str, str]) -> None:
    response = post(listener, message(dicom_file(make_sample(), **meta)))
    assert response.status_code == 409
    assert list(failed(response).values()) + other_failures(response) == [0xC000]
    assert "../1" not in response.text


def test_the_sop_classes_of_the_settings_hold_for_this_door_too(start_listener: Start) -> None:
    listener = start_listener(stow={"port": 0}, sop_classes=("1.2.840.10008.5.1.4.1.1.2",))
    sample = make_sample()
    assert failed(stow.store(listener, sample)) == {sample.sop: 0x0122}


def test_an_object_of_another_study_than_the_urls_is_not_stored(listener: Running) -> None:
    right, wrong = make_sample(study="1.2.3"), make_sample(study="1.2.4")
    both = stow.store(listener, right, wrong, path="/studies/1.2.3")
    assert (both.status_code, stored(both), failed(both)) == (202, [right.sop], {wrong.sop: 0xA900})
    alone = stow.store(listener, wrong, path="/studies/1.2.3")
    assert (alone.status_code, failed(alone)) == (409, {wrong.sop: 0xA900})
    assert names(listener) == {journal_name(right, "STOW-RS")}


def test_another_object_under_a_known_uid_is_refused(listener: Running) -> None:
    first = make_sample()
    other = make_sample(study=first.study, series=first.series, sop=first.sop, fill=1)
    stow.store(listener, first)
    response = stow.store(listener, other)
    assert (response.status_code, failed(response)) == (409, {first.sop: 0x0111})
    assert names(listener) == {journal_name(first, "STOW-RS")}


@pytest.mark.parametrize("path", ["/studies", "/studies/1.2.3"])
def test_routing_rules_hold_for_this_door_too(start_listener: Start, tmp_path: Path, path: str) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - name: no web\n    when: {calling_ae: STOW-RS}\n    then: refuse\n")
    listener = start_listener(stow={"port": 0}, rules_file=rules)
    sample = make_sample(study="1.2.3")
    response = stow.store(listener, sample, path=path)
    assert (response.status_code, failed(response)) == (409, {sample.sop: 0x0124})


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, "1.2.840.10008.1.2.2"])
def test_transfer_syntaxes_are_kept_as_sent(listener: Running, syntax: str) -> None:
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    ds["PixelData"].VR = VR.OW
    sample = Sample(encode(ds, syntax), "1.2", "1.2.3", "1.2.3.4", transfer_syntax=syntax)
    assert stow.store(listener, sample).status_code == 200
    assert names(listener) == {journal_name(sample, "STOW-RS")}


def test_a_file_that_pydicom_wrote_is_taken(listener: Running) -> None:
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, "1.2.3.4"
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = generate_uid(), b"\0" * 5000
    buffer = BytesIO()
    FileDataset(buffer, ds, file_meta=meta, preamble=b"\x89" * 128).save_as(buffer, enforce_file_format=True)
    assert post(listener, message(buffer.getvalue())).status_code == 200


def test_a_part_may_lack_its_content_type_and_have_other_headers(listener: Running) -> None:
    samples = [make_sample(), make_sample()]
    plain = post(listener, message(dicom_file(samples[0]), headers=""))
    headers = 'Content-ID: <1@here>\r\ncontent-type: Application/DICOM; transfer-syntax="1.2.840.10008.1.2.1"\r\n'
    decorated = post(listener, message(dicom_file(samples[1]), headers=headers))
    assert (plain.status_code, decorated.status_code) == (200, 200)


def test_a_part_of_another_media_type_is_no_object(listener: Running) -> None:
    response = post(listener, message(dicom_file(make_sample()), headers="Content-Type: image/jpeg\r\n"))
    assert (response.status_code, other_failures(response)) == (409, [0xC000])


@pytest.mark.parametrize(
    "content_type",
    [
        "application/dicom",
        "application/dicom+json",
        'multipart/form-data; boundary="a-boundary"',
        'multipart/related; type="application/dicom+json"; boundary="a-boundary"',
        'multipart/related; type="application/dicom+xml"; boundary="a-boundary"',
        'multipart/related; type="image/jpeg"; boundary="a-boundary"',
        "nonsense",
    ],
)
def test_other_media_types_are_415_and_the_answer_says_what_is_taken(listener: Running, content_type: str) -> None:
    response = post(listener, message(dicom_file(make_sample())), Content_Type=content_type)
    assert response.status_code == 415
    assert response.headers["content-type"] == "application/problem+json"
    assert 'multipart/related; type="application/dicom"' in response.json()["detail"]
    assert listener.journal_files == []


def test_a_content_encoding_is_415(listener: Running) -> None:
    assert stow.store(listener, make_sample(), Content_Encoding="gzip").status_code == 415


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", stow.CONTENT_TYPE),
        (b"--a-boundary--\r\n", stow.CONTENT_TYPE),
        (b"nothing of it", stow.CONTENT_TYPE),
        (b"x" * 5000 + b"\r\n" + message(b"x"), stow.CONTENT_TYPE),
        (b"x" + message(b"x"), stow.CONTENT_TYPE),
        (b"--a-boundary\r\nContent-Type", stow.CONTENT_TYPE),
        (b"--another\r\n\r\nx\r\n--another--\r\n", stow.CONTENT_TYPE),
        (b"--a-boundary\r\n" + b"A: b\r\n" * 50 + b"\r\nx\r\n--a-boundary--", stow.CONTENT_TYPE),
        (b"--a-boundary\r\nA: " + b"b" * 5000 + b"\r\n\r\nx\r\n--a-boundary--", stow.CONTENT_TYPE),
        (message(b"x"), 'multipart/related; type="application/dicom"'),
        (message(b"x", boundary="b" * 71), f'multipart/related; type="application/dicom"; boundary="{"b" * 71}"'),
    ],
)
def test_what_is_not_divided_into_parts_is_400(listener: Running, body: bytes, content_type: str) -> None:
    response = post(listener, body, Content_Type=content_type)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


def test_a_preamble_and_an_epilogue_mean_nothing(listener: Running) -> None:
    sample = make_sample()
    response = post(
        listener, b"a preamble\r\n-- \r\n" + message(dicom_file(sample)) + message(dicom_file(make_sample()))
    )
    assert (response.status_code, stored(response)) == (200, [sample.sop])
    assert len(listener.journal_files) == 1


def test_a_message_without_its_closing_delimiter_stores_nothing_of_its_last_part(listener: Running) -> None:
    whole, cut = make_sample(), make_sample()
    body = message(dicom_file(whole), dicom_file(cut))[: -len(b"--a-boundary--\r\n")]
    response = post(listener, body)
    assert response.status_code == 400
    assert names(listener) == {journal_name(whole, "STOW-RS")}
    assert receiving(listener) == []


def test_a_delimiter_in_the_pixels_that_is_none_ends_no_part(listener: Running) -> None:
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    ds.PixelData = b"\r\n--a-boundar\r\n--a-boundary-\r\n--a-boundaryx\r\n--a-boundary\r x\r\n--"
    sample = Sample(encode(ds), "1.2", "1.2.3", "1.2.3.4")
    assert stow.store(listener, sample).status_code == 200
    assert names(listener) == {journal_name(sample, "STOW-RS")}


@pytest.mark.parametrize("path", ["/studies/../etc", "/studies/abc", "/studies/1.2.3/series", "/", "/metrics"])
def test_only_the_two_resources_are_here(listener: Running, path: str) -> None:
    assert stow.store(listener, make_sample(), path=path).status_code in (400, 404)
    assert listener.journal_files == []


def test_requests_are_counted_by_status(listener: Running) -> None:
    def count(status: str) -> float:
        return metrics.STOW_REQUESTS.labels(status)._value.get()

    before = [count(status) for status in ("200", "400", "404")]
    objects = metrics.OBJECTS.labels("stored", "0000")._value.get()
    stow.store(listener, make_sample())
    post(listener, b"")
    post(listener, b"", "/nowhere")
    assert [count(status) for status in ("200", "400", "404")] == [value + 1 for value in before]
    assert metrics.OBJECTS.labels("stored", "0000")._value.get() == objects + 1


def test_nothing_of_the_patient_is_in_responses_or_logs(listener: Running, caplog: pytest.LogCaptureFixture) -> None:
    good, conflicting = make_sample(), make_sample(patient_id="SECRET-7")
    other = make_sample(study=good.study, series=good.series, sop=good.sop, patient_id="SECRET-7", fill=3)
    bodies = [
        message(dicom_file(good), dicom_file(other), dicom_file(conflicting)[:-20]),
        message(conflicting.dataset),
        message(dicom_file(conflicting), headers="Content-Type: application/dicom; x=Phantom^Synthetic\r\n")[:-30],
        message(dicom_file(conflicting), boundary="Phantom^Synthetic"),
    ]
    with caplog.at_level("DEBUG"):
        told = "".join(post(listener, body).text for body in bodies) + caplog.text
    assert len(told) > 500
    for secret in ("Phantom", "PHANTOM-1", "SECRET-7", "19640311"):
        assert secret not in told
