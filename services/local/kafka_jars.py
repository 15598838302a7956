"""Apache Kafka as jars from Maven Central, fetched once and checked against a committed lock.

`kafka/pom.xml` says which, `kafka/jars.sha256` says exactly which bytes. A jar whose hash differs,
or one more or fewer, is an error: nothing unchecked is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from shared.errors import ConfigurationError

KAFKA_VERSION: Final = "4.3.1"
RESOURCES: Final = Path(__file__).with_name("kafka")
POM: Final = RESOURCES / "pom.xml"
LOCK: Final = RESOURCES / "jars.sha256"
FETCH_TIMEOUT_S: Final = 600.0
OLDEST_JAVA: Final = 17


class ToolMissingError(ConfigurationError):
    """Java or Maven is not installed."""


def read_lock(lock: Path = LOCK) -> dict[str, str]:
    """The sha256 of each jar by file name."""
    entries = (line.split() for line in lock.read_text().splitlines() if line.strip())
    return {name: digest for digest, name in entries}


def jars_folder(cache_dir: Path, lock: Path = LOCK) -> Path:
    """Where the jars of this lock are kept."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    return cache_dir.expanduser() / "kafka" / f"{KAFKA_VERSION}-{digest}"


def verify(folder: Path, lock: Path = LOCK) -> None:
    """Check that `folder` holds exactly the locked jars.

    Raises:
        ConfigurationError: names the first jar that is missing, unexpected or other than locked.
    """
    expected = read_lock(lock)
    found = {path.name for path in folder.glob("*.jar")}
    for name in sorted(expected.keys() - found):
        raise ConfigurationError(f"Kafka jar {name} is missing in {folder}")
    for name in sorted(found - expected.keys()):
        raise ConfigurationError(f"Kafka jar {name} in {folder} is not in the lock file {lock.name}")
    for name, digest in sorted(expected.items()):
        with (folder / name).open("rb") as jar:
            actual = hashlib.file_digest(jar, "sha256").hexdigest()
        if actual != digest:
            raise ConfigurationError(
                f"Kafka jar {name} in {folder} does not have the locked sha256: {actual} instead of {digest}. "
                "Delete that folder; if it comes back, the download is not to be trusted"
            )


def obtain(cache_dir: Path, lock: Path = LOCK) -> Path:
    """The folder with the checked jars, fetched by Maven if it is not there yet.

    Raises:
        ToolMissingError: Maven is missing.
        ConfigurationError: the download fails, or a jar is not the locked one.
    """
    folder = jars_folder(cache_dir, lock)
    if folder.is_dir():
        verify(folder, lock)
        return folder
    program = maven()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as work:
        # A copy, since Maven writes beside the pom.
        shutil.copy(POM, work)
        jars = Path(work) / "jars"
        command = [
            program,
            "-B",
            "-q",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={jars}",
        ]
        try:
            done = subprocess.run(
                command, cwd=work, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigurationError(f"Maven did not fetch the Kafka jars within {FETCH_TIMEOUT_S:.0f} s") from error
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
            raise ConfigurationError(f"Maven could not fetch the Kafka jars:\n{said}")
        verify(jars, lock)
        # Another process may have been faster; its folder was checked as this one was.
        with contextlib.suppress(OSError):
            jars.rename(folder)
    verify(folder, lock)
    return folder


def maven() -> str:
    """The path of Maven.

    Raises:
        ToolMissingError: there is none.
    """
    found = shutil.which("mvn")
    if found is None:
        raise ToolMissingError("Maven (mvn) is not installed, and the Kafka jars are not in the cache yet")
    return found


def java() -> str:
    """The path of a Java that Kafka runs on.

    Raises:
        ToolMissingError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise ToolMissingError(f"Java is not installed; Kafka needs version {OLDEST_JAVA} or later")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = said.partition('"')[2].partition(".")[0].partition('"')[0]
    if version.isdigit() and int(version) < OLDEST_JAVA:
        raise ToolMissingError(f"{found} is Java {version}; Kafka needs {OLDEST_JAVA} or later")
    return found
