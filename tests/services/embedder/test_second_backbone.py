"""A second backbone's points beside those of the one that judges."""

from __future__ import annotations

from dataclasses import replace

import pytest
from embedder_studies import STUDY, archive_study, made_up_task, slices

from services.embedder.derived_points import DerivedIndexes
from services.embedder.embed_study import EmbedStudy
from services.embedder.handlers import OnStudyReceived
from services.embedder.reindex import Progress, Reindex
from shared.archive import diagnosis_key
from shared.errors import IndexUnavailableError
from shared.ids import mean_id, point_id
from shared.pixels import PixelLimits
from shared.vector_index.memory import MemoryIndex
from tests.services.embedder.conftest import PooledPixels

NEXT = "next@2-t1s28"


@pytest.fixture
def second(archive, embed) -> EmbedStudy:
    encoder = PooledPixels(id=NEXT)
    dim = encoder.dim
    derived = DerivedIndexes(MemoryIndex(dim), MemoryIndex(dim))
    return EmbedStudy(archive, encoder, embed.tasks, MemoryIndex(dim), PixelLimits(), derived=derived, follows_any=True)


@pytest.fixture
def reindex(archive, second) -> Reindex:
    return Reindex(archive, second, attempt_pause_s=0.0)


def study(number: int) -> str:
    return f"{STUDY}.{number}"


def received(archive, number: int, *, frames: int = 3, revision: int = 1):
    spec = slices(frames, prefix=f"{STUDY}.{number}.1", seed=10 * number)
    return archive_study(archive, spec, study=study(number), revision=revision)


def points(index: MemoryIndex):
    return index.scroll(limit=1000)


def test_its_points_carry_the_diagnosis_of_the_one_that_judges(embed, second, archive, index):
    (event,) = embed(received(archive, 1))
    assert second.settle(study(1))
    (mean,) = points(second.derived.studies)
    assert mean.id == mean_id(NEXT, study(1))
    assert mean.payload.sop_instance_uid == event.evidence[0].sop_instance_uid  # it stands for the study here, too
    for point in (*points(second.index), mean):
        assert (point.payload.task, point.payload.decision, point.payload.label) == ("brain-mr", "finding", "lesion")
        assert point.payload.backbone_id == NEXT
    assert {point.id for point in points(second.index)} == {
        point_id(NEXT, point.payload.sop_instance_uid, point.payload.frame_number) for point in points(index)
    }
    assert second.newest(study(1))[0].evidence[0].point_id in {point.id for point in points(second.index)}
    # It judged nothing itself, and there is nothing left to do.
    assert list(archive.list("diagnoses")) == [diagnosis_key(study(1), 1, "brain-mr")]
    assert not second.settle(study(1))


def test_a_study_that_nobody_judged_has_no_points(second, archive):
    received(archive, 1)
    assert not second.settle(study(1))
    assert second.index.count() == 0


def test_a_new_revision_and_a_new_judgement_replace_its_points(embed, second, archive):
    embed(received(archive, 1, frames=5))
    second.settle(study(1))
    again = received(archive, 1, frames=2, revision=2)
    embed(again)
    assert second.settle(study(1))
    assert {point.payload.revision for point in points(second.index)} == {2}
    assert second.index.count() == 2
    retrained = made_up_task(embed.encoder.id, embed.encoder.dim, bias=(3.0, 0.0))
    replace(embed, tasks=(retrained,))(again)
    assert second.settle(study(1))
    assert {point.payload.label for point in points(second.index)} == {"normal"}


def test_once_it_judges_itself_its_own_diagnosis_counts_for_its_points(embed, second, archive):
    event = received(archive, 1)
    embed(event)
    own = made_up_task(NEXT, second.encoder.dim, bias=(3.0, 0.0))
    judging = replace(second, tasks=(own,), follows_any=False)
    judging(event)
    assert not second.settle(study(1))
    assert {point.payload.label for point in points(second.index)} == {"normal"}


class Publisher:
    def __init__(self) -> None:
        self.topics: list[str] = []

    async def publish(self, topic, event) -> None:
        self.topics.append(topic)


async def test_an_event_is_done_only_when_both_have_written_and_its_diagnosis_does_not_wait(
    embed, second, archive, index
):
    failures = [IndexUnavailableError("away")]

    def index_again(uid: str) -> bool:
        if failures:
            raise failures.pop()
        return second.settle(uid)

    publisher, event = Publisher(), received(archive, 1)
    handler = OnStudyReceived(embed, publisher, index_again)
    with pytest.raises(IndexUnavailableError):
        await handler(event)
    assert publisher.topics == ["similis.diagnosis.brain-mr.v1"]
    await handler(event)
    assert second.index.count() == index.count() == 3
    await handler(event)
    assert second.index.count() == 3


def test_a_reindex_writes_what_is_judged_and_skips_what_is_there(embed, reindex, second, archive):
    for number in range(4):
        embed(received(archive, number))
    received(archive, 9)
    second.settle(study(0))
    told: list[Progress] = []
    reindex.on_progress = told.append
    report = reindex()
    assert (report.there, report.unjudged, report.missing) == (4, 1, ())
    assert (told[-1].done, told[-1].written, told[-1].failed) == (5, 3, 0)
    encoded = len(second.encoder.encoded)
    assert Reindex(archive, second)() == report
    assert len(second.encoder.encoded) == encoded


def test_studies_that_come_in_meanwhile_are_indexed_before_it_says_that_nothing_is_missing(embed, reindex, archive):
    embed(received(archive, 1))
    late = [2, 3]

    def arrive(_: Progress) -> None:
        if late:
            embed(received(archive, late.pop()))

    reindex.on_progress = arrive
    report = reindex()
    assert (report.there, report.missing) == (3, ())


class CutShortError(Exception):
    """The process ends here."""


class Frail(MemoryIndex):
    """Ends the process after some upserts; points come in several calls."""

    def __init__(self, dim: int, upserts: int) -> None:
        super().__init__(dim)
        self.left = upserts

    def upsert(self, points) -> None:
        if self.left == 0:
            raise CutShortError
        self.left -= 1
        super().upsert(points)


@pytest.mark.parametrize("upserts", range(6))
def test_wherever_it_is_cut_short_what_is_half_written_is_missing_and_a_rerun_completes_it(
    embed, second, archive, upserts
):
    for number in (1, 2):
        embed(received(archive, number, frames=5))
    frail = Frail(second.encoder.dim, upserts)
    cut = replace(second, index=frail, upsert_points=2)
    with pytest.raises(CutShortError):
        Reindex(archive, cut)()
    frail.left = -1
    assert len(Reindex(archive, cut).verify().missing) == (1 if upserts >= 3 else 2)
    assert Reindex(archive, cut)().missing == ()
    assert frail.count() == 10


def test_a_study_that_cannot_be_indexed_is_missing_and_stops_no_other(embed, reindex, second, archive):
    for number in (1, 2):
        embed(received(archive, number))
    key = next(iter(archive.list(f"instances/{study(1)}")))
    archive.put(key, b"something else")
    report = reindex()
    assert (report.there, report.missing) == (1, (study(1),))


def test_an_index_that_is_away_is_waited_for_and_not_for_ever(embed, archive, second):
    embed(received(archive, 1))
    pauses: list[float] = []

    class Away(MemoryIndex):
        times = 2

        def count(self, where=None) -> int:
            if self.times:
                self.times -= 1
                raise IndexUnavailableError("away")
            return super().count(where) if where is not None else super().count()

    index = Away(second.encoder.dim)
    step = Reindex(archive, replace(second, index=index), attempts=3, sleep=pauses.append)
    assert step().there == 1
    assert pauses[:2] == [1.0, 2.0]
    index.times = 1000
    with pytest.raises(IndexUnavailableError):
        step()


def test_fewer_frames_than_were_diagnosed_are_enough_if_this_run_found_no_more(embed, archive, second):
    """Settings changed since: the study would be missing for ever."""
    embed(received(archive, 1, frames=5))
    fewer = replace(second, max_frames_per_series=2, tasks=())
    step = Reindex(archive, fewer)
    assert step().missing == ()
    assert fewer.index.count() == 2
