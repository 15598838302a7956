"""The journal by itself: one owner at a time, and nothing that only it holds is thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from listener_harness import Sample, make_sample, store

from services.listener.journal import Journal
from services.listener.open_studies import OpenStudies
from services.listener.store import StoreObject, load_object
from shared.errors import ConfigurationError
from shared.pseudonym import Pseudonyms

PSEUDONYMS = Pseudonyms(b"k" * 32)
LOAD = partial(load_object, pseudonyms=PSEUDONYMS, max_object_bytes=1 << 20)
STUDY = "1.2.3"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, load=LOAD)
    yield journal
    journal.close()


def keep(journal: Journal, sample: Sample) -> int:
    return store(StoreObject(journal, OpenStudies(1, 9), PSEUDONYMS, 1 << 20), sample)


def test_a_second_listener_on_the_same_journal_is_turned_away(journal: Journal, tmp_path: Path) -> None:
    under_way = tmp_path / "receiving" / "1"
    under_way.write_bytes(b"half")
    with pytest.raises(ConfigurationError, match="in use by another listener"):
        Journal(tmp_path, load=LOAD)
    assert under_way.exists()
    journal.close()
    again = Journal(tmp_path, load=LOAD)
    again.recover()
    again.close()
    assert not under_way.exists()


def test_a_slow_reader_does_not_bring_back_an_older_state(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.mark_published(STUDY, 1, {})
    journal._published._states.clear()
    read_bytes = Path.read_bytes

    def overtaken(path: Path) -> bytes:
        old = read_bytes(path)
        journal.mark_published(STUDY, 2, {})
        return old

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", overtaken)
        assert journal.published(STUDY).revision == 2
    assert journal.published(STUDY).revision == 2


@pytest.mark.parametrize("restarted", [False, True])
def test_a_purge_sets_aside_what_differs_from_the_published_object(
    journal: Journal, tmp_path: Path, restarted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    same, other = (make_sample(study=STUDY, sop=f"1.2.3.{n}", series="1.2.9") for n in range(2))
    for sample in (same, other):
        assert keep(journal, sample) == 0x0000
    hashes = {entry.header.sop_instance_uid: entry.sha256 for entry in journal.objects(STUDY)}
    if restarted:
        journal.close()
        journal = Journal(tmp_path, load=LOAD)
        journal.recover()
    journal.mark_published(STUDY, 1, {same.sop: hashes[same.sop], other.sop: "0" * 64})
    journal.purge(STUDY)
    journal.close()
    assert not journal.holds(STUDY)
    assert not (tmp_path / "incoming" / STUDY).exists()
    (kept,) = (tmp_path / "conflicting" / STUDY).iterdir()
    assert kept.name.startswith(f"{other.sop}.")
    assert kept.read_bytes().endswith(other.dataset)
    assert "set aside" in caplog.text
