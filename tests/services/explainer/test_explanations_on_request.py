"""Maps that somebody asked for: any class, any frame; failures are told; results beside the policy's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from shared import events
from shared.archive import diagnosis_key, explanation_request_key, instance_key
from shared.errors import (
    ArchiveObjectMissingError,
    ArchiveUnavailableError,
    MalformedEventError,
    ModelMismatchError,
    NotExplainableError,
    UndecodablePixelsError,
)
from shared.events import Decision, ExplanationRequested, FrameReference, Reliability, ResultKind, StudyExplained
from shared.explanation_failure import ExplanationFailure
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.saliency.faithfulness import FaithfulnessParameters
from shared.vision.explain_reference import ExplainReference, RandomMap
from shared.vision.tasks import ExplainPolicy
from tests.services.explainer.conftest import evidence, mr_slice, with_explainer

FOLDER = "explanations/1.2.3/1/brain-mr"
FRAME = FrameReference(series_instance_uid="1.2.3.4", sop_instance_uid="1.2.3.4.5", frame_number=1)


def request(diagnosed, label=None, frames=(), archive=None):
    """The event; with an archive, also the question in it, as the query service leaves it there."""
    asked = ExplanationRequested(
        event_id=ExplanationRequested.identify(diagnosed, label, frames),
        occurred_at=events.now(),
        study_instance_uid=diagnosed.study_instance_uid,
        revision=diagnosed.revision,
        task=diagnosed.task,
        diagnosis_event_id=diagnosed.event_id,
        label=label,
        frames=frames,
    )
    if archive is not None:
        archive.put(key_of(asked, "asked"), asked.model_dump_json().encode())
    return asked


@pytest.fixture
def judged(archive, diagnosed):
    """The diagnosis, as the embedder leaves it in the archive."""
    alone = diagnosed.model_copy(update={"evidence": (evidence(),)})
    archive.put(diagnosis_key("1.2.3", 1, "brain-mr"), alone.model_dump_json().encode())
    return alone


def key_of(asked, state):
    return explanation_request_key("1.2.3", 1, "brain-mr", asked.event_id, state)


def test_another_class_is_explained_on_request_and_lies_beside_the_policys_map(step, archive, judged):
    by_policy = step(judged)
    asked = request(judged, "normal", (FRAME,))

    explained = step.requested(asked)

    (made,) = explained.maps
    assert (explained.request_id, explained.label, made.target_label) == (asked.event_id, "normal", "normal")
    assert made.map_key == f"{FOLDER}/1.2.3.4.5-1-{asked.event_id}.npy"
    assert explained.event_id != by_policy.event_id
    assert StudyExplained.model_validate_json(archive.get(key_of(asked, "explained"))) == explained
    assert StudyExplained.model_validate_json(archive.get(f"{FOLDER}/explained.json")) == by_policy
    assert not archive.exists(key_of(asked, "failed"))


def test_a_request_is_fulfilled_whatever_the_policy_says(with_policy, judged):
    assert with_policy("none")(judged) is None
    assert with_policy("none").requested(request(judged)).maps


def test_a_request_that_is_delivered_again_makes_nothing_again(step, judged):
    asked = request(judged, "normal")

    assert step.requested(asked) == step.requested(asked)


def test_a_request_for_a_diagnosis_that_was_replaced_is_refused_and_told(step, archive, judged):
    asked = request(judged, archive=archive)
    other = judged.model_copy(update={"event_id": asked.event_id})
    archive.put(diagnosis_key("1.2.3", 1, "brain-mr"), other.model_dump_json().encode())

    with pytest.raises(ModelMismatchError):
        step.requested(asked)

    failure = ExplanationFailure.model_validate_json(archive.get(key_of(asked, "failed")))
    assert failure.asked_at == asked.occurred_at
    assert "another diagnosis" in failure.reason


def test_a_frame_that_cannot_be_read_is_told(step, archive, judged):
    archive.put(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5"), mr_slice()[:-500])
    asked = request(judged, archive=archive)

    with pytest.raises(UndecodablePixelsError):
        step.requested(asked)

    assert archive.exists(key_of(asked, "failed"))


def test_a_missing_object_is_told_without_its_key(step, archive, judged):
    del archive.objects[instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5")]
    asked = request(judged, archive=archive)

    with pytest.raises(ArchiveObjectMissingError):
        step.requested(asked)

    reason = ExplanationFailure.model_validate_json(archive.get(key_of(asked, "failed"))).reason
    assert reason == "something that is needed is not in the archive"


def test_an_unexpected_error_is_told_too_and_an_outage_is_not(step, archive, judged):
    class Broken:
        backbone_id, variant = step.make.explainer.backbone_id, "broken"
        error: Exception = RuntimeError("/var/lib/secret")

        def explain_all(self, requests):
            raise self.error

    asked = request(judged, archive=archive)
    broken = with_explainer(step, Broken())
    Broken.error = ArchiveUnavailableError("away")
    with pytest.raises(ArchiveUnavailableError):
        broken.requested(asked)
    assert not archive.exists(key_of(asked, "failed"))

    Broken.error = RuntimeError("/var/lib/secret")
    with pytest.raises(RuntimeError):
        broken.requested(asked)

    assert "secret" not in archive.get(key_of(asked, "failed")).decode()


def test_a_request_that_nobody_asked_here_leaves_no_trace_when_it_fails(step, archive, diagnosed):
    before = set(archive.objects)

    with pytest.raises(ArchiveObjectMissingError):
        step.requested(request(diagnosed))

    assert set(archive.objects) == before


def test_another_answer_is_not_put_under_somebodys_request(step, archive, judged):
    asked = request(judged, "glioma-like", (FRAME,), archive)
    forged = asked.model_copy(update={"label": "normal"})

    with pytest.raises(MalformedEventError):
        step.requested(forged)
    assert not archive.exists(key_of(asked, "failed"))

    assert step.requested(asked).label == "glioma-like"


def test_a_frame_that_is_named_twice_is_explained_once(step, judged):
    assert len(step.requested(request(judged, "normal", (FRAME, FRAME))).maps) == 1


def test_an_object_is_fetched_once_for_all_its_frames(step, archive, diagnosed, task):
    archive.put(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5"), mr_slice(frames=3))
    frames = tuple(evidence(number=number) for number in (1, 2, 3))
    fetched = []

    class Counting:
        def __getattr__(self, name):
            return getattr(archive, name)

        def get(self, key):
            fetched.append(key)
            return archive.get(key)

    counting = replace(step.make, archive=Counting())
    definition = task.definition.model_copy(update={"explain": ExplainPolicy(policy="findings", max_frames=3)})
    tasks = {task.name: replace(task, definition=definition)}
    explained = replace(step, make=counting, tasks=tasks)(diagnosed.model_copy(update={"evidence": frames}))

    assert len(explained.maps) == 3
    assert len(fetched) == 1


def test_a_stricter_reference_makes_the_maps_anew(step, judged, task):
    first = step(judged)
    reference = ExplainReference.of(
        [RandomMap(lead=1.9, range=0.0)] * 20,
        head_id=task.head.id,
        head_sha256=None,
        backbone_id=task.head.backbone_id,
        architecture="tiny",
        method="vit-cx",
        mode="exact",
        parameters={},
        faithfulness={},
        weights="random",
        images="phantoms",
        seed=0,
    )

    again = replace(step, tasks={task.name: replace(task, explain_reference=reference)})(judged)

    assert again.event_id != first.event_id
    assert again.maps[0].reliability is Reliability.NOT_RELIABLE


def test_without_a_class_nothing_is_explained(step, archive, judged):
    abstained = judged.model_copy(update={"label": None, "decision": Decision.ABSTAINED})
    archive.put(diagnosis_key("1.2.3", 1, "brain-mr"), abstained.model_dump_json().encode())

    with pytest.raises(NotExplainableError, match="no class"):
        step.requested(request(abstained))
    assert step.requested(request(abstained, "normal")).label == "normal"


def test_one_bad_frame_does_not_take_the_others_along(with_policy, archive, diagnosed):
    archive.put(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.6"), mr_slice()[:-500])

    explained = with_policy("findings", 2)(diagnosed)

    assert [made.sop_instance_uid for made in explained.maps] == ["1.2.3.4.5"]
    (failed,) = explained.frames_failed
    assert (failed.sop_instance_uid, failed.reason) == ("1.2.3.4.6", "undecodable")


def test_a_map_comes_with_dicom_objects_and_measured_faithfulness(step, archive, judged):
    explained = step(judged)

    (made,) = explained.maps
    kinds = [found.kind for found in made.objects]
    assert {ResultKind.SECONDARY_CAPTURE, ResultKind.MEASUREMENT_REPORT} <= set(kinds)
    assert [found.kind for found in explained.objects] == [ResultKind.KEY_OBJECT_SELECTION]
    for found in (*made.objects, *explained.objects):
        assert archive.get(found.key)[128:132] == b"DICM"
    record = json.loads(archive.get(made.record_key))
    measured = record["trust"]["faithfulness"]
    assert made.faithfulness.insertion_auc == pytest.approx(measured["insertion"], abs=1e-4)
    assert made.faithfulness.random_deletion_auc == pytest.approx(measured["deletion_by_chance"], abs=1e-4)
    assert made.reliability is Reliability.UNKNOWN
    assert "no random-weight reference" in made.reliability_reason


def test_the_same_diagnosis_gives_the_same_dicom_objects(step, archive, judged):
    before = {found.key: archive.get(found.key) for made in step(judged).maps for found in made.objects}
    del archive.objects[f"{FOLDER}/explained.json"]

    step(judged)

    assert before
    assert {key: archive.get(key) for key in before} == before


def test_a_map_that_random_weights_could_have_drawn_is_flagged_everywhere(step, archive, judged, task):
    reference = ExplainReference.of(
        [RandomMap(lead=1.9, range=0.0)] * 20,
        head_id=task.head.id,
        head_sha256=None,
        backbone_id=task.head.backbone_id,
        architecture="tiny",
        method="vit-cx",
        mode="exact",
        parameters={},
        faithfulness={},
        weights="random",
        images="phantoms",
        seed=0,
    )
    strict = replace(step, tasks={task.name: replace(task, explain_reference=reference)})

    (made,) = strict(judged).maps

    assert made.reliability is Reliability.NOT_RELIABLE
    assert ResultKind.SEGMENTATION not in {found.kind for found in made.objects}
    record = json.loads(archive.get(made.record_key))
    assert record["reliability"] == "not-reliable"
    assert record["trust"]["lead_limit"] == 1.9
    game = record["trust"]["faithfulness"]
    lead = game["insertion"] - game["insertion_by_chance"] + game["deletion_by_chance"] - game["deletion"]
    assert record["trust"]["lead"] == pytest.approx(lead, abs=3e-4)

    unmeasured = replace(strict, make=replace(strict.make, trust=replace(strict.make.trust, faithfulness=None)))
    (made,) = unmeasured(judged).maps
    assert made.reliability is Reliability.UNKNOWN
    assert "not measured" in made.reliability_reason


def test_the_batch_size_makes_no_map_anew(step, judged):
    first = step(judged)
    trust = replace(step.make.trust, faithfulness=FaithfulnessParameters(batch_size=3))

    assert replace(step, make=replace(step.make, trust=trust))(judged) == first


def test_an_image_beyond_the_limits_is_told_as_too_large(with_policy, archive, diagnosed):
    archive.put(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.6"), mr_slice(rows=60))
    step = with_policy("findings", 2)
    reader = FrameReader.in_process(PixelLimits(max_frame_pixels=1500))

    explained = replace(step, make=replace(step.make, reader=reader))(diagnosed)

    assert [failed.reason for failed in explained.frames_failed] == ["too-large"]
