"""Which frames are decoded, and which of them a task judges."""

from __future__ import annotations

import pytest
from embedder_studies import STUDY, SeriesSpec, archive_study, dicom, made_up_task, slices

from services.embedder.select_frames import select_frames, tags_of
from services.embedder.study_objects import StudyObjects
from services.embedder.survey import survey_study
from shared.archive import manifest_key
from shared.manifest import StudyManifest
from shared.pixels import PixelLimits
from shared.vision.frame_policy import FramesPolicy


@pytest.fixture
def select(archive):
    def selected(*series: SeriesSpec, indexed: int = 64, **definitions: dict):
        archive_study(archive, *series)
        manifest = StudyManifest.model_validate_json(archive.get(manifest_key(STUDY, 1)))
        tasks = [made_up_task("b", 16, name=name, **definition) for name, definition in definitions.items()]
        survey = survey_study(manifest, StudyObjects(archive), PixelLimits(), lambda: None, tags_of(tasks))
        return select_frames(survey.series, tasks, FramesPolicy(max=indexed))

    return selected


def decoded(selection) -> int:
    return sum(len(choice.frame_numbers) for choice in selection.chosen)


def stack(frames: int, *, uid: str = "1.2.826.1.4", **more) -> SeriesSpec:
    return SeriesSpec({uid: dicom(uid, frames=frames, size=4)}, {uid: frames}, uid=uid, **more)


def test_a_task_without_a_policy_judges_the_frames_of_the_index(select):
    selection = select(stack(200), a={})
    assert decoded(selection) == len(selection.judged["a"]) == 64


def test_a_task_that_wants_fewer_frames_takes_them_from_those_of_the_index(select):
    selection = select(stack(200), a={"frames": {"policy": "evenly", "max": 11}})
    assert decoded(selection) == 64
    assert len(selection.judged["a"]) == 11


def test_what_several_tasks_and_the_index_want_is_decoded_once(select):
    selection = select(
        stack(100),
        indexed=10,
        every={"frames": {"policy": "every", "every": 4}},
        everything={"frames": {"policy": "all"}},
    )
    assert decoded(selection) == len(selection.judged["everything"]) == 100
    assert sorted(number for _, number in selection.judged["every"]) == list(range(1, 101, 4))


def test_every_series_is_chosen_from_by_itself(select):
    selection = select(stack(100), stack(30, uid="1.2.826.1.5"), a={"frames": {"policy": "evenly", "max": 20}})
    assert decoded(selection) == 64 + 30
    assert len(selection.judged["a"]) == 40


def test_a_limit_on_the_whole_study_thins_what_a_task_judges(select):
    selection = select(stack(100), stack(100, uid="1.2.826.1.5"), a={"max_frames": 64})
    assert decoded(selection) == 128
    assert len(selection.judged["a"]) == 64


def test_a_task_judges_no_localizer_and_no_other_modality(select):
    scout = SeriesSpec({"1.2.826.1.7": dicom("1.2.826.1.7", image_type="LOCALIZER")}, uid="1.2.826.1.7")
    other = SeriesSpec({"1.2.826.1.8": dicom("1.2.826.1.8")}, uid="1.2.826.1.8", modality="CT")
    selection = select(slices(3), scout, other, a={"frames": {"policy": "all"}})
    assert decoded(selection) == 5
    assert len(selection.judged["a"]) == 3


def test_a_task_by_tag_judges_the_frames_that_have_it(select):
    series = slices(4)
    marked = {f"1.2.826.1.6.{n}": dicom(f"1.2.826.1.6.{n}", position=10.0 + n, image_type="M_SE") for n in range(2)}
    series.objects |= marked
    selection = select(series, indexed=1, a={"frames": {"policy": "tag", "tag": "ImageType", "value": "M_SE"}})
    assert {uid for uid, _ in selection.judged["a"]} == set(marked)
    assert decoded(selection) == 3  # and the index's own
