"""The query service's process for the fuzz: real but for the encoder and the broker, and it tells what it touches.

python -m tests.fuzz.query.served FOLDER writes to FOLDER/touched each file outside of its own places that the process
opens, lists or changes, each connection that does not go to its vector index, and each program that it starts.
"""

from __future__ import annotations

import mimetypes
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from services.query import app as query
from services.query.http import STATIC
from services.query.schema import TaskInfo
from shared.events import Event
from shared.vision.tasks import BUILT_IN
from tests.services.query.light_box_seed import HEAD, LABELS, TASK, FakeEncoder

_PROGRAMS: Final = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"})
_NETWORK: Final = frozenset({"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"})
_FILES: Final = frozenset(
    {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate"}
)
_CODE: Final = (".py", ".pyc", ".so")
_SYSTEM: Final = ("/proc/", "/sys/", "/dev/", "/usr/share/zoneinfo/", "/etc/localtime", *mimetypes.knownfiles)


class KeptEvents:
    """A broker that acknowledges everything."""

    async def publish(self, topic: str, event: Event) -> None:
        """Forget it."""


def tell_what_is_touched(folder: Path) -> None:
    """From now on, and to the end of the process."""
    report = os.open(folder / "touched", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    places = tuple(f"{place}/" for place in (folder, STATIC, BUILT_IN, sys.prefix, sys.base_prefix))

    def is_own(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a descriptor that was opened before
        found = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - no look at the disk in here
        return f"{found}/".startswith(places) or found.endswith(_CODE) or found.startswith(_SYSTEM)

    def heard(event: str, told: tuple[object, ...]) -> None:
        if event in _PROGRAMS:
            if told[0] != sys.executable:  # the decoders' processes are its own
                os.write(report, f"{event} {told[0]!r}\n".encode())
        elif event in _NETWORK:
            address = told[1] if event in ("socket.connect", "socket.sendto") else told[0]
            if not (isinstance(address, str) and address.startswith(f"{folder}/")):
                os.write(report, f"{event} {address!r}\n".encode())
        elif event in _FILES and told and not is_own(told[0]):
            os.write(report, f"{event} {told[0]!r}\n".encode())

    sys.addaudithook(heard)


@asynccontextmanager
async def _publisher(_: object) -> AsyncIterator[KeptEvents]:
    yield KeptEvents()


def main() -> None:
    """Serve until SIGTERM."""
    task = TaskInfo(name=TASK, title="Brain MR", labels=LABELS, findings=LABELS[1:], abstain_below=0.55, head_id=HEAD)
    query._load_vision = lambda _: (FakeEncoder(), (task,), {})  # type: ignore[assignment]
    query._publisher = _publisher  # type: ignore[assignment]
    tell_what_is_touched(Path(sys.argv[1]))
    query.main()


if __name__ == "__main__":
    main()
