"""The step, from an archived study to points and diagnoses."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from embedder_studies import STUDY, SeriesSpec, archive_study, dicom, made_up_task, report, slices
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless

from services.embedder.compose_event import rules_of
from services.embedder.ports import StoppingError
from shared.archive import LocalArchive, diagnosis_key
from shared.errors import (
    ArchiveObjectCorruptError,
    ArchiveObjectMissingError,
    IndexUnavailableError,
    InvalidVectorError,
    UndecodablePixelsError,
)
from shared.events import Decision, StudyDiagnosed
from shared.ids import point_id
from shared.pixels import PixelLimits
from shared.pixels.pool_frames import DecodeInProcess
from shared.vector_index.memory import MemoryIndex
from shared.vector_index.port import AnyOf, Filter
from shared.vision.features import Features
from shared.vision.frame_policy import FramesPolicy, evenly
from shared.vision.heads import Familiarity


def points(index):
    return index.scroll(limit=10_000)


def test_a_study_becomes_points_and_a_diagnosis(embed, archive, index, encoder):
    received = archive_study(archive, slices(5))
    (event,) = embed(received)
    assert (event.task, event.decision, event.label) == ("brain-mr", Decision.FINDING, "lesion")
    assert event.confidence == pytest.approx(0.95, abs=0.01)
    task = embed.tasks[0]
    identity = StudyDiagnosed.identify(STUDY, 1, "brain-mr", encoder.id, task.head.id, rules_of(task))
    assert event.event_id == identity
    assert event.frames_embedded == index.count() == 5
    assert not event.partial
    assert {point.id for point in points(index)} == {point_id(encoder.id, f"1.2.826.1.1.{n}", 1) for n in range(1, 6)}
    payload = points(index)[0].payload
    assert (payload.task, payload.decision, payload.label) == ("brain-mr", "finding", "lesion")
    assert (payload.study_date, payload.sex, payload.age_band) == (20240229, "F", "60-69")
    assert (payload.patient_pseudonym, payload.body_part, payload.revision) == ("p-1", "BRAIN", 1)


def test_the_diagnosis_is_in_the_archive_as_it_is_published(embed, archive):
    (event,) = embed(archive_study(archive, slices(2)))
    stored = archive.get(diagnosis_key(STUDY, 1, "brain-mr"))
    assert StudyDiagnosed.model_validate_json(stored) == event


def test_the_evidence_names_frames_of_the_study_strongest_first(embed, archive, index):
    (event,) = embed(archive_study(archive, slices(16)))
    assert len(event.evidence) == 4  # a quarter
    ids = {point.id for point in points(index)}
    assert all(frame.point_id in ids for frame in event.evidence)
    probabilities = [frame.probability for frame in event.evidence]
    assert probabilities == sorted(probabilities, reverse=True)


def test_redelivery_gives_the_stored_diagnosis_without_computing(embed, archive, index, encoder):
    received = archive_study(archive, slices(3))
    first = embed(received)
    before, passes = points(index), list(encoder.encoded)
    assert embed(received) == first
    assert encoder.encoded == passes
    assert [point.id for point in points(index)] == [point.id for point in before]


def test_redelivery_after_a_lost_index_embeds_again(embed, archive, encoder):
    received = archive_study(archive, slices(3))
    embed(received)
    fresh = MemoryIndex(encoder.dim)
    replace(embed, index=fresh)(received)
    assert fresh.count() == 3


def test_a_crash_between_index_and_archive_leaves_one_point_per_frame(embed, archive, index, monkeypatch):
    class Crashed(BaseException):
        """As a kill: nothing catches it."""

    def crash(*_: object) -> None:
        raise Crashed

    received = archive_study(archive, slices(3))
    with monkeypatch.context() as patch:
        patch.setattr(type(archive), "put", crash)
        with pytest.raises(Crashed):
            embed(received)
    assert index.count() == 3
    embed(received)
    assert index.count() == 3


def test_another_model_or_head_diagnoses_again(embed, archive, encoder):
    received = archive_study(archive, slices(2))
    (first,) = embed(received)
    other = replace(embed, tasks=(made_up_task(encoder.id, encoder.dim, bias=(3.0, 0.0)),))
    (second,) = other(received)
    assert second.event_id != first.event_id
    assert (second.decision, second.label) == (Decision.NO_FINDING, "normal")


def test_a_new_revision_replaces_the_study_and_its_label(embed, archive, index):
    embed(archive_study(archive, slices(2)))
    series = slices(2)
    series.objects |= slices(3, prefix="1.2.826.1.9", seed=50).objects
    (event,) = embed(archive_study(archive, series, revision=2))
    assert event.frames_embedded == index.count() == 5
    assert {point.payload.revision for point in points(index)} == {2}


def test_frames_that_a_new_revision_no_longer_uses_leave_the_index(embed, archive, index):
    limited = replace(embed, max_frames_per_series=3)
    limited(archive_study(archive, slices(7)))
    before = {point.id for point in points(index)}
    more = slices(7)
    more.objects |= {f"1.2.826.1.8.{n}": dicom(f"1.2.826.1.8.{n}", seed=n, position=10.0 + n) for n in range(6)}
    limited(archive_study(archive, more, revision=2))
    assert index.count() == 3
    assert {point.id for point in points(index)} != before


def test_a_late_first_revision_does_not_overwrite_the_second(embed, archive, index):
    series = slices(2)
    first = archive_study(archive, series)
    series.objects |= slices(2, prefix="1.2.826.1.9", seed=50).objects
    embed(archive_study(archive, series, revision=2))
    (event,) = embed(first)
    assert event.revision == 1
    assert {point.payload.revision for point in points(index)} == {2}
    assert index.count() == 4


def test_a_study_that_no_task_takes_is_embedded_and_says_so(embed, archive, index):
    series = slices(2)
    series.modality, series.body_part = "CT", "CHEST"
    (event,) = embed(archive_study(archive, series))
    assert (event.task, event.decision, event.head_id) == ("none", Decision.NO_TASK, None)
    assert "CT" in event.reason
    assert event.label is None
    assert index.count(Filter(must=(AnyOf("task", ("none",)),))) == 2


def test_several_tasks_give_an_event_each_from_one_pass(embed, archive, encoder, index):
    tasks = (
        made_up_task(encoder.id, encoder.dim, name="a-quiet", bias=(4.0, 0.0)),
        made_up_task(encoder.id, encoder.dim, name="b-loud"),
    )
    events = replace(embed, tasks=tasks)(archive_study(archive, slices(4)))
    assert [(event.task, event.decision) for event in events] == [
        ("a-quiet", Decision.NO_FINDING),
        ("b-loud", Decision.FINDING),
    ]
    assert sum(encoder.encoded) == 4
    assert {point.payload.task for point in points(index)} == {"b-loud"}  # the finding


def test_a_study_without_images_has_no_task_and_no_points(embed, archive, index):
    series = SeriesSpec({"1.2.826.1.5": report("1.2.826.1.5")}, {"1.2.826.1.5": 0}, modality="SR", body_part=None)
    (event,) = embed(archive_study(archive, series))
    assert (event.decision, event.reason) == (Decision.NO_TASK, "the study holds no image")
    assert event.frames_embedded == index.count() == 0
    assert [skip.reason for skip in event.skipped] == ["not-an-image"]
    assert not event.partial


def test_an_undecodable_image_makes_the_study_partial(embed, archive, index):
    series = slices(3)
    series.objects["1.2.826.1.1.2"] = series.objects["1.2.826.1.1.2"][:-1000]
    (event,) = embed(archive_study(archive, series))
    assert event.partial
    assert [(skip.sop_instance_uid, skip.reason) for skip in event.skipped] == [("1.2.826.1.1.2", "undecodable")]
    assert event.frames_embedded == index.count() == 2


def test_an_image_beyond_the_limits_is_skipped_as_too_large(embed, archive):
    series = slices(2)
    series.objects["1.2.826.1.1.7"] = dicom("1.2.826.1.1.7", size=64)
    (event,) = replace(embed, limits=PixelLimits(max_frame_pixels=2000))(archive_study(archive, series))
    assert [skip.reason for skip in event.skipped] == ["too-large"]
    assert event.partial


def test_a_study_whose_images_are_all_undecodable_is_an_error(embed, archive, index):
    series = slices(2)
    series.objects = {sop: data[:-1000] for sop, data in series.objects.items()}
    with pytest.raises(UndecodablePixelsError, match="none of the study's 2 images"):
        embed(archive_study(archive, series))
    assert index.count() == 0


def test_a_corrupt_object_is_an_error_and_nothing_is_stored(embed, archive, index):
    received = archive_study(archive, slices(3))
    key = next(archive.list(f"instances/{STUDY}"))
    data = bytearray(archive.get(key))
    data[-1] ^= 1
    archive.put(key, bytes(data))
    with pytest.raises(ArchiveObjectCorruptError, match="SHA-256"):
        embed(received)
    assert index.count() == 0


def test_a_missing_object_or_manifest_is_an_error(embed, archive):
    received = archive_study(archive, slices(2))
    key = next(archive.list(f"instances/{STUDY}"))
    kept = archive.objects.pop(key)
    with pytest.raises(ArchiveObjectMissingError):
        embed(received)
    archive.put(key, kept)
    del archive.objects[received.manifest_key]
    with pytest.raises(ArchiveObjectMissingError):
        embed(received)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe"])
def test_a_manifest_that_is_none_is_an_error(embed, archive, content):
    received = archive_study(archive, slices(1))
    archive.put(received.manifest_key, content)
    with pytest.raises(ArchiveObjectCorruptError, match="not a manifest"):
        embed(received)


def test_the_manifest_of_another_study_is_an_error(embed, archive):
    received = archive_study(archive, slices(1))
    other = archive_study(archive, slices(1), study="1.2.3")
    with pytest.raises(ArchiveObjectCorruptError, match="not the manifest of this event"):
        embed(received.model_copy(update={"manifest_key": other.manifest_key}))


def test_mixed_patients_are_not_judged(embed, archive, index):
    (event,) = embed(archive_study(archive, slices(3), pseudonyms=("p-1", "p-2")))
    assert event.decision is Decision.ABSTAINED
    assert event.mixed_patients
    assert "different patients" in event.reason
    assert (event.label, event.confidence, event.classes) == (None, None, ())
    assert index.count() == 3


def test_low_confidence_abstains_and_says_how_low(embed, archive, encoder):
    task = made_up_task(encoder.id, encoder.dim, bias=(0.0, 0.3), abstain_below=0.8)
    (event,) = replace(embed, tasks=(task,))(archive_study(archive, slices(3)))
    assert (event.decision, event.label) == (Decision.ABSTAINED, None)
    assert "0.57" in event.reason
    assert "0.80" in event.reason
    assert sum(entry.probability for entry in event.classes) == pytest.approx(1.0)


def test_localizers_are_embedded_but_not_judged(embed, archive, index):
    scout = {f"1.2.826.1.7.{n}": dicom(f"1.2.826.1.7.{n}", image_type="LOCALIZER", seed=n) for n in range(3)}
    (event,) = embed(archive_study(archive, slices(2), SeriesSpec(scout, uid="1.2.826.1.7")))
    assert index.count() == 5
    assert "on 2 frames" in event.reason
    (alone,) = embed(archive_study(archive, SeriesSpec(scout, uid="1.2.826.1.7"), study="1.2.827"))
    assert alone.decision is Decision.ABSTAINED


def test_frames_are_chosen_evenly_in_spatial_order(embed, archive, index):
    replace(embed, max_frames_per_series=3)(archive_study(archive, slices(9)))
    # UIDs run against the positions: .9 lies first, .1 last.
    assert {point.payload.sop_instance_uid for point in points(index)} == {f"1.2.826.1.1.{n}" for n in (1, 5, 9)}


def test_the_frames_of_a_multi_frame_object_are_sampled_too(embed, archive, index):
    series = SeriesSpec({"1.2.826.1.4": dicom("1.2.826.1.4", frames=50)}, {"1.2.826.1.4": 50})
    (event,) = replace(embed, max_frames_per_series=5)(archive_study(archive, series))
    assert sorted(point.payload.frame_number for point in points(index)) == [1, 13, 25, 38, 50]
    assert event.frames_embedded == 5


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (5, 8), (8, 8), (9, 8), (1000, 64), (65, 64), (3, 1), (100, 2)])
def test_an_even_choice_is_distinct_ascending_and_keeps_both_ends(count, limit):
    chosen = evenly(count, limit)
    assert len(chosen) == len(set(chosen)) == min(count, limit)
    assert chosen == sorted(chosen)
    if limit > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)


def test_skips_beyond_the_limit_are_counted(embed, archive):
    reports = SeriesSpec(
        {f"1.2.5.{n}": report(f"1.2.5.{n}") for n in range(5)}, dict.fromkeys([f"1.2.5.{n}" for n in range(5)], 0)
    )
    (event,) = replace(embed, max_listed_skips=2)(archive_study(archive, slices(1), reports))
    assert len(event.skipped) == 2
    assert "3 more objects were skipped" in event.reason


def test_features_that_are_not_finite_are_an_error(embed, archive, encoder, index):
    class Broken(type(encoder)):
        def encode_squares(self, squares):
            return Features(np.full((len(squares), 16), np.nan, np.float32), np.zeros((len(squares), 48), np.float32))

    with pytest.raises(InvalidVectorError):
        replace(embed, encoder=Broken())(archive_study(archive, slices(1)))
    assert index.count() == 0


def test_an_index_that_is_away_leaves_no_diagnosis(embed, archive, index, monkeypatch):
    def away(*_: object) -> None:
        raise IndexUnavailableError("away")

    received = archive_study(archive, slices(1))
    with monkeypatch.context() as patch:
        patch.setattr(MemoryIndex, "upsert", away)
        with pytest.raises(IndexUnavailableError):
            embed(received)
    assert not archive.exists(diagnosis_key(STUDY, 1, "brain-mr"))
    embed(received)
    assert index.count() == 1


def test_a_stop_ends_the_work_as_a_transient_error(embed, archive, index):
    def stopping() -> None:
        raise StoppingError("stopping")

    with pytest.raises(StoppingError):
        replace(embed, on_progress=stopping)(archive_study(archive, slices(2)))
    assert index.count() == 0


def with_broken_frames(sop: str, *broken: int, frames: int = 4) -> bytes:
    """A multi-frame object in RLE of which some frames are rubbish."""
    dataset = dcmread(io.BytesIO(dicom(sop, frames=frames)))
    dataset.compress(RLELossless, generate_instance_uid=False)
    streams = list(generate_frames(dataset.PixelData, number_of_frames=frames))
    for number in broken:
        streams[number - 1] = b"rubbish "
    dataset.PixelData = encapsulate(streams)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def test_a_frame_that_cannot_be_decoded_is_reported_and_the_others_are_judged(embed, archive, index):
    series = SeriesSpec({"1.2.826.1.4": with_broken_frames("1.2.826.1.4", 2)}, {"1.2.826.1.4": 4})
    (event,) = embed(archive_study(archive, series))
    assert event.decision is Decision.FINDING
    assert event.partial
    assert event.skipped == ()
    (failed,) = event.frames_failed
    assert (failed.sop_instance_uid, failed.frame_number, failed.reason) == ("1.2.826.1.4", 2, "undecodable")
    assert event.reason.endswith("1 frames could not be decoded")
    assert sorted(point.payload.frame_number for point in points(index)) == [1, 3, 4]


def test_an_object_without_a_readable_frame_is_skipped_and_its_frames_are_listed(embed, archive, index):
    series = slices(2)
    series.objects["1.2.826.1.4"] = with_broken_frames("1.2.826.1.4", 1, 2, frames=2)
    series.frames["1.2.826.1.4"] = 2
    (event,) = embed(archive_study(archive, series))
    assert [(skip.sop_instance_uid, skip.reason) for skip in event.skipped] == [("1.2.826.1.4", "undecodable")]
    assert [frame.frame_number for frame in event.frames_failed] == [1, 2]
    assert event.frames_embedded == index.count() == 2


def test_the_event_says_which_windows_were_made_up(embed, archive):
    series = slices(3)
    named = dcmread(io.BytesIO(series.objects["1.2.826.1.1.1"]))
    named.WindowCenter, named.WindowWidth = [2000, 1000], [4000, 500]
    buffer = io.BytesIO()
    named.save_as(buffer)
    series.objects["1.2.826.1.1.1"] = buffer.getvalue()
    (event,) = embed(archive_study(archive, series))
    assert [(note.note, note.frames) for note in event.pixel_notes] == [
        ("fallback-window-mr-percentile", 2),
        ("first-of-2-windows", 1),
    ]


def test_each_series_has_a_score_of_its_own(embed, archive):
    other = slices(3, prefix="1.2.826.1.2", seed=40)
    (event,) = embed(archive_study(archive, slices(5), other))
    assert [(score.series_instance_uid, score.frames) for score in event.series] == [
        ("1.2.826.1.1", 5),
        ("1.2.826.1.2", 3),
    ]
    for score in event.series:
        assert score.label == "lesion"
        assert score.probabilities["lesion"] == score.probability
        assert sum(score.probabilities.values()) == pytest.approx(1.0)


def test_every_class_has_an_interval_over_the_frames(embed, archive):
    (event,) = embed(archive_study(archive, slices(5)))
    for entry in event.classes:
        assert entry.low <= entry.probability <= entry.high
    (alone,) = embed(archive_study(archive, slices(1), study="1.2.827"))
    assert [(entry.low, entry.high) for entry in alone.classes] == [(None, None)] * 2


def test_a_study_unlike_the_training_images_says_how_far_and_in_words(embed, archive, encoder):
    task = made_up_task(encoder.id, encoder.dim, ood_distance_above=2.0)
    rows = np.eye(4 * encoder.dim, dtype=np.float32)[:2]
    far = Familiarity(rows, np.full(2, 1e-3, np.float32), 1e-3)
    near = Familiarity(rows, np.full(2, 1e3, np.float32), 1e3)
    for familiarity, decision in ((far, Decision.OUT_OF_DISTRIBUTION), (near, Decision.FINDING)):
        knowing = replace(task, head=replace(task.head, familiarity=familiarity))
        (event,) = replace(embed, tasks=(knowing,))(archive_study(archive, slices(3)))
        assert event.decision is decision
        assert event.out_of_distribution.limit == 2.0
        assert event.out_of_distribution.kind
        assert (event.out_of_distribution.distance > 2.0) is (decision is Decision.OUT_OF_DISTRIBUTION)
        if decision is Decision.OUT_OF_DISTRIBUTION:
            assert "unlike the training images" in event.reason
            assert "limit 2.00" in event.reason
            assert event.label is None


def test_the_event_names_the_head_and_its_card_by_hash_and_tells_where_the_time_went(embed, archive):
    task = replace(embed.tasks[0], head_sha256="a" * 64, card_sha256="b" * 64)
    (event,) = replace(embed, tasks=(task,))(archive_study(archive, slices(3)))
    assert event.model_card.model_dump() == {"task": "brain-mr", "head_sha256": "a" * 64, "card_sha256": "b" * 64}
    seconds = event.timing.model_dump()
    assert set(seconds) == {"survey_s", "decode_s", "encode_s", "embed_s", "judge_s", "index_s"}
    assert all(0 < value <= event.duration_s for value in seconds.values())
    assert seconds["survey_s"] + seconds["embed_s"] + seconds["judge_s"] + seconds["index_s"] <= event.duration_s


def test_an_object_is_fetched_once_from_a_store_across_the_network(embed, archive, monkeypatch):
    received = archive_study(archive, slices(4))
    fetched: list[str] = []
    get = type(archive).get
    monkeypatch.setattr(type(archive), "get", lambda self, key: fetched.append(key) or get(self, key))
    embed(received)
    instances = [key for key in fetched if key.startswith("instances/")]
    assert len(instances) == len(set(instances)) == 4


def test_an_object_that_changes_between_survey_and_decoding_is_an_error(embed, tmp_path, encoder, index):
    archive = LocalArchive(tmp_path)
    received = archive_study(archive, slices(2))

    class Tampering(DecodeInProcess):
        def objects(self, requests):
            for request in list(requests):
                request.source.write_bytes(request.source.read_bytes() + b"\0")
                yield from super().objects([request])

    decoder = Tampering(encoder.input_size_px, PixelLimits())
    with pytest.raises(ArchiveObjectCorruptError, match="SHA-256"):
        replace(embed, archive=archive, decoder=decoder)(received)
    assert index.count() == 0


def test_a_diagnosis_by_other_limits_frames_or_card_is_not_given_again(embed, archive):
    received = archive_study(archive, slices(3))
    task = replace(embed.tasks[0], card_sha256="a" * 64)
    definition = task.definition
    stricter = replace(task, definition=definition.model_copy(update={"abstain_below": 0.99}))
    fewer = replace(task, definition=definition.model_copy(update={"frames": FramesPolicy(max=1)}))
    described_anew = replace(task, card_sha256="b" * 64)
    events = [replace(embed, tasks=(each,))(received)[0] for each in (task, stricter, fewer, described_anew)]
    assert [event.decision for event in events[:2]] == [Decision.FINDING, Decision.ABSTAINED]
    assert events[2].series[0].frames == 1
    assert events[3].model_card.card_sha256 == "b" * 64
    assert len({event.event_id for event in events}) == 4
    (again,) = replace(embed, tasks=(task,))(received)
    assert again.event_id == events[0].event_id
