"""Two embedders on one study: the newest diagnosed revision has the points in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from embedder_studies import STUDY, archive_study, slices

from services.embedder.ports import ContestedPointsError
from shared.vector_index.memory import MemoryIndex


class Interleaved:
    """An index whose first write has other work done just before or after it."""

    def __init__(self, index, *, before=None, after=None, always=False):
        self._index, self._before, self._after, self._always = index, before, after, always

    def __getattr__(self, name):
        return getattr(self._index, name)

    def upsert(self, points):
        before, after = self._before, self._after
        if not self._always:
            self._before = self._after = None
        if before:
            before()
        self._index.upsert(points)
        if after:
            after()


@pytest.fixture
def revisions(archive):
    series = slices(2)
    first = archive_study(archive, series)
    series.objects |= slices(2, prefix="1.2.826.1.9", seed=50).objects
    return first, archive_study(archive, series, revision=2)


def held(index):
    points = index.scroll(limit=100)
    return {point.payload.revision for point in points}, len(points)


def test_a_second_revision_that_ends_while_the_first_writes_keeps_its_points(embed, index, revisions):
    first, second = revisions
    racing = replace(embed, index=Interleaved(index, before=lambda: embed(second)))
    (event,) = racing(first)
    assert event.revision == 1
    assert held(index) == ({2}, 4)


def test_a_first_revision_that_ends_before_the_second_is_archived_loses_its_points(embed, index, revisions):
    first, second = revisions
    replace(embed, index=Interleaved(index, after=lambda: embed(first)))(second)
    assert held(index) == ({2}, 4)


def test_a_crash_after_the_stale_write_is_mended_on_redelivery(embed, index, revisions):
    first, second = revisions

    def crash():
        raise KeyboardInterrupt

    racing = replace(embed, index=Interleaved(index, before=lambda: embed(second), after=crash))
    with pytest.raises(KeyboardInterrupt):
        racing(first)
    embed(first)
    assert held(index) == ({2}, 4)


def test_a_newer_manifest_without_a_diagnosis_leaves_the_older_points(embed, index, revisions):
    embed(revisions[0])
    assert held(index) == ({1}, 2)


def test_points_that_never_settle_are_tried_again_later(embed, index, revisions):
    def wipe():
        MemoryIndex.close(index)

    with pytest.raises(ContestedPointsError):
        replace(embed, index=Interleaved(index, after=wipe, always=True))(revisions[1])
    embed(revisions[1])
    assert held(index) == ({2}, 4), STUDY
