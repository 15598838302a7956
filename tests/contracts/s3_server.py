"""A real S3 server on loopback: the Versity S3 Gateway, which keeps objects as files and checks signatures.

    GOBIN=~/.cache/similis/versitygw-1.8.0 go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

SIMILIS_VERSITYGW names another binary.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from shared.settings import ArchiveSettings

VERSION: Final = "1.8.0"
BUCKET: Final = "similis-test"
ACCESS_KEY_ID: Final = "similis-tests"
SECRET_ACCESS_KEY: Final = "a-secret-of-the-tests-only"  # of a server that lives as long as the tests


def find_binary() -> Path | None:
    """The server's program, if it is installed."""
    named = os.environ.get("SIMILIS_VERSITYGW")
    if named:
        return Path(named)
    cache = Path(os.environ.get("SIMILIS_VISION__CACHE_DIR", "~/.cache/similis")).expanduser()
    kept = cache / f"versitygw-{VERSION}" / "versitygw"
    if kept.is_file():
        return kept
    found = shutil.which("versitygw")
    return Path(found) if found else None


class S3Server:
    """One server process over a folder. It can be killed and started again on the same port and objects."""

    def __init__(self, binary: Path, folder: Path, *, certificate: Path | None = None, key: Path | None = None) -> None:
        self.binary, self.folder = binary, folder
        self.certificate, self.key = certificate, key
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.bucket_folder.mkdir(parents=True)
        (folder / "metadata").mkdir()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def bucket_folder(self) -> Path:
        """Where the bucket's objects lie, one file each, by key."""
        return self.folder / "buckets" / BUCKET

    def settings(self, prefix: str = "", **changes: object) -> ArchiveSettings:
        """Settings of an archive here: quick to give up, and small parts."""
        values: dict[str, object] = {
            "url": f"s3://{BUCKET}/{prefix}",
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": SecretStr(ACCESS_KEY_ID),
            "secret_access_key": SecretStr(SECRET_ACCESS_KEY),
            "allow_http": self.certificate is None,
            "retries": 1,
            "timeout_s": 30.0,
            "part_bytes": 5 * 1024 * 1024,
        }
        return ArchiveSettings.model_validate(values | changes)

    def start(self) -> None:
        """Start it and wait until it listens."""
        options = ["--cert", str(self.certificate), "--key", str(self.key)] if self.certificate else []
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self.binary), "--quiet", "--port", f"127.0.0.1:{self.port}", *options),
                    *("posix", "--sidecar", str(self.folder / "metadata"), str(self.folder / "buckets")),
                ],
                env={"ROOT_ACCESS_KEY_ID": ACCESS_KEY_ID, "ROOT_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"the S3 server did not start: {(self.folder / 'server.log').read_text()[-500:]}")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def parts_of_uploads(self) -> list[Path]:
        """The parts, so far, of uploads that are not complete."""
        return [path for path in (self.bucket_folder / ".sgwtmp" / "multipart").rglob("[0-9]*") if path.is_file()]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
