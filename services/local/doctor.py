"""`similis doctor`: what is missing on this machine, and what to do about it.

Each check is a function from the settings to findings. None starts or changes a service; the check of
the weights may convert them, as the first start would.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.local import kafka_jars, tansu
from services.local.ports import is_free
from services.local.probe import answers_ok
from services.local.settings import LocalSettings
from shared.delivery.connection import client_options
from shared.errors import SimilisError
from shared.settings import KafkaSettings
from shared.topics import declared
from shared.vision.tasks import task_names

LEAST_FREE_BYTES: Final = 5_000_000_000
PROBE_TIMEOUT_S: Final = 10.0
SECTIONS: Final = frozenset(
    {
        "ARCHIVE",
        "EMBEDDER",
        "EXPLAINER",
        "INDEX",
        "KAFKA",
        "LISTENER",
        "LOCAL",
        "MONITORING",
        "QDRANT",
        "QUERY",
        "VISION",
    }
)


class Verdict(StrEnum):
    """How a check ended."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table. `what` says what was found and, if need be, what to mend."""

    check: str
    verdict: Verdict
    what: str


def run(data: Path) -> int:
    """Print the table; the exit status is 1 if anything failed."""
    console = Console()
    findings: list[Finding] = []
    try:
        settings = LocalSettings(data=data)
    except ValidationError as error:
        findings = [Finding("settings", Verdict.FAIL, _in_words(error))]
    else:
        with console.status("checking") if console.is_terminal else contextlib.nullcontext():
            findings = examine(settings)
    show(console, findings)
    return 1 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0


def examine(settings: LocalSettings) -> list[Finding]:
    """Every finding, in the order of the flow."""
    running = endpoints_of_running(settings.data)
    findings: list[Finding] = []
    for name, check in CHECKS:
        try:
            for verdict, what in check(settings, running):
                findings.append(Finding(name, verdict, what))
        except SimilisError as error:
            findings.append(Finding(name, Verdict.FAIL, str(error)))
    return findings


def show(console: Console, findings: list[Finding]) -> None:
    """Print the findings as a table."""
    table = Table("check", "", "what", title="Similis, research use only")
    colour = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
    for finding in findings:
        verdict = f"[{colour[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(finding.check, verdict, escape(finding.what))
    console.print(table)


def endpoints_of_running(data: Path) -> dict[str, Any] | None:
    """The endpoints of the `similis up` that runs on `data`; {} while it starts; None if none runs."""
    try:
        lock = os.open(data / "run" / "up.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((data / "run" / "endpoints.json").read_text())
            return found
        return {}
    finally:
        os.close(lock)
    return None


Lines = Iterator[tuple[Verdict, str]]
Running = dict[str, Any] | None


def _check_settings(settings: LocalSettings, running: Running) -> Lines:
    known = {f"SIMILIS_{name.upper()}" for name in LocalSettings.model_fields}
    unknown = [
        name
        for name in sorted(os.environ)
        if name.startswith("SIMILIS_")
        and name not in known
        and name.removeprefix("SIMILIS_").partition("__")[0] not in SECTIONS
        and not name.startswith("SIMILIS_REQUIRE_")
    ]
    if unknown:
        yield Verdict.WARN, f"no setting has the name {', '.join(unknown)}: misspelled?"
    else:
        yield Verdict.OK, "every SIMILIS_* variable names a setting"


def _check_running(settings: LocalSettings, running: Running) -> Lines:
    if running is None:
        yield Verdict.OK, f"no `similis up` runs on {settings.data}"
        return
    if not running:
        yield Verdict.WARN, "`similis up` is starting or stopping: look again in a minute"
        return
    for name, url in running["metrics"].items():
        if answers_ok(url.removesuffix("/metrics") + "/readyz"):
            yield Verdict.OK, f"{name} is ready"
        else:
            yield Verdict.FAIL, f"{name} is not ready: see {settings.data / 'log' / (name + '.log')}"


def _check_ports(settings: LocalSettings, running: Running) -> Lines:
    if running is not None:
        yield Verdict.OK, "in use by the running profile"
        return
    for what, port, option in (("DICOM", settings.dicom_port, "dicom"), ("HTTP", settings.http_port, "http")):
        if port and not is_free(port):
            yield Verdict.FAIL, f"{what} port {port} is taken: end what uses it, or give --{option}-port"
        else:
            yield Verdict.OK, f"{what} port {port} is free"


def _check_broker(settings: LocalSettings, running: Running) -> Lines:
    bootstrap = settings.kafka.bootstrap or (running or {}).get("kafka")
    if bootstrap:
        yield from _check_topics(settings, settings.kafka.model_copy(update={"bootstrap": bootstrap}))
        return
    try:
        java = kafka_jars.java()
        folder = kafka_jars.jars_folder(settings.vision.cache_dir)
        if folder.is_dir():
            kafka_jars.verify(folder)
            yield Verdict.OK, f"Apache Kafka {kafka_jars.KAFKA_VERSION} in {folder}, run by {java}"
        else:
            kafka_jars.maven()
            yield Verdict.OK, f"Maven fetches Apache Kafka {kafka_jars.KAFKA_VERSION} at the first start; Java: {java}"
    except kafka_jars.ToolMissingError as missing:
        if settings.local.allow_volatile_broker and tansu.is_installed():
            yield Verdict.WARN, f"{missing}: the volatile broker would be used, which loses events when it ends"
        else:
            yield Verdict.FAIL, f"{missing}: install it, or name a broker in SIMILIS_KAFKA__BOOTSTRAP"


def _check_topics(settings: LocalSettings, kafka: KafkaSettings) -> Lines:
    try:
        found = asyncio.run(_topics(kafka))
    except (KafkaError, OSError, TimeoutError) as error:
        yield (
            Verdict.FAIL,
            f"no Kafka answers at {kafka.bootstrap}: {type(error).__name__}: start it or mend the address",
        )
        return
    yield Verdict.OK, f"Kafka answers at {kafka.bootstrap}"
    topics = declared(task_names(settings.vision.tasks_dir))
    missing = sorted({name for topic in topics for name in (topic.name, topic.retry, topic.dlq)} - found)
    if missing:
        yield Verdict.FAIL, f"{len(missing)} topics are missing, such as {missing[0]}: run `similis topics create`"
    else:
        yield Verdict.OK, "every topic is there"


async def _topics(kafka: KafkaSettings) -> set[str]:
    admin = AIOKafkaAdminClient(**client_options(kafka), request_timeout_ms=int(PROBE_TIMEOUT_S * 1000))
    async with asyncio.timeout(PROBE_TIMEOUT_S):
        await admin.start()
        try:
            return set(await admin.list_topics())
        finally:
            await admin.close()


def _check_index(settings: LocalSettings, running: Running) -> Lines:
    url = settings.qdrant.url
    if url is None:
        if importlib.util.find_spec("qdrant_edge") is None:
            yield Verdict.FAIL, "the embedded engine is not installed: install the extra similis[index]"
        else:
            yield Verdict.OK, "the embedded engine Qdrant Edge is installed"
    elif answers_ok(url.rstrip("/") + "/readyz", PROBE_TIMEOUT_S):
        yield Verdict.OK, f"Qdrant answers at {url}"
    else:
        yield Verdict.FAIL, f"no Qdrant answers at {url}: start it or mend SIMILIS_QDRANT__URL"


def _check_archive(settings: LocalSettings, running: Running) -> Lines:
    url = settings.archive.url if "archive" in settings.model_fields_set else str(settings.data / "archive")
    if "://" in url and not url.startswith("file://"):
        yield Verdict.WARN, f"{url} is not a folder and is not checked"
        return
    folder = Path(url.removeprefix("file://")).expanduser()
    standing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=standing, prefix=".similis-doctor-"):
            pass
    except OSError as error:
        yield Verdict.FAIL, f"{standing} cannot be written: {error.strerror}: change its owner or choose another --data"
        return
    free = shutil.disk_usage(standing).free
    if free < LEAST_FREE_BYTES:
        yield Verdict.WARN, f"{folder} has {free / 1e9:.1f} GB free: make room, objects are refused when it is full"
    else:
        yield Verdict.OK, f"{folder} can be written, {free / 1e9:.0f} GB free"


def _check_weights(settings: LocalSettings, running: Running) -> Lines:
    for package, extra in (("torch", "vision"), ("transformers", "vision"), ("safetensors", "vision")):
        if importlib.util.find_spec(package) is None:
            yield Verdict.FAIL, f"{package} is not installed: install the extra similis[{extra}]"
            return
    try:
        from shared.vision.weights import locate_weights  # needs the extra that was just looked for
    except ImportError as error:
        yield Verdict.FAIL, f"{error.name} is not installed: install the extra similis[vision]"
        return
    weights = locate_weights(settings.vision)
    yield Verdict.OK, f"the weights of {settings.vision.backbone} are there and checked: {weights.folder}"


def _check_tasks(settings: LocalSettings, running: Running) -> Lines:
    names = task_names(settings.vision.tasks_dir)
    if names:
        yield Verdict.OK, f"installed: {', '.join(names)}"
    else:
        yield Verdict.WARN, "none is installed: every study is searchable, and none is diagnosed"


def _check_gpu(settings: LocalSettings, running: Running) -> Lines:
    wanted = settings.vision.device
    tool = shutil.which("nvidia-smi")
    if tool is None:
        if wanted.startswith("cuda"):
            yield Verdict.FAIL, f"SIMILIS_VISION__DEVICE={wanted}, but there is no NVIDIA driver: set it to auto or cpu"
        else:
            yield Verdict.OK, "none; the CPU is used, a study takes seconds instead of a fraction of one"
        return
    found = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    if found.returncode == 0 and found.stdout.strip():
        yield Verdict.OK, found.stdout.strip().splitlines()[0].partition(" (UUID")[0]
    else:
        yield Verdict.WARN, f"the NVIDIA driver does not answer ({found.stderr.strip()[:100]}): the CPU is used"


def _in_words(error: ValidationError) -> str:
    return "; ".join(
        f"SIMILIS_{'__'.join(str(part).upper() for part in one['loc'])}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False)
    )


CHECKS: Final[tuple[tuple[str, Callable[[LocalSettings, Running], Lines]], ...]] = (
    ("settings", _check_settings),
    ("profile", _check_running),
    ("ports", _check_ports),
    ("broker", _check_broker),
    ("index", _check_index),
    ("archive", _check_archive),
    ("weights", _check_weights),
    ("tasks", _check_tasks),
    ("GPU", _check_gpu),
)
