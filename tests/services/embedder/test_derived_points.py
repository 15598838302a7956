"""Means of series and studies, and frames in a task's own space, beside the frames' points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from embedder_studies import STUDY, SeriesSpec, archive_study, made_up_task, slices

from services.embedder.derived_points import DerivedIndexes
from services.embedder.embed_study import EmbedStudy
from services.embedder.points import of_study
from shared.errors import IndexUnavailableError
from shared.ids import mean_id
from shared.pixels import PixelLimits
from shared.vector_index.memory import MemoryIndex
from shared.vision.heads import Projection

KEPT = 3


@pytest.fixture
def derived(encoder) -> DerivedIndexes:
    return DerivedIndexes(MemoryIndex(encoder.dim), MemoryIndex(encoder.dim), {"brain-mr": MemoryIndex(KEPT)})


@pytest.fixture
def task(encoder):
    plain = made_up_task(encoder.id, encoder.dim)
    matrix = np.random.default_rng(1).normal(size=(KEPT, encoder.dim)).astype(np.float32)
    head = replace(plain.head, projection=Projection(matrix, np.zeros(encoder.dim, np.float32)))
    return replace(plain, head=head)


@pytest.fixture
def embed_all(archive, encoder, index, derived, task) -> EmbedStudy:
    return EmbedStudy(archive, encoder, (task,), index, PixelLimits(), derived=derived)


def points(index):
    return index.scroll(limit=1000)


def test_a_series_and_a_study_have_the_unit_mean_of_their_frames(embed_all, archive, index, derived, encoder):
    embed_all(archive_study(archive, slices(5)))
    (study,), (series,) = points(derived.studies), points(derived.series)
    mean = np.mean([point.vector for point in points(index)], axis=0)
    np.testing.assert_allclose(study.vector, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(series.vector, study.vector, atol=1e-6)
    assert study.id == mean_id(encoder.id, STUDY)
    assert series.id == mean_id(encoder.id, series.payload.series_instance_uid)


def test_the_strongest_evidence_stands_for_the_study(embed_all, archive, derived):
    (event,) = embed_all(archive_study(archive, slices(8)))
    (study,) = points(derived.studies)
    strongest = event.evidence[0]
    assert (study.payload.sop_instance_uid, study.payload.frame_number) == (
        strongest.sop_instance_uid,
        strongest.frame_number,
    )
    assert study.payload.label == event.label


def test_frames_lie_in_the_task_space_under_their_own_ids(embed_all, archive, index, derived, task):
    embed_all(archive_study(archive, slices(4)))
    space = {point.id: point for point in points(derived.spaces["brain-mr"])}
    assert set(space) == {point.id for point in points(index)}
    for frame in points(index):
        # With a mean of zero only the direction counts, so the indexed vector does as well as the raw class token.
        (expected,) = task.head.project(frame.vector[None])
        np.testing.assert_allclose(space[frame.id].vector, expected, atol=1e-5)


def test_another_revision_leaves_one_mean_and_no_point_of_the_older_one(embed_all, archive, derived, index):
    embed_all(archive_study(archive, slices(6)))
    embed_all(archive_study(archive, slices(3), revision=2))
    for collection in (derived.studies, derived.series, derived.spaces["brain-mr"], index):
        assert {point.payload.revision for point in points(collection)} == {2}
    assert derived.studies.count() == 1
    assert derived.spaces["brain-mr"].count() == index.count() == 3


def test_a_study_that_no_task_takes_has_means_and_no_place_in_a_task_space(embed_all, archive, derived):
    embed_all(archive_study(archive, SeriesSpec(slices(2).objects, modality="CT", body_part="CHEST")))
    assert derived.studies.count() == 1
    assert derived.spaces["brain-mr"].count() == 0


def test_an_index_that_fails_between_the_collections_leaves_work_for_the_next_delivery(
    embed_all, archive, index, derived, monkeypatch
):
    received = archive_study(archive, slices(3))
    whole = MemoryIndex.upsert

    def away(self, points):
        if self is index:
            raise IndexUnavailableError("away")
        whole(self, points)

    monkeypatch.setattr(MemoryIndex, "upsert", away)
    with pytest.raises(IndexUnavailableError):
        embed_all(received)
    monkeypatch.setattr(MemoryIndex, "upsert", whole)
    embed_all(received)
    assert index.count() == derived.spaces["brain-mr"].count() == 3
    assert derived.studies.count() == 1


def test_a_task_that_came_after_the_diagnosis_has_no_place_in_its_space_yet(embed_all, archive, derived, task, encoder):
    received = archive_study(archive, slices(3))
    embed_all(received)
    embed_all.index.delete(of_study(STUDY))
    later = replace(task, head=replace(task.head, task="later"), definition=replace_name(task.definition, "later"))
    spaces = {**derived.spaces, "later": MemoryIndex(KEPT)}
    both = replace(embed_all, tasks=(task, later), derived=replace(derived, spaces=spaces))
    both.settle(STUDY)  # the archived diagnosis knows one task only
    assert spaces["brain-mr"].count() == both.index.count() == 3
    assert spaces["later"].count() == 0


def test_vectors_of_another_head_are_not_written_under_an_older_heads_diagnosis(embed_all, archive, derived, task):
    embed_all(archive_study(archive, slices(3)))
    embed_all.index.delete(of_study(STUDY))
    retrained = replace(task, head=replace(task.head, bias=task.head.bias + 1))
    assert retrained.head.id != task.head.id
    space = MemoryIndex(KEPT)
    replace(embed_all, tasks=(retrained,), derived=replace(derived, spaces={"brain-mr": space})).settle(STUDY)
    assert space.count() == 0


@pytest.mark.parametrize("which", ["series", "studies", "space"])
def test_an_older_revisions_mean_that_was_written_late_gives_way(embed_all, archive, derived, which):
    old = archive_study(archive, slices(6))
    embed_all(old)
    collection = derived.spaces["brain-mr"] if which == "space" else getattr(derived, which)
    late = points(collection)
    newest = archive_study(archive, slices(3), revision=2)
    embed_all(newest)
    collection.delete(of_study(STUDY))
    collection.upsert(late)  # what a slower worker writes between the newer one's derived points and its frames
    embed_all(newest)
    assert {point.payload.revision for point in points(collection)} == {2}


def replace_name(definition, name):
    return definition.model_copy(update={"name": name})
