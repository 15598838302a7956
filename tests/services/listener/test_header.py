"""The header that the manifest is made of, and the file around a data set."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from listener_harness import MR, encode, make_dataset
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from services.listener.answers import RefusedObjectError
from services.listener.elements import BytesSource
from services.listener.header import ObjectHeader, age_band, read_header
from services.listener.part10 import encode_file_head, read_file_head
from shared.pseudonym import Pseudonyms

PSEUDONYMS = Pseudonyms(b"k" * 32)


def header_of(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> ObjectHeader:
    header, _ = read_header(BytesSource(encode(ds, syntax)), syntax, PSEUDONYMS, max_bytes=1 << 20)
    return header


def dataset(**values: object) -> Dataset:
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    for keyword, value in values.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_header_is_read_in_every_byte_order(syntax: str) -> None:
    assert header_of(dataset(NumberOfFrames=3), syntax) == ObjectHeader(
        sop_class_uid=MR,
        sop_instance_uid="1.2.3.4",
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        modality="MR",
        body_part="BRAIN",
        study_date="20250310",
        number_of_frames=3,
        patient_pseudonym=PSEUDONYMS.of(issuer="", patient_id="PHANTOM-1", study_instance_uid="1.2"),
        sex="F",
        age_band="60-69",
    )


@pytest.mark.parametrize("missing", ["PixelData", "Rows", "Columns"])
def test_an_object_without_an_image_has_no_frames(missing: str) -> None:
    assert header_of(dataset(**{missing: None})).number_of_frames == 0


@pytest.mark.parametrize(
    ("age", "born", "studied", "band"),
    [
        ("061Y", None, None, "60-69"),
        ("006M", None, None, "0-9"),
        ("130M", None, None, "10-19"),
        ("003W", None, None, "0-9"),
        ("104Y", None, None, "90+"),
        ("", "19640311", "20250310", "60-69"),
        ("", "19550311", "20250310", "60-69"),
        ("", "19550310", "20250310", "70-79"),
        ("", "20260101", "20250310", None),
        ("", "19550310", None, None),
        ("old", None, None, None),
    ],
)
def test_ages_become_bands(age: str, born: str | None, studied: str | None, band: str | None) -> None:
    assert age_band(age, born, studied) == band


@pytest.mark.filterwarnings("ignore:.*nvalid value")
def test_free_text_in_a_code_is_dropped() -> None:
    header = header_of(dataset(Modality="Jane Doe, 7 Elm Street", BodyPartExamined="Jane^Doe", PatientSex="?"))
    assert (header.modality, header.body_part, header.sex) == ("OT", None, None)


@pytest.mark.parametrize("value", ["DOE JANE", "DOE", "JANE_DOE", "DOEJANE", "SMITH 1970"])
def test_a_name_that_looks_like_a_code_is_dropped(value: str) -> None:
    header = header_of(dataset(Modality=value, BodyPartExamined=value))
    assert (header.modality, header.body_part) == ("OT", None)


@pytest.mark.filterwarnings("ignore:.*nvalid value")
@pytest.mark.parametrize(
    ("sent", "kept"), [("CT", "CT"), ("ct", "CT"), (["MR", "DOE"], "MR"), ("DF", "DF"), ("M3D", "M3D"), ("C T", "OT")]
)
def test_modalities_are_defined_terms(sent: object, kept: str) -> None:
    assert header_of(dataset(Modality=sent)).modality == kept


@pytest.mark.filterwarnings("ignore:.*nvalid value")
@pytest.mark.parametrize(
    ("sent", "kept"),
    [("CHEST", "CHEST"), ("WHOLE BODY", "WHOLEBODY"), ("C_SPINE", "CSPINE"), ("knee", "KNEE"), ("DOE CHEST", None)],
)
def test_body_parts_are_defined_terms(sent: str, kept: str | None) -> None:
    assert header_of(dataset(BodyPartExamined=sent)).body_part == kept


@pytest.mark.filterwarnings("ignore:.*nvalid value")
@pytest.mark.parametrize(("sent", "kept"), [("2025.03.10", "20250310"), ("20251399", None), ("", None), ("2025", None)])
def test_study_dates_are_dates_or_nothing(sent: str, kept: str | None) -> None:
    assert header_of(dataset(StudyDate=sent)).study_date == kept


def test_a_patient_id_in_another_character_set_gives_a_pseudonym() -> None:
    ds = dataset()
    ds.PatientID = "PHANTÖM"
    ds.SpecificCharacterSet = "ISO_IR 100"
    assert len(header_of(ds).patient_pseudonym) == 32


@pytest.mark.parametrize("uid", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid_is_refused_by_its_name(uid: str) -> None:
    with pytest.raises(RefusedObjectError, match="UID is missing"):
        header_of(dataset(**{uid: None}))


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    body = encode(dataset())
    head = encode_file_head(sop_class_uid=MR, sop_instance_uid="1.2.3.4", transfer_syntax_uid=ExplicitVRLittleEndian)
    file = tmp_path / "object.dcm"
    file.write_bytes(head + body)
    with file.open("rb") as opened:
        assert read_file_head(opened.fileno()) == (ExplicitVRLittleEndian, len(head))
    ds = dcmread(BytesIO(head + body))
    assert ds.file_meta.MediaStorageSOPClassUID == MR
    assert ds.PatientID == "PHANTOM-1"


def test_other_files_are_not_taken_for_journal_files(tmp_path: Path) -> None:
    for data in (b"", b"\0" * 200, b"DICM" * 100):
        file = tmp_path / "other"
        file.write_bytes(data)
        with file.open("rb") as opened, pytest.raises(RefusedObjectError):
            read_file_head(opened.fileno())
