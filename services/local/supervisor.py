"""The supervisor: one thread that starts, watches, restarts and stops everything.

    broker + index ─▶ topics ─▶ listener, embedder, explainer, query ─▶ all ready ─▶ watch … stop in order

One thread, since the kernel ties a child to the thread that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from services.local.brokers import Broker, choose_broker
from services.local.child import Child
from services.local.kept_running import KeptRunning
from services.local.probe import answers_ok
from services.local.run_dir import RunDir
from services.local.settings import LocalSettings
from shared.delivery import create_topics
from shared.errors import BrokerUnavailableError, ConfigurationError, SimilisError
from shared.topics import declared
from shared.vision.tasks import task_names

log = logging.getLogger(__name__)

SERVICES: Final = ("listener", "embedder", "explainer", "query")
COMMAND: Final = (sys.executable, "-m", "services.cli")
INDEX_SOCKET: Final = "index.sock"
POLL_S: Final = 0.1


class Supervisor:
    """Runs the profile in a thread of its own."""

    def __init__(
        self,
        settings: LocalSettings,
        *,
        on_line: Callable[[str, str], None] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Nothing is started yet.

        Args:
            settings: the profile's.
            on_line: gets every line that a service logs, with the service's name.
            command: runs a service when its name is appended.
        """
        self._settings = settings.model_copy(update={"data": settings.data.expanduser().resolve()})
        self._on_line = on_line
        self._command = tuple(command)
        self._log_dir = self._settings.data / "log"
        self._broker: Broker | None = None
        self._bootstrap = settings.kafka.bootstrap or ""
        self._kept: dict[str, KeptRunning] = {}
        self._pinned: dict[str, str] = {}
        self._stopping = threading.Event()
        self._killed = False
        self._settled = threading.Event()
        self._error: Exception | None = None
        self._run_dir: RunDir | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self.endpoints: dict[str, Any] = {}
        self.doing = "starting"

    def start(self) -> None:
        """Begin; `settled` tells when all is ready or has failed."""
        self._thread.start()

    def settled(self, timeout_s: float) -> bool:
        """Whether all is ready; waits up to `timeout_s` for it.

        Raises:
            SimilisError: it cannot be started, or cannot go on.
        """
        self._settled.wait(timeout_s)
        if self._error is not None:
            raise self._error
        return self._settled.is_set()

    def running(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s`; whether it still runs."""
        self._thread.join(timeout_s)
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop all children in order and wait for that. Safe to repeat."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def kill9(self) -> None:
        """End everything as `kill -9` of the whole group would, leaving all files as they are."""
        self._killed = True
        self.stop()

    def pid(self, name: str) -> int | None:
        """The process id of a child, by name (kafka, index or a service); None while it is down."""
        kept = self._kept.get(name)
        return kept.child.pid if kept is not None and kept.child is not None else None

    @property
    def restarts(self) -> dict[str, int]:
        """How often each child was started again."""
        return {name: kept.restarts for name, kept in self._kept.items()}

    def _run(self) -> None:
        try:
            self._run_dir = RunDir(self._settings.data)
            self._bring_up(self._run_dir)
            while not self._stopping.wait(POLL_S):
                self._watch(self._run_dir)
        except _StoppedError:
            pass
        except SimilisError as error:
            self._error = error
        except Exception as error:
            log.exception("the supervisor failed")
            self._error = error
        finally:
            self._take_down()
            self._settled.set()

    def _bring_up(self, run_dir: RunDir) -> None:
        deadline = time.monotonic() + self._settings.local.start_timeout_s
        self.doing = "fetching and checking the broker"
        self._broker = choose_broker(self._settings, self._log_dir)
        if self._broker is not None:
            self._keep("kafka", self._broker.spawn, lambda _: self._broker_answers(), self._broker.stop_timeout_s)
            self._bootstrap = self._broker.bootstrap
        if self._settings.qdrant.url is None:
            self._keep("index", self._spawn_index, self._index_is_ready)
        self._wait_ready(run_dir, deadline, "starting the broker and the index")
        self._create_topics(deadline)
        for name in SERVICES:
            self._keep(name, partial(self._spawn_service, name), partial(self._is_ready, name))
        self._wait_ready(run_dir, deadline, "starting the services")
        self._announce(run_dir)
        self._settled.set()

    def _keep(
        self,
        name: str,
        spawn: Callable[[], Child],
        is_ready: Callable[[Child], bool],
        stop_timeout_s: float | None = None,
    ) -> None:
        local = self._settings.local
        kept = KeptRunning(
            name,
            spawn=spawn,
            is_ready=is_ready,
            stop_timeout_s=stop_timeout_s or local.stop_timeout_s,
            restart_pause_s=local.restart_pause_s,
        )
        self._kept[name] = kept
        kept.start()
        self._record()

    def _wait_ready(self, run_dir: RunDir, deadline: float, doing: str) -> None:
        while True:
            waiting = [name for name, kept in self._kept.items() if not kept.ready]
            if not waiting:
                return
            self.doing = f"{doing}: waiting for {', '.join(waiting)}"
            if time.monotonic() > deadline:
                tails = "\n".join(kept.child.tail for name in waiting if (kept := self._kept[name]).child is not None)
                raise ConfigurationError(f"not ready in time: {', '.join(waiting)}. See {self._log_dir}. {tails}")
            self._watch(run_dir)
            if self._stopping.wait(POLL_S):
                raise _StoppedError

    def _watch(self, run_dir: RunDir) -> None:
        changed = [kept for kept in self._kept.values() if kept.watch()]
        if not changed:
            return
        self._record()
        if self._settled.is_set() and all(kept.ready for kept in self._kept.values()):
            # A restarted service has another monitoring port.
            self._announce(run_dir)

    def _create_topics(self, deadline: float) -> None:
        self.doing = "creating the topics"
        wanted = declared(task_names(self._settings.vision.tasks_dir))
        kafka = self._settings.kafka.model_copy(update={"bootstrap": self._bootstrap})
        while True:
            try:
                report = asyncio.run(create_topics(kafka, wanted))
            except BrokerUnavailableError:
                # The port of a broker answers a moment before the broker does.
                if time.monotonic() > deadline or self._stopping.wait(0.5):
                    raise
                continue
            log.info("topics: %d created, %d were there", len(report.created), len(report.existing))
            return

    def _announce(self, run_dir: RunDir) -> None:
        written = {
            name: run_dir.read_service(name, kept.child.pid) or {}
            for name, kept in self._kept.items()
            if kept.child is not None
        }
        self.endpoints = {
            "dicom": written["listener"]["dicom"],
            "http": written["query"]["http"],
            "kafka": self._bootstrap,
            "metrics": {name: entry["metrics"] for name, entry in written.items() if "metrics" in entry},
        }
        # The same ports again after a restart, so that senders and open pages find the service.
        self._pinned["SIMILIS_LISTENER__PORT"] = str(self.endpoints["dicom"]["port"])
        self._pinned["SIMILIS_QUERY__PORT"] = str(urlsplit(self.endpoints["http"]).port)
        run_dir.write_endpoints(self.endpoints)

    def _record(self) -> None:
        if self._run_dir is not None:
            children = [kept.child for kept in self._kept.values()]
            self._run_dir.record_children([child.pid for child in children if child is not None])

    def _take_down(self) -> None:
        self.doing = "stopping"
        if self._killed:
            for kept in self._kept.values():
                kept.kill()
            for kept in self._kept.values():
                kept.stop()
        else:
            self._stop_in_order()
        if self._run_dir is not None:
            self._run_dir.release(clean=not self._killed)

    def _stop_in_order(self) -> None:
        """First the way in, then the workers together, then the index, and the broker last."""
        for group in (("listener",), ("embedder", "explainer", "query"), ("index",), ("kafka",)):
            kept = [self._kept[name] for name in group if name in self._kept]
            for one in kept:
                one.terminate()
            for one in kept:
                one.stop()

    def _broker_answers(self) -> bool:
        return self._broker is not None and self._broker.answers()

    def _spawn_index(self) -> Child:
        socket_path = self._index_socket()
        socket_path.unlink(missing_ok=True)
        options = ["--data", str(self._settings.data / "index"), "--socket", str(socket_path)]
        return self._spawn_python("index", ["index", *options, "--endpoint-file", str(self._service_file("index"))], {})

    def _index_is_ready(self, child: Child) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(str(self._index_socket()))
            return self._is_ready("index", child)
        return False

    def _spawn_service(self, name: str) -> Child:
        return self._spawn_python(name, [name], {"SIMILIS_ENDPOINT_FILE": str(self._service_file(name))})

    def _spawn_python(self, name: str, arguments: list[str], extra: dict[str, str]) -> Child:
        self._service_file(name).unlink(missing_ok=True)
        return Child(
            name,
            [*self._command, *arguments],
            env={**os.environ, **self._environment(), **extra},
            log_file=self._log_dir / f"{name}.log",
            log_bytes=self._settings.local.log_bytes,
            on_line=self._on_line,
        )

    def _environment(self) -> dict[str, str]:
        """What every child of ours is told beyond the environment that `similis up` was given."""
        settings, data = self._settings, self._settings.data
        told = {
            "PYTHONUNBUFFERED": "1",
            # Spinning threads of one service take the cores from the others: a third of a forward pass's time.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            "SIMILIS_KAFKA__BOOTSTRAP": self._bootstrap,
            "SIMILIS_MONITORING__PORT": "0",
            "SIMILIS_LISTENER__PORT": str(settings.dicom_port),
            "SIMILIS_LISTENER__AE_TITLE": settings.ae_title,
            "SIMILIS_LISTENER__STUDY_QUIET_S": str(settings.study_quiet_s),
            "SIMILIS_LISTENER__JOURNAL_DIR": str(data / "journal"),
            "SIMILIS_LISTENER__PSEUDONYM_KEY_FILE": str(data / "pseudonym.key"),
            "SIMILIS_LISTENER__GENERATE_PSEUDONYM_KEY": "true",
            "SIMILIS_LISTENER__CROSSWALK_FILE": str(data / "crosswalk"),
            "SIMILIS_QUERY__PORT": str(settings.http_port),
        }
        if "archive" not in settings.model_fields_set:
            told["SIMILIS_ARCHIVE__URL"] = str(data / "archive")
        if settings.qdrant.url is None:
            told["SIMILIS_QDRANT__SOCKET"] = str(self._index_socket())
        return told | self._pinned

    def _index_socket(self) -> Path:
        return self._owned().socket_folder / INDEX_SOCKET

    def _service_file(self, name: str) -> Path:
        return self._owned().service_file(name)

    def _owned(self) -> RunDir:
        if self._run_dir is None:
            raise RuntimeError("the data folder was not taken yet")
        return self._run_dir

    def _is_ready(self, name: str, child: Child) -> bool:
        """Whether the child has written its addresses and says at /readyz that it is ready."""
        written = self._owned().read_service(name, child.pid)
        return written is not None and answers_ok(str(written["metrics"]).removesuffix("/metrics") + "/readyz")


class _StoppedError(Exception):
    """Told to stop while starting."""
