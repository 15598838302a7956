"""Results of Similis that a PACS sends back are stored and left alone: no round trip brings forth the next."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from embedder_studies import SeriesSpec, archive_study, dicom, slices
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage

from shared.archive import Archive
from shared.events import StudyReceived
from shared.manifest import StudyManifest
from shared.own_results import MODEL_NAME, is_own_result

OWN = "1.2.826.1.7"


def capture(sop: str, model: str | None) -> bytes:
    """A Secondary Capture, as the explainer, or something else, writes one."""
    ds = pydicom.dcmread(io.BytesIO(dicom(sop)))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    if model is not None:
        ds.ManufacturerModelName = model
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def second_revision(archive: Archive, *added: SeriesSpec) -> StudyReceived:
    """Revision 2: the first one's slices, and what was added, with the SOP class that its header has."""
    received = archive_study(archive, slices(2), *added, revision=2)
    manifest = StudyManifest.model_validate_json(archive.get(received.manifest_key))
    new = {sop for spec in added for sop in spec.objects}
    series = []
    for entry in manifest.series:
        instances = []
        for instance in entry.instances:
            ds = pydicom.dcmread(io.BytesIO(archive.get(instance.archive_key)), stop_before_pixels=True)
            changes = {"is_new": instance.sop_instance_uid in new, "sop_class_uid": str(ds.SOPClassUID)}
            instances.append(instance.model_copy(update=changes))
        series.append(entry.model_copy(update={"instances": tuple(instances)}))
    changed = manifest.model_copy(update={"series": tuple(series)})
    archive.put(received.manifest_key, changed.model_dump_json().encode())
    return received


def test_a_revision_of_nothing_but_own_results_is_not_judged_again(embed, archive, index):
    (first,) = embed(archive_study(archive, slices(2)))

    again = embed(second_revision(archive, SeriesSpec({OWN: capture(OWN, MODEL_NAME)}, uid="1.2.826.1.6")))

    assert again == ()
    assert first.frames_embedded == index.count() == 2
    assert not archive.exists(f"diagnoses/{first.study_instance_uid}/2/{first.task}.json")


def test_own_results_beside_new_images_are_skipped(embed, archive, index):
    embed(archive_study(archive, slices(2)))
    late = slices(1, prefix="1.2.826.1.9", seed=50)

    (event,) = embed(second_revision(archive, late, SeriesSpec({OWN: capture(OWN, MODEL_NAME)}, uid="1.2.826.1.6")))

    assert event.frames_embedded == index.count() == 3
    assert [(skip.sop_instance_uid, skip.reason) for skip in event.skipped] == [(OWN, "not-an-image")]
    assert not event.partial


@pytest.mark.parametrize("model", [None, "Similis explainer II", "Secondary Capture Station"])
def test_other_secondary_captures_are_judged(embed, archive, index, model):
    embed(archive_study(archive, slices(2)))

    (event,) = embed(second_revision(archive, SeriesSpec({OWN: capture(OWN, model)}, uid="1.2.826.1.6")))

    assert (event.revision, event.frames_embedded) == (2, 3)


def test_an_image_of_a_modality_is_never_taken_for_a_result(embed, archive):
    """Only SOP classes that results have are looked into."""
    embed(archive_study(archive, slices(2)))
    ds = pydicom.dcmread(io.BytesIO(dicom(OWN)))
    assert ds.SOPClassUID == MRImageStorage
    ds.ManufacturerModelName = MODEL_NAME
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)

    (event,) = embed(second_revision(archive, SeriesSpec({OWN: buffer.getvalue()}, uid="1.2.826.1.6")))

    assert event.frames_embedded == 3


def test_a_deflated_result_is_told_by_its_first_elements_alone():
    """Whole, such an object may be thousands of times its size."""
    ds = pydicom.dcmread(io.BytesIO(capture(OWN, MODEL_NAME)))
    ds.PixelData = np.random.default_rng(0).bytes(2_000_000)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()

    damaged_behind = whole[:-1_000_000] + b"\xff" * 1_000_000

    assert is_own_result(whole)
    assert is_own_result(damaged_behind)


@pytest.mark.parametrize("data", [b"", b"DICM", b"\0" * 400])
def test_what_cannot_be_read_is_no_result(data):
    assert not is_own_result(data)
