"""One suite for every archive."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.archive import Archive, LocalArchive, MemoryArchive, check_key, open_archive
from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError, ConfigurationError


@pytest.fixture(params=["local", "memory"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return LocalArchive(tmp_path / "archive") if request.param == "local" else MemoryArchive()


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

    def test_putting_again_replaces(self, archive: Archive) -> None:
        archive.put("a/b", b"old")
        archive.put("a/b", b"new")
        assert archive.get("a/b") == b"new"

    def test_a_file_is_stored_and_left_where_it_was(self, archive: Archive, tmp_path: Path) -> None:
        source = tmp_path / "object.dcm"
        source.write_bytes(b"DICM" * 1000)
        archive.put_file("instances/1/2/3.dcm", source)
        archive.put_file("instances/1/2/3.dcm", source)
        assert archive.get("instances/1/2/3.dcm") == source.read_bytes()
        source.unlink()
        assert archive.get("instances/1/2/3.dcm") == b"DICM" * 1000

    def test_a_missing_object_is_named(self, archive: Archive) -> None:
        with pytest.raises(ArchiveObjectMissingError, match="a/missing"):
            archive.get("a/missing")
        assert list(archive.list("nothing/here")) == []

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/.hidden", "a/b/", "a\\b", "a\nb", "a/ü"]
    )
    def test_a_key_cannot_leave_the_archive(self, archive: Archive, key: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: archive.put(key, b""),
            lambda: archive.get(key),
            lambda: archive.exists(key),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="not an archive key"):
                call()


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

    def test_it_opens_by_path_and_by_url(self, tmp_path: Path) -> None:
        for url in (str(tmp_path / "one two"), (tmp_path / "one two").as_uri()):
            assert open_archive(url) == LocalArchive(tmp_path / "one two")

    def test_an_unknown_scheme_is_a_configuration_error(self) -> None:
        with pytest.raises(ConfigurationError, match="SIMILIS_ARCHIVE__URL"):
            open_archive("ftp://host/archive")
