from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.archive import check_key
from shared.labels import (
    COMMENT_MAX,
    Comment,
    LabelKey,
    LabelRecord,
    LabelTarget,
    MixedPatientsError,
    NotTakenError,
    UnknownClassError,
    UnknownFrameError,
    UnknownInstanceError,
    UnknownSeriesError,
    checked_target,
    label_key,
)
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.vision.tasks import TaskDefinition

UIDS = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}", fullmatch=True)
TASKS = st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,9}){0,4}", fullmatch=True)
TARGETS = st.one_of(
    st.builds(LabelTarget),
    st.builds(LabelTarget, series_instance_uid=UIDS),
    st.builds(LabelTarget, series_instance_uid=UIDS, sop_instance_uid=UIDS),
    st.builds(LabelTarget, sop_instance_uid=UIDS, frame_number=st.integers(1, 10**6)),
)
DEFINITION = TaskDefinition.model_validate(
    {
        "name": "shapes",
        "title": "Shapes",
        "modalities": ["MR"],
        "body_parts": ["BRAIN"],
        "classes": [{"label": "normal", "is_finding": False}, {"label": "spot", "is_finding": True}],
    }
)


def record(**values: object) -> LabelRecord:
    usual: dict[str, object] = {
        "label_id": uuid4(),
        "sequence": 1,
        "recorded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "recorded_by": None,
        "study_instance_uid": "1.2",
        "study_revision": 1,
        "target": LabelTarget(),
        "task": "shapes",
        "label": "spot",
        "supersedes": None,
    }
    return LabelRecord.model_validate({**usual, **values})


def series(uid: str, *instances: tuple[str, int], modality: str = "MR") -> SeriesEntry:
    return SeriesEntry(
        series_instance_uid=uid,
        modality=modality,
        body_part="brain",
        instances=tuple(
            InstanceEntry(
                sop_instance_uid=sop,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                archive_key=f"instances/1.2/{uid}/{sop}.dcm",
                size_bytes=1,
                sha256="0" * 64,
                number_of_frames=frames,
                patient_pseudonym="p",
                is_new=True,
            )
            for sop, frames in instances
        ),
    )


MANIFEST = StudyManifest(
    study_instance_uid="1.2",
    revision=1,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    calling_ae_titles=("A",),
    patient_pseudonyms=("p",),
    mixed_patients=False,
    series=(
        series("1.2.1", ("1.2.1.1", 1), ("1.2.1.2", 5), ("1.2.1.3", 0)),
        series("1.2.2", ("1.2.2.1", 1), modality="CT"),
    ),
)


@given(UIDS, TASKS, TARGETS, st.integers(1, 99_999_999))
def test_a_key_is_one_of_the_archive_and_tells_its_parts(study: str, task: str, target: LabelTarget, sequence: int):
    given = record(study_instance_uid=study, task=task, target=target, sequence=sequence)
    key = label_key(given)
    assert check_key(key) == key
    assert LabelKey.parse(key) == LabelKey(key, study, task, target.name, sequence, given.label_id)


@given(st.text(max_size=60))
def test_whatever_a_key_is_it_is_parsed_or_passed_over(text: str):
    key = label_key(record())
    for changed in (text, f"labels/{text}", key + text, key.replace("study", text)):
        found = LabelKey.parse(changed)
        assert found is None or found.target in changed


@pytest.mark.parametrize("uid", ["../1", "1/2", "1.2/../3", "", ".", "1..2", "1.2\n", "1" * 65, "\u0661.\u0662"])
def test_a_uid_that_could_leave_its_folder_makes_no_record(uid: str):
    for values in (
        {"study_instance_uid": uid},
        {"target": {"series_instance_uid": uid}},
        {"target": {"sop_instance_uid": uid}},
    ):
        with pytest.raises(ValidationError):
            record(**values)


def test_a_frame_is_one_of_a_sop_instance():
    with pytest.raises(ValidationError, match="frame_number goes with"):
        LabelTarget(series_instance_uid="1.2", frame_number=1)


@pytest.mark.parametrize("text", ["", "   ", "x" * (COMMENT_MAX + 1), "two\nlines", "a\x00b", "\x1b[31mred"])
def test_a_comment_is_one_short_line(text: str):
    with pytest.raises(ValidationError):
        TypeAdapter(Comment).validate_python(text)
    assert TypeAdapter(Comment).validate_python(" Kleiner Fleck links, 4 mm ") == "Kleiner Fleck links, 4 mm"


def test_a_label_may_be_given_to_what_the_task_takes():
    for target in (
        LabelTarget(),
        LabelTarget(series_instance_uid="1.2.1"),
        LabelTarget(series_instance_uid="1.2.1", sop_instance_uid="1.2.1.2", frame_number=5),
    ):
        assert checked_target(DEFINITION, MANIFEST, target, "spot") == target
    # The series of an instance is filled in.
    assert checked_target(DEFINITION, MANIFEST, LabelTarget(sop_instance_uid="1.2.1.1"), "spot") == LabelTarget(
        series_instance_uid="1.2.1", sop_instance_uid="1.2.1.1"
    )


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ({"series_instance_uid": "1.2.9"}, UnknownSeriesError),
        ({"sop_instance_uid": "1.2.9"}, UnknownInstanceError),
        ({"series_instance_uid": "1.2.2", "sop_instance_uid": "1.2.1.1"}, UnknownInstanceError),
        ({"sop_instance_uid": "1.2.1.2", "frame_number": 6}, UnknownFrameError),
        ({"sop_instance_uid": "1.2.1.1", "frame_number": 2}, UnknownFrameError),
        ({"series_instance_uid": "1.2.2"}, NotTakenError),
        ({"sop_instance_uid": "1.2.1.3"}, NotTakenError),
    ],
)
def test_what_the_study_has_not_or_the_task_takes_not_is_refused(target: dict[str, object], error: type[Exception]):
    with pytest.raises(error) as refused:
        checked_target(DEFINITION, MANIFEST, LabelTarget.model_validate(target), "spot")
    assert "1.2" not in str(refused.value)


def test_an_unknown_class_is_refused_without_being_repeated():
    with pytest.raises(UnknownClassError, match=r"^The classes of shapes are normal, spot\.$"):
        checked_target(DEFINITION, MANIFEST, LabelTarget(), "Doe^Jane")


def test_a_study_of_several_patients_takes_no_label():
    mixed = MANIFEST.model_copy(update={"mixed_patients": True})
    with pytest.raises(MixedPatientsError):
        checked_target(DEFINITION, mixed, LabelTarget(), "spot")
