"""One suite for every archive."""

import hashlib
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.archive import Archive, LocalArchive, MemoryArchive, check_key, manifest_key, open_archive
from shared.errors import (
    ArchiveObjectCorruptError,
    ArchiveObjectMissingError,
    ArchiveUnavailableError,
    ConfigurationError,
)
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    if request.param == "s3":
        found: Archive = request.getfixturevalue("s3_archive")
        return found
    return LocalArchive(tmp_path / "archive") if request.param == "local" else MemoryArchive()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def received(folder: Path, count: int) -> list[tuple[str, Path]]:
    """Files as a study's objects lie in the journal, and the keys they go to: four series of one study."""
    items = []
    for number in range(count):
        path = folder / f"{number}.dcm"
        path.write_bytes(b"DICM%06d" % number)
        items.append((f"instances/1.2/3.{number % 4}/4.{number}.dcm", path))
    return items


def note_fsyncs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is flushed from now on, in order."""
    flushed: list[Path] = []
    really = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        really(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return flushed


class TestArchive:
    def test_what_was_put_is_got_and_listed(self, archive: Archive) -> None:
        archive.put("manifests/1.2/1.json", b"one")
        archive.put("manifests/1.2/2.json", b"two")
        archive.put("manifests/1.20/1.json", b"other")
        assert archive.get("manifests/1.2/2.json") == b"two"
        assert archive.exists("manifests/1.2/1.json")
        assert not archive.exists("manifests/1.2")
        assert list(archive.list("manifests/1.2")) == ["manifests/1.2/1.json", "manifests/1.2/2.json"]
        assert list(archive.list("manifests/")) == [
            "manifests/1.2/1.json",
            "manifests/1.2/2.json",
            "manifests/1.20/1.json",
        ]

    def test_keys_are_listed_in_the_order_of_their_bytes(self, archive: Archive) -> None:
        keys = ["f/b/x", "f/b-c/x", "f/b.c/x", "f/b.json", "f/b0/x", "f/B/x", "f/_/x", "f/b/1/2/3"]
        for key in keys:
            archive.put(key, b"1")
        assert list(archive.list("f")) == sorted(keys)

    def test_putting_again_replaces(self, archive: Archive) -> None:
        archive.put("a/b", b"old")
        archive.put("a/b", b"new")
        assert archive.get("a/b") == b"new"

    def test_an_empty_object_is_one(self, archive: Archive) -> None:
        archive.put("a/empty", b"")
        assert archive.exists("a/empty")
        assert archive.get("a/empty") == b""
        archive.verify("a/empty", sha256(b""), 0)

    def test_a_file_is_stored_and_left_where_it_was(self, archive: Archive, tmp_path: Path) -> None:
        source = tmp_path / "object.dcm"
        source.write_bytes(b"DICM" * 1000)
        archive.put_file("instances/1/2/3.dcm", source)
        archive.put_file("instances/1/2/3.dcm", source)
        assert archive.get("instances/1/2/3.dcm") == source.read_bytes()
        source.unlink()
        assert archive.get("instances/1/2/3.dcm") == b"DICM" * 1000

    def test_a_file_replaces_what_stood_there(self, archive: Archive, tmp_path: Path) -> None:
        archive.put("instances/1/2/3.dcm", b"old")
        source = tmp_path / "object.dcm"
        source.write_bytes(b"new")
        archive.put_file("instances/1/2/3.dcm", source)
        assert archive.get("instances/1/2/3.dcm") == b"new"
        assert list(archive.list("instances")) == ["instances/1/2/3.dcm"]

    def test_a_large_file_comes_back_whole(self, archive: Archive, tmp_path: Path) -> None:
        data = b"".join(os.urandom(1024) * 1024 for _ in range(11))  # two parts of 5 MiB and a shorter one
        source = tmp_path / "multiframe.dcm"
        source.write_bytes(data)
        archive.put_file("a/large", source, sha256=sha256(data), size_bytes=len(data))
        assert archive.get("a/large") == data
        archive.verify("a/large", sha256(data), len(data))
        archive.put("a/larger", data + b"1")
        archive.verify("a/larger", sha256(data + b"1"), len(data) + 1)

    @pytest.mark.parametrize("size_bytes", [100, 11 * 1024 * 1024])
    def test_a_file_that_is_not_the_one_that_was_meant_is_not_stored(
        self, archive: Archive, tmp_path: Path, size_bytes: int
    ) -> None:
        source = tmp_path / "object.dcm"
        source.write_bytes(bytes(size_bytes))
        archive.put("a/b", b"old")
        with pytest.raises(ArchiveObjectCorruptError, match="a/b"):
            archive.put_file("a/b", source, sha256=sha256(b"another"), size_bytes=size_bytes)
        with pytest.raises(ArchiveObjectCorruptError, match="a/b"):
            archive.put_file("a/b", source, size_bytes=size_bytes + 1)
        assert archive.get("a/b") == b"old"
        archive.put_file("a/b", source, sha256=sha256(bytes(size_bytes)).upper(), size_bytes=size_bytes)
        assert len(archive.get("a/b")) == size_bytes

    def test_a_thousand_files_of_a_study_are_stored_and_listed(self, archive: Archive, tmp_path: Path) -> None:
        items = received(tmp_path, 1050)
        archive.put_files(iter(items))
        archive.put_files(items[:10])  # again, as after a crash
        assert list(archive.list("instances/1.2")) == sorted(key for key, _ in items)
        for key, path in items[::97]:
            archive.verify(key, sha256(path.read_bytes()), 10)

    def test_an_error_in_a_batch_is_told_and_the_batch_can_be_repeated(self, archive: Archive, tmp_path: Path) -> None:
        items = received(tmp_path, 30)
        gone = items[17][1]
        gone.rename(tmp_path / "away")
        with pytest.raises(ArchiveUnavailableError, match=items[17][0]):
            archive.put_files(items)
        (tmp_path / "away").rename(gone)
        archive.put_files(items)
        assert len(list(archive.list("instances"))) == 30

    def test_a_missing_object_is_named(self, archive: Archive) -> None:
        with pytest.raises(ArchiveObjectMissingError, match="a/missing"):
            archive.get("a/missing")
        with pytest.raises(ArchiveObjectMissingError, match="a/missing"):
            archive.verify("a/missing", sha256(b""), 0)
        assert not archive.exists("a/missing")
        assert list(archive.list("nothing/here")) == []

    def test_another_size_or_hash_is_found_out(self, archive: Archive) -> None:
        archive.put("a/b", b"stored")
        archive.verify("a/b", sha256(b"stored"), 6)
        with pytest.raises(ArchiveObjectCorruptError, match="6 bytes instead of 7"):
            archive.verify("a/b", sha256(b"stored"), 7)
        with pytest.raises(ArchiveObjectCorruptError, match="SHA-256"):
            archive.verify("a/b", sha256(b"scored"), 6)

    def test_a_manifest_reads_back_equal(self, archive: Archive) -> None:
        instance = InstanceEntry(
            sop_instance_uid="1.2.3.4",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            archive_key="instances/1.2/1.2.3/1.2.3.4.dcm",
            size_bytes=6,
            sha256=sha256(b"stored"),
            number_of_frames=1,
            patient_pseudonym="p",
            is_new=True,
        )
        manifest = StudyManifest(
            study_instance_uid="1.2",
            revision=1,
            created_at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            calling_ae_titles=("CT",),
            patient_pseudonyms=("p",),
            mixed_patients=False,
            series=(SeriesEntry(series_instance_uid="1.2.3", modality="CT", instances=(instance,)),),
        )
        archive.put(instance.archive_key, b"stored")
        archive.put(manifest_key("1.2", 1), manifest.model_dump_json(indent=1).encode())
        assert list(archive.list("manifests/1.2")) == ["manifests/1.2/1.json"]
        found = StudyManifest.model_validate_json(archive.get(manifest_key("1.2", 1)))
        assert found == manifest
        for _, entry in found.instances():
            archive.verify(entry.archive_key, entry.sha256, entry.size_bytes)

    def test_threads_may_use_it_at_once(self, archive: Archive) -> None:
        def work(number: int) -> None:
            for repeat in range(20):
                archive.put(f"threads/{number}", b"%d" % repeat)
                assert archive.get(f"threads/{number}") == b"%d" % repeat
            done.append(number)

        done: list[int] = []
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/.hidden", "a/b/", "a\\b", "a\nb", "a/ü"]
    )
    def test_a_key_cannot_leave_the_archive(self, archive: Archive, key: str, tmp_path: Path) -> None:
        source = tmp_path / "object.dcm"
        source.write_bytes(b"DICM")
        calls: list[Callable[[], object]] = [
            lambda: archive.put(key, b""),
            lambda: archive.put_file(key, source),
            lambda: archive.put_files([(key, source)]),
            lambda: archive.get(key),
            lambda: archive.verify(key, sha256(b""), 0),
            lambda: archive.exists(key),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="not an archive key"):
                call()
        with pytest.raises(ValueError, match="not an archive key"):
            list(archive.list(key + "/../x"))


@given(st.text(max_size=40))
def test_an_accepted_key_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except ValueError:
        return
    joined = os.path.normpath(os.path.join("/root", key))
    assert joined == f"/root/{key}"


class TestLocalArchive:
    def test_a_failed_write_leaves_what_stood_there_and_no_remnant(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive = LocalArchive(tmp_path)
        archive.put("a/b", b"old")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ArchiveUnavailableError, match="No space left"):
            archive.put("a/b", b"new")
        monkeypatch.undo()
        assert archive.get("a/b") == b"old"
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]

    def test_a_batch_flushes_each_folder_up_to_the_root_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = tmp_path / "archive"
        archive = LocalArchive(root)
        items = received(tmp_path, 40)
        archive.put_files(items)  # the folders are there now, as after a call that died before it flushed them
        flushed = note_fsyncs(monkeypatch)
        archive.put_files(items)
        study = root / "instances" / "1.2"
        series = {study / f"3.{number}" for number in range(4)}
        assert sorted(flushed) == sorted({root, root / "instances", study} | series)

    def test_new_folders_are_durable_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        items = received(tmp_path, 1)
        flushed = note_fsyncs(monkeypatch)
        LocalArchive(tmp_path / "new" / "archive").put_files(items)
        folder = tmp_path / "new" / "archive" / "instances" / "1.2" / "3.0"
        assert set(flushed) == {folder, *list(folder.parents)[: folder.parents.index(tmp_path) + 1]}

    def test_a_file_of_another_file_system_is_copied_and_flushed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def other_file_system(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", other_file_system)
        flushed = note_fsyncs(monkeypatch)
        archive = LocalArchive(tmp_path / "archive")
        items = received(tmp_path, 3)
        archive.put_files(items)
        copies = [path for path in flushed if path.name.startswith(".part-")]
        assert len(copies) == 3
        for key, path in items:
            assert archive.get(key) == path.read_bytes()
            assert not (tmp_path / "archive" / key).samefile(path)
        assert not list((tmp_path / "archive").rglob(".part-*"))

    def test_files_of_others_are_not_listed(self, tmp_path: Path) -> None:
        archive = LocalArchive(tmp_path)
        archive.put("a/b", b"1")
        for name in ("a/.part-1", "a/not ours", "a/.folder/x"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"1")
        assert list(archive.list("a")) == ["a/b"]

    def test_it_opens_by_path_and_by_url(self, tmp_path: Path) -> None:
        for url in (str(tmp_path / "one two"), (tmp_path / "one two").as_uri()):
            assert open_archive(url) == LocalArchive(tmp_path / "one two")

    def test_an_unknown_scheme_is_a_configuration_error(self) -> None:
        with pytest.raises(ConfigurationError, match="SIMILIS_ARCHIVE__URL"):
            open_archive("ftp://host/archive")
