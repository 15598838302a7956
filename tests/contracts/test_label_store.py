"""One suite for labels in every archive."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.archive import Archive, LocalArchive, MemoryArchive
from shared.errors import ArchiveObjectCorruptError
from shared.labels import LabelKey, LabelRecord, LabelStore, LabelTarget, TooManyLabelsError, label_key, place_of

WHOLE = LabelTarget()
SERIES = LabelTarget(series_instance_uid="1.2.1")
IMAGE = LabelTarget(series_instance_uid="1.2.1", sop_instance_uid="1.2.1.9")
FRAME = LabelTarget(series_instance_uid="1.2.1", sop_instance_uid="1.2.1.9", frame_number=3)


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    if request.param == "s3":
        found: Archive = request.getfixturevalue("s3_archive")
        return found
    return LocalArchive(tmp_path / "archive") if request.param == "local" else MemoryArchive()


@pytest.fixture
def store(archive: Archive) -> LabelStore:
    return LabelStore(archive)


def give(store: LabelStore, study: str = "1.2", label: str = "spot", **given) -> LabelRecord:
    values = {"task": "shapes", "target": WHOLE, "study_revision": 1, "by": None, **given}
    return store.give(study, values.pop("task"), values.pop("target"), label, **values)[0]


def standing(store: LabelStore, study: str = "1.2") -> list[tuple[str, str, str | None]]:
    return [(record.task, record.target.name, record.label) for record in store.of_study(study)]


def written(archive: Archive) -> dict[str, bytes]:
    return {key: archive.get(key) for key in archive.list("labels")}


def ticking(start: datetime = datetime(2026, 1, 1, tzinfo=UTC), step_s: float = 1.0) -> Callable[[], datetime]:
    moments = (start + timedelta(seconds=step_s * count) for count in itertools.count())
    return lambda: next(moments)


class TestLabelStore:
    def test_a_label_is_there_for_whoever_opens_the_archive_next(self, archive: Archive) -> None:
        given = give(LabelStore(archive, clock=ticking()), by="reader-7", comment="left")
        (found,) = LabelStore(archive).of_study("1.2")
        assert found == given
        assert (found.label, found.recorded_by, found.comment) == ("spot", "reader-7", "left")
        assert found.recorded_at == datetime(2026, 1, 1, tzinfo=UTC)
        assert (found.sequence, found.supersedes, found.notice) == (1, None, "research use only")

    def test_the_last_one_counts_and_those_before_stay(self, archive: Archive, store: LabelStore) -> None:
        records = [give(store, label=label) for label in ("spot", "bar", "spot")]
        assert standing(store) == [("shapes", "study", "spot")]
        assert list(store.history("1.2")) == records
        assert [record.supersedes for record in records] == [None, records[0].label_id, records[1].label_id]
        assert len(written(archive)) == 3

    def test_nothing_is_ever_written_over_or_removed(self, archive: Archive, store: LabelStore) -> None:
        before: dict[str, bytes] = {}
        for step in (
            lambda: give(store),
            lambda: give(store, label="bar"),
            lambda: store.withdraw("1.2", "shapes", WHOLE, by=None),
            lambda: give(store, label="bar"),
        ):
            step()
            after = written(archive)
            assert before.items() < after.items()
            before = after

    def test_a_clock_that_goes_back_does_not_bring_an_old_label_back(self, archive: Archive) -> None:
        give(LabelStore(archive, clock=ticking(datetime(2026, 6, 1, tzinfo=UTC))), label="spot")
        give(LabelStore(archive, clock=ticking(datetime(2026, 1, 1, tzinfo=UTC))), label="bar")
        assert standing(LabelStore(archive)) == [("shapes", "study", "bar")]

    def test_saying_the_same_again_writes_nothing(self, archive: Archive, store: LabelStore) -> None:
        first, is_first = store.give("1.2", "shapes", WHOLE, "spot", study_revision=1, by="a", comment="left")
        again, is_first_again = store.give("1.2", "shapes", WHOLE, "spot", study_revision=1, by="a", comment=" left ")
        assert (is_first, is_first_again) == (True, False)
        assert again == first
        assert len(written(archive)) == 1

    @pytest.mark.parametrize(
        "other", [{"label": "bar"}, {"by": "b"}, {"comment": "right"}, {"comment": None}, {"study_revision": 2}]
    )
    def test_saying_anything_else_is_a_record_of_its_own(self, store: LabelStore, other) -> None:
        said = {"label": "spot", "by": "a", "comment": "left", "study_revision": 1}
        give(store, **said)
        assert give(store, **{**said, **other}).sequence == 2

    def test_a_withdrawn_label_counts_no_more_and_may_be_given_again(self, archive: Archive, store: LabelStore) -> None:
        given = give(store, target=IMAGE)
        # The series need not be named to withdraw the label of an instance.
        gone = store.withdraw("1.2", "shapes", LabelTarget(sop_instance_uid="1.2.1.9"), by="b")
        assert gone is not None
        assert (gone.label, gone.supersedes, gone.recorded_by) == (None, given.label_id, "b")
        assert gone.target == IMAGE
        assert standing(store) == list(store.of_task("shapes")) == []
        assert store.withdraw("1.2", "shapes", IMAGE, by="c") == gone
        assert len(written(archive)) == 2
        assert store.give("1.2", "shapes", IMAGE, "spot", study_revision=1, by=None)[1]
        assert standing(store) == [("shapes", "instance-1.2.1.9", "spot")]

    def test_what_was_never_labelled_cannot_be_withdrawn(self, archive: Archive, store: LabelStore) -> None:
        give(store)
        for study, task, target in (("1.2", "shapes", IMAGE), ("1.2", "other", WHOLE), ("1", "shapes", WHOLE)):
            assert store.withdraw(study, task, target, by=None) is None
        assert len(written(archive)) == 1

    def test_study_series_instance_and_frame_have_labels_of_their_own(self, store: LabelStore) -> None:
        for target, label in ((WHOLE, "spot"), (SERIES, "bar"), (IMAGE, "normal"), (FRAME, "spot")):
            give(store, target=target, label=label)
        store.withdraw("1.2", "shapes", SERIES, by=None)
        assert standing(store) == [
            ("shapes", "frame-1.2.1.9-3", "spot"),
            ("shapes", "instance-1.2.1.9", "normal"),
            ("shapes", "study", "spot"),
        ]
        assert [record.target for record in store.of_study("1.2")] == [FRAME, IMAGE, WHOLE]

    def test_a_study_has_only_its_own_labels(self, store: LabelStore) -> None:
        # Each is the beginning of another's name, and sorts before or behind it in the keys.
        studies = ["1.2", "1.2.0", "1.20", "1"]
        for study in studies:
            give(store, study, label=f"of {study}")
        for study in studies:
            assert [record.label for record in store.of_study(study)] == [f"of {study}"]
            assert [record.label for record in store.history(study)] == [f"of {study}"]

    def test_the_labels_of_a_task_are_read_from_any_place_on(self, store: LabelStore) -> None:
        targets = (WHOLE, IMAGE, FRAME, SERIES)
        for study in ("1.2", "1.2.0", "1.20", "1", "12.1"):
            for target in targets:
                give(store, study, target=target, label="bar")
                give(store, study, target=target, label="spot")
                give(store, study, task="shapes-too", target=target)
        store.withdraw("1.20", "shapes", WHOLE, by=None)
        every = list(store.of_task("shapes"))
        assert len(every) == 5 * len(targets) - 1
        assert {(record.task, record.label) for record in every} == {("shapes", "spot")}
        for at, record in enumerate(every):
            assert list(store.of_task("shapes", after=place_of(record))) == every[at + 1 :]

    def test_writers_at_the_same_moment_lose_no_record(self, archive: Archive) -> None:
        stores = [LabelStore(archive) for _ in range(4)]
        start = threading.Barrier(len(stores))

        def label(store: LabelStore, name: str) -> None:
            start.wait(10)
            give(store, by=name)

        threads = [threading.Thread(target=label, args=(store, f"reader-{at}")) for at, store in enumerate(stores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history = LabelStore(archive).history("1.2")
        assert {record.recorded_by for record in history} == {f"reader-{at}" for at in range(4)}
        # Every reader agrees on which of them counts.
        last = max(history, key=lambda record: (record.sequence, record.recorded_at, str(record.label_id)))
        assert [store.of_study("1.2") for store in stores] == [(last,)] * 4

    def test_limits_hold_but_never_keep_a_label_from_being_withdrawn(self, archive: Archive) -> None:
        store = LabelStore(archive, records_max=2, places_max=2)
        give(store)
        give(store, label="bar")
        with pytest.raises(TooManyLabelsError):
            give(store, label="spot")
        assert standing(store) == [("shapes", "study", "bar")]
        give(store, target=IMAGE)
        with pytest.raises(TooManyLabelsError):
            give(store, target=FRAME)
        give(store, task="other", target=FRAME)
        assert store.withdraw("1.2", "shapes", WHOLE, by=None) is not None
        assert standing(store) == [("other", "frame-1.2.1.9-3", "spot"), ("shapes", "instance-1.2.1.9", "spot")]

    @pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b"[1]", "another"])
    def test_a_damaged_record_is_told_and_mended_by_the_next_label(self, archive: Archive, damage) -> None:
        store = LabelStore(archive)
        give(store, label="normal")
        record = give(store)
        other = record.model_copy(update={"study_instance_uid": "1.3"})
        archive.put(label_key(record), other.model_dump_json().encode() if damage == "another" else damage)
        # The label before it must not come back: it was superseded.
        for reading in (lambda: store.of_study("1.2"), lambda: list(store.of_task("shapes"))):
            with pytest.raises(ArchiveObjectCorruptError):
                reading()
        mended = give(store, label="bar")
        assert (mended.sequence, mended.supersedes) == (3, record.label_id)
        assert standing(store) == [("shapes", "study", "bar")]

    def test_what_is_no_label_is_passed_over(self, archive: Archive, store: LabelStore) -> None:
        record = give(store)
        key = label_key(record)
        for stray in ("labels/README.md", "labels/1.2/shapes/study/notes.json", key.replace("00000001", "1")):
            archive.put(stray, b"?")
        assert list(store.history("1.2")) == list(store.of_task("shapes")) == [record]
        assert LabelKey.parse(key) == LabelKey(key, "1.2", "shapes", "study", 1, record.label_id)
