"""The receivers, each started as the process that people run, on a folder and a port of its own."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from bench.listener.launch import LOOPBACK, Launch, free_port
from bench.listener.requestor import Address
from bench.listener.senders import system_tool

PDU_BYTES: Final = 131_072
"""Longest PDU that each receiver announces: the most that DCMTK and Orthanc take, and Similis's own default."""
MAX_OBJECT_BYTES: Final = 4 << 30
MAX_ASSOCIATIONS: Final = 1_000


class Receiver(Protocol):
    """A kind of receiver."""

    @property
    def name(self) -> str:
        """As in --receivers and in results."""

    @property
    def title(self) -> str:
        """As shown to people."""

    def version(self) -> str:
        """The version found.

        Raises:
            NotInstalledError: there is none on this machine.
        """

    def launch(self, folder: Path) -> Launch:
        """Make ready to start on an empty folder."""


@dataclass(frozen=True, slots=True)
class Similis:
    """The listener of a checkout, with the interpreter that runs the benchmark. Its broker is away."""

    checkout: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    name: str = "similis"
    title: str = "Similis"

    def version(self) -> str:
        """The installed version; which commit it was is told apart from it."""
        return importlib.metadata.version("similis")

    def launch(self, folder: Path) -> Launch:
        """Set so that no study closes during a run: publishing is not what is measured."""
        endpoints, journal = folder / "endpoints.json", folder / "journal"
        settings = {
            "LISTENER__HOST": LOOPBACK,
            "LISTENER__PORT": "0",
            "LISTENER__JOURNAL_DIR": str(journal),
            "LISTENER__PSEUDONYM_KEY_FILE": str(folder / "pseudonym.key"),
            "LISTENER__GENERATE_PSEUDONYM_KEY": "true",
            "LISTENER__STUDY_QUIET_S": "3600",
            "LISTENER__STUDY_MAX_AGE_S": "7200",
            "LISTENER__MAX_ASSOCIATIONS": str(MAX_ASSOCIATIONS),
            "LISTENER__MAX_OBJECT_BYTES": str(MAX_OBJECT_BYTES),
            "LISTENER__MAX_PDU_BYTES": str(PDU_BYTES),
            "LISTENER__MIN_FREE_DISK_BYTES": "0",
            "ARCHIVE__URL": str(folder / "archive"),
            "ENDPOINT_FILE": str(endpoints),
            "KAFKA__BOOTSTRAP": f"{LOOPBACK}:{free_port()}",
        }
        # Not in every checkout that one compares with, and a setting that is not known is an error.
        known = (self.checkout / "services" / "listener" / "settings.py").read_text()
        newer = {"max_associations_per_peer": str(MAX_ASSOCIATIONS), "crosswalk_file": str(folder / "crosswalk")}
        settings |= {f"LISTENER__{name.upper()}": value for name, value in newer.items() if name in known}
        settings |= self.settings

        def address() -> Address | None:
            if not endpoints.exists():
                return None
            dicom = json.loads(endpoints.read_text())["dicom"]
            return Address(dicom["host"], dicom["port"], dicom["ae_title"])

        return Launch(
            [sys.executable, "-m", "services.cli", "listener"],
            address,
            lambda: sum(1 for _ in journal.rglob("*.dcm")),
            {f"SIMILIS_{name}": value for name, value in settings.items()} | {"PYTHONPATH": str(self.checkout)},
        )


@dataclass(frozen=True, slots=True)
class Storescp:
    """DCMTK's storescp, a process for each association. It never calls fsync."""

    name: str = "storescp"
    title: str = "storescp --fork (no fsync)"
    options: tuple[str, ...] = ()

    def version(self) -> str:
        """DCMTK's version."""
        return f"DCMTK {_first_line(system_tool('storescp'), '--version').split()[2]}"

    def launch(self, folder: Path) -> Launch:
        """Write to a folder; no look-up of host names."""
        port, objects = free_port(), folder / "objects"
        objects.mkdir()
        command = [system_tool("storescp"), "--fork", "-q", "-dhl", "-pdu", str(PDU_BYTES), *self.options]
        return Launch(
            [*command, "-od", str(objects), str(port)],
            lambda: Address(LOOPBACK, port, "STORESCP"),
            lambda: sum(1 for _ in objects.iterdir()),
        )


@dataclass(frozen=True, slots=True)
class Orthanc:
    """Orthanc as packaged, without plugins: an SQLite index, and one fdatasync for each file (SyncStorageArea)."""

    name: str = "orthanc"
    title: str = "Orthanc (SyncStorageArea)"

    def version(self) -> str:
        """Orthanc's version."""
        return f"Orthanc {_first_line(system_tool('Orthanc'), '--version').split()[-1]}"

    def launch(self, folder: Path) -> Launch:
        """Defaults but for ports, folders and the length of PDUs; HTTP is asked only for counts."""
        dicom_port, http_port = free_port(), free_port()
        settings: dict[str, Any] = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "TemporaryDirectory": str(folder),
            "SyncStorageArea": True,
            "DicomPort": dicom_port,
            "DicomCheckCalledAet": False,
            "MaximumPduLength": PDU_BYTES,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))

        def stored() -> int:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{http_port}/statistics", timeout=30) as answer:
                return int(json.load(answer)["CountInstances"])

        return Launch(
            [system_tool("Orthanc"), str(folder / "orthanc.json")],
            lambda: Address(LOOPBACK, dicom_port, "ORTHANC"),
            stored,
        )


@dataclass(frozen=True, slots=True)
class PynetdicomStorescp:
    """The storescp application that comes with pynetdicom. It decodes, writes again, and never calls fsync."""

    name: str = "pynetdicom"
    title: str = "pynetdicom storescp (no fsync)"

    def version(self) -> str:
        """pynetdicom's version."""
        return f"pynetdicom {importlib.metadata.version('pynetdicom')}"

    def launch(self, folder: Path) -> Launch:
        """Write to a folder."""
        port, objects = free_port(), folder / "objects"
        objects.mkdir()
        command = [sys.executable, "-m", "pynetdicom", "storescp", "-q", "-ba", LOOPBACK, "-pdu", str(PDU_BYTES)]
        return Launch(
            [*command, "-od", str(objects), str(port)],
            lambda: Address(LOOPBACK, port, "STORESCP"),
            lambda: sum(1 for _ in objects.iterdir()),
        )


def known_receivers(checkout: Path, settings: Mapping[str, str]) -> dict[str, Receiver]:
    """Every receiver by name; `settings` are Similis's own, without their SIMILIS_ prefix."""
    receivers: list[Receiver] = [
        Similis(checkout, settings),
        Orthanc(),
        Storescp(),
        Storescp("storescp-bit-preserving", "storescp --fork --bit-preserving (no fsync)", ("--bit-preserving",)),
        PynetdicomStorescp(),
    ]
    return {receiver.name: receiver for receiver in receivers}


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout + done.stderr).partition("\n")[0].strip()
