from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from services.local import kafka_jars
from shared.errors import ConfigurationError


@pytest.fixture
def cache(tmp_path: Path) -> tuple[Path, Path]:
    """A cache with two jars and the lock they match."""
    lock = tmp_path / "jars.sha256"
    contents = {"a.jar": b"one", "b.jar": b"two"}
    lock.write_text("".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items()))
    folder = kafka_jars.jars_folder(tmp_path, lock)
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return tmp_path, lock


def test_the_committed_lock_pins_kafka_and_its_log_binding() -> None:
    locked = kafka_jars.read_lock()
    assert f"kafka_2.13-{kafka_jars.KAFKA_VERSION}.jar" in locked
    assert any(name.startswith("log4j-slf4j-impl-") for name in locked)
    assert all(len(digest) == 64 for digest in locked.values())


def test_the_pom_asks_for_the_same_version() -> None:
    assert f"<version>{kafka_jars.KAFKA_VERSION}</version>" in kafka_jars.POM.read_text()


def test_matching_jars_are_taken_from_the_cache_without_maven(
    cache: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert kafka_jars.obtain(*cache) == kafka_jars.jars_folder(*cache)


def test_a_changed_jar_is_named_and_refused(cache: tuple[Path, Path]) -> None:
    (kafka_jars.jars_folder(*cache) / "b.jar").write_bytes(b"twp")
    with pytest.raises(ConfigurationError, match=r"b\.jar .* locked sha256"):
        kafka_jars.obtain(*cache)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_missing_or_unexpected_jar_is_named_and_refused(cache: tuple[Path, Path], change: str) -> None:
    folder = kafka_jars.jars_folder(*cache)
    if change == "missing":
        (folder / "a.jar").unlink()
    else:
        (folder / "z.jar").write_bytes(b"")
    with pytest.raises(
        ConfigurationError, match=r"a\.jar is missing" if change == "missing" else r"z\.jar .* not in the lock"
    ):
        kafka_jars.obtain(*cache)


def test_another_lock_means_another_folder(cache: tuple[Path, Path]) -> None:
    folder = kafka_jars.jars_folder(*cache)
    cache[1].write_text("")
    assert kafka_jars.jars_folder(*cache) != folder


def test_without_maven_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kafka_jars.ToolMissingError, match="Maven"):
        kafka_jars.obtain(tmp_path / "cache")


def fake_tool(folder: Path, name: str, script: str) -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


def test_a_download_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path, "mvn", "echo no route to host; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ConfigurationError, match="no route to host"):
        kafka_jars.obtain(tmp_path / "cache")
    assert list((tmp_path / "cache" / "kafka").iterdir()) == []


@pytest.mark.parametrize(
    ("version", "fits"), [("1.8.0_402", False), ("11.0.2", False), ("17.0.15", True), ("25", True)]
)
def test_an_old_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
    fake_tool(tmp_path, "java", f"echo 'openjdk version \"{version}\"' >&2")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if fits:
        assert kafka_jars.java() == str(tmp_path / "java")
    else:
        with pytest.raises(kafka_jars.ToolMissingError, match="needs 17"):
            kafka_jars.java()
