"""What the results say, whose they are, and that a repeat is the same object."""

from __future__ import annotations

import copy
import io
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from services.explainer.dicom_results import (
    DicomResult,
    SourceError,
    frame_results,
    key_objects,
    source_frame,
    source_header,
)
from services.explainer.dicom_results.finish import identity_of
from services.explainer.dicom_results.identity import instance_uid
from shared.events import ClassScore, ResultKind
from shared.pixels.limits import PixelLimits
from shared.pixels.quiet import quiet
from shared.vision.transform import Letterbox
from tests.services.explainer.dicom_results.sources import (
    GRID_PX,
    SOURCES,
    UNKNOWN,
    UNRELIABLE,
    box_of,
    enhanced_mr,
    facts,
    overlay_png,
    packaged,
    read,
    results,
    saliency,
)

CANARY = "CANARY"
ASKED = UUID("22222222-2222-5333-8444-555555555555")


@pytest.mark.parametrize("name", SOURCES)
def test_repeating_gives_the_same_bytes(name: str) -> None:
    make, number = SOURCES[name]
    first, again = results(make(), number), results(make(), number)
    assert {kind: result.data for kind, result in first.items()} == {kind: r.data for kind, r in again.items()}
    frames = [source_frame(make(), number)]
    assert key_objects(frames, facts(number)).data == key_objects(frames, facts(number)).data


def test_another_seed_mode_class_head_frame_or_diagnosis_is_another_object() -> None:
    ds = packaged("CT_small.dcm")
    changes: tuple[dict[str, object], ...] = (
        {},
        {"seed": 1},
        {"mode": "bf16"},
        {"method": "rollout"},
        {"label": "meningioma-like"},
        {"head_id": "brain-mr@1"},
        {"hashes": {"head": "cd" * 32}},
        {"backbone_id": "another"},
        {"variant": "vit-cx|exact-float32|delta=.2"},
        {"request_id": ASKED},
        {"request_id": UUID("22222222-2222-5333-8444-666666666666")},
        {"rank": 2},
        {"diagnosis_event_id": UUID("11111111-2222-5333-8444-666666666666")},
        {"software_version": "0.2.0"},
        {"frame_number": 2},
        UNRELIABLE,
    )
    uids = {instance_uid(facts(**changed), ds, kind) for changed in changes for kind in ResultKind}
    assert len(uids) == len(changes) * len(ResultKind)
    assert all(uid.is_valid and len(uid) <= 64 for uid in uids)


def test_a_map_that_rounds_differently_is_the_same_object() -> None:
    ds = packaged("CT_small.dcm")
    first = frame_results(ds, facts(), saliency(), box_of(ds), overlay_png())
    nearly = frame_results(ds, facts(), saliency() * np.float32(1 + 1e-6), box_of(ds), overlay_png())
    assert [r.sop_instance_uid for r in first] == [r.sop_instance_uid for r in nearly]


def test_what_came_out_of_the_making_of_a_map_is_in_no_uid() -> None:
    ds = packaged("CT_small.dcm")
    outcomes: dict[str, object] = {
        "parameters": {"delta": 0.1, "score_max": 0.71828, "second_passes": 3, "torch": "9.9", "device": "cuda:0"},
        "mask_count": 13,
        "frame_probability": 0.9123,
        "study_probability": 0.874,
        "faithfulness": None,
        "reliability_reason": "Its range is 30 times that of random weights.",
    }
    first, again = results(ds), results(ds, **outcomes)
    assert _uids(first) == _uids(again)
    parameters = {i.TextValue for i in _content(read(again[ResultKind.MEASUREMENT_REPORT])) if "TextValue" in i}
    assert {"score_max: 0.71828", "second_passes: 3", "torch: 9.9", "masks: 13"} <= parameters
    # a flat map has no region to refer to: that, too, is an outcome
    flat = {r.kind: r for r in frame_results(ds, facts(), np.zeros_like(saliency()), box_of(ds), overlay_png())}
    report = ResultKind.MEASUREMENT_REPORT
    assert ResultKind.SEGMENTATION not in flat
    assert flat[report].sop_instance_uid == first[report].sop_instance_uid


def test_another_region_share_is_another_region_and_another_report() -> None:
    ds = packaged("CT_small.dcm")
    half, most = (
        {r.kind: r for r in frame_results(ds, facts(), saliency(), box_of(ds), overlay_png(), region_share=share)}
        for share in (0.5, 0.9)
    )
    for kind in (ResultKind.SEGMENTATION, ResultKind.MEASUREMENT_REPORT):
        assert half[kind].sop_instance_uid != most[kind].sop_instance_uid
    assert "device" not in str(read(half[ResultKind.SEGMENTATION]))


def test_no_text_can_pass_for_another_fact() -> None:
    ds = packaged("CT_small.dcm")
    one, other = facts(method="a|b", mode="c"), facts(method="a", mode="b|c")
    assert instance_uid(one, ds, ResultKind.SEGMENTATION) != instance_uid(other, ds, ResultKind.SEGMENTATION)


def test_a_map_on_request_is_in_a_series_of_its_own_and_says_so() -> None:
    ds = enhanced_mr()
    policy, asked = results(ds, 4), results(ds, 4, request_id=ASKED)
    again, other = results(ds, 4, request_id=ASKED), results(ds, 4, request_id=UUID(int=ASKED.int + 1))
    assert {kind: r.data for kind, r in asked.items()} == {kind: r.data for kind, r in again.items()}
    uids = [uid for made in (policy, asked, other) for uid in _uids(made)]
    assert len(set(uids)) == len(uids) == 3 * 2 * len(policy)
    for made, is_asked in ((policy, False), (asked, True)):
        for result in map(read, made.values()):
            assert ("ON REQUEST" in result.SeriesDescription) is is_asked
            assert result.SeriesDescription.startswith("RESEARCH USE ONLY")
        words = " ".join(i.get("TextValue", "") for i in _content(read(made[ResultKind.MEASUREMENT_REPORT])))
        assert ("ON REQUEST" in words) is is_asked
        assert ("ON REQUEST" in read(made[ResultKind.SECONDARY_CAPTURE]).ImageComments) is is_asked
    flagged = results(ds, 4, request_id=ASKED, **UNKNOWN)
    assert all("RELIABILITY UNKNOWN - ON REQUEST" in read(r).SeriesDescription for r in flagged.values())


def test_key_objects_of_another_class_are_another_object() -> None:
    frames = [source_frame(packaged("CT_small.dcm"), 1)]
    one, other = key_objects(frames, facts()), key_objects(frames, facts(label="meningioma-like"))
    assert one.data != other.data
    assert one.sop_instance_uid != other.sop_instance_uid


def test_the_frames_of_a_diagnosis_share_a_series_of_each_kind() -> None:
    ds = enhanced_mr()
    first, second, flagged = results(ds, 4), results(ds, 5, rank=2), results(ds, 6, rank=3, **UNRELIABLE)
    series = {kind: result.series_instance_uid for kind, result in first.items()}
    assert len(set(series.values())) == len(series)
    assert {kind: result.series_instance_uid for kind, result in second.items()} == series
    # one description holds for a whole series
    assert not {r.series_instance_uid for r in flagged.values()} & set(series.values())
    assert [read(one[ResultKind.MEASUREMENT_REPORT]).InstanceNumber for one in (first, second)] == [1, 2]


@pytest.mark.parametrize("name", SOURCES)
def test_patient_and_study_are_the_sources(name: str) -> None:
    make, number = SOURCES[name]
    ds = make()
    ds.PatientID, ds.OtherPatientNames = "P-1", "Other^Name"
    made = [*results(ds, number).values(), key_objects([source_frame(ds, number)], facts(number))]
    for result in map(read, made):
        for element in identity_of(ds):
            assert result[element.tag] == element
        assert result.StudyInstanceUID == ds.StudyInstanceUID
        assert result.SeriesInstanceUID != ds.SeriesInstanceUID


def test_nothing_else_of_the_source_leaks() -> None:
    ds = enhanced_mr()
    ds.OtherPatientIDsSequence = [Dataset()]
    ds.OtherPatientIDsSequence[0].PatientID = "KEPT"
    ds.OtherPatientIDsSequence[0].private_block(0x0011, "SOMEONE", create=True).add_new(1, "LO", CANARY)
    ds.private_block(0x0013, "SOMEONE", create=True).add_new(1, "LO", CANARY)
    kept = {element.tag for element in identity_of(ds)} | {ds["PositionReferenceIndicator"].tag}
    for keyword in ("InstitutionName", "StationName", "OperatorsName", "PerformingPhysicianName", "ProtocolName"):
        setattr(ds, keyword, CANARY)
    ds.Manufacturer = ds.ManufacturerModelName = ds.ImageComments = ds.InstitutionAddress = CANARY
    for element in ds:
        if element.tag not in kept and element.VR in {"LO", "SH", "LT", "ST", "PN", "UT"}:
            element.value = CANARY
    for result in [*results(ds, 4).values(), key_objects([source_frame(ds, 4)], facts(4))]:
        assert CANARY.encode() not in result.data, result.kind
        assert b"KEPT" in result.data


def test_dates_are_the_diagnosis_in_the_sources_time_zone() -> None:
    ds = packaged("CT_small.dcm")
    ds.TimezoneOffsetFromUTC = "-0500"
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    for result in [*results(ds, diagnosed_at=moment).values(), key_objects([source_frame(ds, 1)], facts())]:
        written = read(result)
        assert written.TimezoneOffsetFromUTC == "-0500"
        assert (written.SeriesDate, written.SeriesTime) == ("20260101", "220405.000678")
        assert written.InstanceCreationDate == "20260101"
        assert written.get("ContentDate", "20260101") == "20260101"
    del ds.TimezoneOffsetFromUTC
    written = read(results(ds)[ResultKind.MEASUREMENT_REPORT])
    assert (written.ContentDate, written.ContentTime) == ("20260102", "030405.000678")
    assert "TimezoneOffsetFromUTC" not in written


def test_every_series_says_research_use_only() -> None:
    made = [*results(enhanced_mr(), 4).values(), key_objects([source_frame(enhanced_mr(), 4)], facts(4))]
    assert len(made) == 5
    for result in map(read, made):
        assert result.SeriesDescription.startswith("RESEARCH USE ONLY")
        assert len(result.SeriesDescription) <= 64
        assert "NOT RELIABLE" not in result.SeriesDescription


def test_the_report_has_finding_algorithm_faithfulness_and_references() -> None:
    ds = enhanced_mr()
    made = results(ds, 4)
    report = read(made[ResultKind.MEASUREMENT_REPORT])
    assert (report.VerificationFlag, report.PreliminaryFlag, report.CompletionFlag) == (
        "UNVERIFIED",
        "PRELIMINARY",
        "COMPLETE",
    )
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    title = report.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("126000", "DCM")
    assert "RESEARCH USE ONLY" in title.CodeMeaning
    items = {_name(item): item for item in _content(report)}
    assert items["Finding"].ConceptCodeSequence[0].CodeValue == "PHANTOM-GLIOMA"
    assert items["Finding"].ConceptCodeSequence[0].CodingSchemeDesignator == "99SIMILIS"
    assert items["Algorithm Name"].TextValue == "vit-cx"
    parameters = {i.TextValue for i in _content(report) if _name(i) == "Algorithm Parameters"}
    assert {
        "seed: 4294967295",
        "mode: exact-float32",
        "head: brain-mr@0f1e2d3c",
        "sha256 of head: " + "ab" * 32,
    } <= parameters
    numbers = {
        name: float(i.MeasuredValueSequence[0].NumericValue) for name, i in items.items() if i.ValueType == "NUM"
    }
    assert numbers["Insertion AUC of the map"] == 0.91
    assert numbers["Insertion AUC of a random order"] == 0.61
    assert numbers["Deletion AUC of the map"] == 0.12
    assert numbers["Deletion AUC of a random order"] == 0.55
    assert numbers["Probability of the finding, study"] == 0.875
    assert numbers["Probability of the finding, this frame"] == pytest.approx(0.9123456789, rel=1e-5)
    assert items["Reliability of the saliency map"].ConceptCodeSequence[0].CodeValue == "CHECKED"
    assert items["Source Image for Segmentation"].ReferencedSOPSequence[0].ReferencedFrameNumber == 4
    segment = items["Referenced Segmentation Frame"].ReferencedSOPSequence[0]
    assert segment.ReferencedSOPInstanceUID == made[ResultKind.SEGMENTATION].sop_instance_uid
    assert "ReferencedFrameNumber" not in segment
    referred = {i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in items.values() if i.ValueType == "IMAGE"}
    others = {made[kind].sop_instance_uid for kind in made if kind is not ResultKind.MEASUREMENT_REPORT}
    assert referred == others | {ds.SOPInstanceUID}
    evidence = {
        (reference.ReferencedSOPInstanceUID, series.SeriesInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    assert evidence == {
        (r.sop_instance_uid, r.series_instance_uid) for k, r in made.items() if k is not ResultKind.MEASUREMENT_REPORT
    } | {(ds.SOPInstanceUID, ds.SeriesInstanceUID)}


def test_what_was_not_measured_is_said_to_be_so() -> None:
    report = read(
        results(packaged("CT_small.dcm"), faithfulness=None, study_probability=None, finding=None)[
            ResultKind.MEASUREMENT_REPORT
        ]
    )
    names = {_name(item) for item in _content(report)}
    assert "Insertion AUC of the map" not in names
    assert any("Faithfulness of the map: not measured" in item.get("TextValue", "") for item in _content(report))
    [finding] = [item for item in _content(report) if _name(item) == "Finding"]
    assert finding.ConceptCodeSequence[0].CodingSchemeDesignator == "99SIMILIS"
    assert finding.ConceptCodeSequence[0].CodeMeaning == "glioma-like"


def test_an_unreliable_map_is_flagged_everywhere_and_gets_no_segment() -> None:
    ds = enhanced_mr()
    made = results(ds, 4, **UNRELIABLE)
    assert set(made) == {ResultKind.PARAMETRIC_MAP, ResultKind.SECONDARY_CAPTURE, ResultKind.MEASUREMENT_REPORT}
    for result in made.values():
        assert "NOT RELIABLE" in read(result).SeriesDescription
    assert "NOT RELIABLE" in read(made[ResultKind.PARAMETRIC_MAP]).ContentDescription
    assert UNRELIABLE["reliability_reason"] in read(made[ResultKind.SECONDARY_CAPTURE]).ImageComments
    report = read(made[ResultKind.MEASUREMENT_REPORT])
    words = " ".join(item.get("TextValue", "") for item in _content(report))
    assert "NOT RELIABLE" in words
    assert UNRELIABLE["reliability_reason"] in words
    [verdict] = [item for item in _content(report) if _name(item) == "Reliability of the saliency map"]
    assert verdict.ConceptCodeSequence[0].CodeValue == "NOT-RELIABLE"
    [reference] = [item for item in _content(report) if _name(item) == "Source of Measurement"]
    assert reference.ReferencedSOPSequence[0].ReferencedFrameNumber == 4


def test_the_secondary_capture_shows_the_overlay_below_a_notice() -> None:
    ds = packaged("CT_small.dcm")
    overlay = np.asarray(Image.open(io.BytesIO(overlay_png())))
    plain, flagged = (read(results(ds, **c)[ResultKind.SECONDARY_CAPTURE]) for c in ({}, UNRELIABLE))
    band = plain.Rows - overlay.shape[0]
    assert band > 0
    for one in (plain, flagged):
        assert np.array_equal(one.pixel_array[band:], overlay)
        assert one.ConversionType == "WSD"
    # the words in the band differ, and are there
    assert not np.array_equal(plain.pixel_array[:band], flagged.pixel_array[:band])
    assert plain.pixel_array[:band].std() > 5


def test_a_lossy_source_makes_a_lossy_result() -> None:
    make, number = SOURCES["VL microscopic, JPEG"]
    for result in map(read, results(make(), number).values()):
        assert result.get("LossyImageCompression", "01") == "01"
    assert read(results(make(), number)[ResultKind.SECONDARY_CAPTURE]).LossyImageCompression == "01"


def test_a_map_of_unknown_reliability_says_so_and_gets_no_segment() -> None:
    made = results(packaged("CT_small.dcm"), **UNKNOWN)
    assert ResultKind.SEGMENTATION not in made
    assert all("RELIABILITY UNKNOWN" in read(result).SeriesDescription for result in made.values())


def test_a_flat_map_has_a_report_and_no_segment() -> None:
    ds = packaged("CT_small.dcm")
    flat = np.full((GRID_PX, GRID_PX), 0.25, np.float32)
    made = {r.kind: r for r in frame_results(ds, facts(), flat, box_of(ds), overlay_png())}
    assert set(made) == {ResultKind.PARAMETRIC_MAP, ResultKind.SECONDARY_CAPTURE, ResultKind.MEASUREMENT_REPORT}


def test_key_objects_name_the_frames_strongest_first() -> None:
    enhanced = enhanced_mr()
    frames = [source_frame(enhanced, number) for number in (7, 2)]
    selection = read(key_objects(frames, facts(7)))
    [reference] = [
        item.ReferencedSOPSequence[0] for item in selection.ContentSequence if "ReferencedSOPSequence" in item
    ]
    assert list(reference.ReferencedFrameNumber) == [7, 2]
    assert reference.ReferencedSOPClassUID == enhanced.SOPClassUID
    words = " ".join(item.get("TextValue", "") for item in selection.ContentSequence)
    assert "RESEARCH USE ONLY" in words
    with pytest.raises(ValueError, match="several studies"):
        key_objects([*frames, source_frame(packaged("CT_small.dcm"), 1)], facts())
    with pytest.raises(ValueError, match="no evidence"):
        key_objects([], facts())


def test_names_keep_their_character_set() -> None:
    ds = packaged("CT_small.dcm")
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "Müller^Jürgen"
    for result in results(ds).values():
        assert "Müller^Jürgen".encode("latin-1") in result.data
        assert read(result).SpecificCharacterSet == "ISO_IR 100"
    greek = results(ds, label="γλοίωμα", classes=(ClassScore(label="γλοίωμα", probability=0.9, is_finding=True),))
    written = read(greek[ResultKind.MEASUREMENT_REPORT])
    assert written.SpecificCharacterSet == "ISO_IR 192"
    assert written.PatientName == "Müller^Jürgen"
    assert any("γλοίωμα" in item.get("TextValue", "") for item in _content(written))


def test_a_source_without_identity_gets_empty_elements() -> None:
    ds = packaged("CT_small.dcm")
    for keyword in ("PatientID", "PatientName", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID"):
        if keyword in ds:
            del ds[keyword]
    with quiet():
        ds.PatientSex = "female"  # no such value; it is not ours to mend
    report = read(results(ds)[ResultKind.MEASUREMENT_REPORT])
    with quiet():
        assert (report.PatientID, report.StudyID, report.PatientSex) == ("", "", "female")


def test_what_is_no_image_or_has_no_such_frame_is_refused() -> None:
    ds = packaged("CT_small.dcm")
    with pytest.raises(ValueError, match="frames, not 2"):
        results(ds, 2)
    del ds.Rows
    with pytest.raises(ValueError, match="Rows"):
        source_frame(ds, 1)
    with pytest.raises(ValueError, match="not a DICOM file"):
        source_header(b"GIF89a")


def test_a_header_is_read_without_its_pixels() -> None:
    path = get_testdata_file("CT_small.dcm", download=False)
    header = source_header(Path(str(path)).read_bytes())
    assert "PixelData" not in header
    data = {kind: result.data for kind, result in results(header).items()}
    assert data == {kind: result.data for kind, result in results(packaged("CT_small.dcm")).items()}


def test_a_deflated_source_is_inflated_no_further_than_its_pixels() -> None:
    # 64 MB of zeros that nobody asks for
    plain = packaged("CT_small.dcm")
    expected = {kind: result.data for kind, result in results(plain).items()}
    data = _deflated(plain, pixels=bytes(64_000_000))
    assert len(data) < 200_000
    tracemalloc.start()
    header = source_header(data, PixelLimits(max_decoded_bytes=1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000
    assert "PixelData" not in header
    assert {kind: result.data for kind, result in results(header).items()} == expected


def test_a_deflated_source_that_inflates_beyond_the_limit_before_its_pixels_is_refused() -> None:
    ds = packaged("CT_small.dcm")
    ds.private_block(0x0011, "SOMEONE", create=True).add_new(1, "OB", bytes(16_000_000))
    with pytest.raises(SourceError, match="inflates beyond the limit"):
        source_header(_deflated(ds), PixelLimits(max_decoded_bytes=1_000_000))
    assert source_header(_deflated(ds)).Rows == ds.Rows
    no_length = _deflated(ds).replace(b"DICM\x02\x00\x00\x00UL", b"DICM\x02\x00\x01\x00OB")
    with pytest.raises(SourceError, match="group length"):
        source_header(no_length)
    with pytest.raises(SourceError):
        source_frame(source_header(_deflated(ds)[:500]), 1)


def test_of_a_source_that_breaks_rules_no_value_is_quoted(recwarn: pytest.WarningsRecorder) -> None:
    header = source_header(Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes())
    secret = b"SECRET\\1\\2"
    for keyword in ("PatientWeight", "PixelSpacing", "PatientName", "StudyDate", "Rows"):
        tag = Tag(keyword)
        header[tag] = RawDataElement(tag, dictionary_VR(tag), len(secret), secret, 0, False, True)
    with pytest.raises(SourceError) as caught:
        frame_results(header, facts(), saliency(), Letterbox(0, 0, GRID_PX, GRID_PX), overlay_png())
    assert "SECRET" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize(
    "changed",
    [{"diagnosed_at": datetime(2026, 1, 2)}, {"rank": 0}, {"frame_probability": float("nan")}],  # noqa: DTZ001
)
def test_facts_without_sense_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        facts(**changed)


def test_long_words_are_cut_to_what_dicom_holds() -> None:
    made = results(packaged("CT_small.dcm"), task="t" * 64, label="l" * 200 + "\\\n", software_version="v" * 90)
    for result in map(read, made.values()):
        for element in result:
            if element.VR == "LO" and element.value and not isinstance(element.value, list):
                assert all(len(str(value)) <= 64 for value in ([element.value] if element.VM == 1 else element.value))


def _content(report: Dataset) -> Iterator[Dataset]:
    for item in report.get("ContentSequence", ()):
        yield item
        yield from _content(item)


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def _uids(made: dict[ResultKind, DicomResult]) -> list[str]:
    return [uid for result in made.values() for uid in (result.sop_instance_uid, result.series_instance_uid)]


def _deflated(ds: Dataset, pixels: bytes | None = None) -> bytes:
    """`ds` as a Part 10 file with a deflated data set."""
    made = copy.deepcopy(ds)
    if pixels is not None:
        made.PixelData = pixels
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    made.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()
