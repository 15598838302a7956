"""Systems that take results: Orthanc, DCMTK's storescp, and pynetdicom's SCP where a peer has to misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

# pynetdicom installs applications of DCMTK's names into the environment's bin folder.
SYSTEM_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin"


def tool(name: str) -> str:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{name} is not installed, and SIMILIS_REQUIRE_PEERS=1")
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


class Orthanc:
    """A running Orthanc, AE title ORTHANC. It reports Storage Commitment to the AE SIMILIS at `report_port`."""

    def __init__(self, folder: Path, *, report_port: int, **settings: object) -> None:
        self.port, http_port = free_port(), free_port()
        folder.mkdir(exist_ok=True)
        configuration = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "TemporaryDirectory": str(folder),
            "DicomAet": "ORTHANC",
            "DicomPort": self.port,
            "DicomCheckCalledAet": True,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
            "StableAge": 1,
            "DicomModalities": {
                "similis": {
                    "AET": "SIMILIS",
                    "Host": "127.0.0.1",
                    "Port": report_port,
                    "AllowStorageCommitment": True,
                }
            },
            **settings,
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self._url = f"http://127.0.0.1:{http_port}"
        self._log = (folder / "log").open("wb")
        command = [tool("Orthanc"), str(folder / "orthanc.json")]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        wait_for(self._answers, 60)

    def get(self, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self._url + path, data), timeout=60) as answer:
            return bytes(answer.read())

    def file(self, sop_instance_uid: str) -> bytes | None:
        """An instance as Orthanc holds it; None if it has none."""
        query = {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}}
        found: list[str] = json.loads(self.get("/tools/find", query))
        return self.get(f"/instances/{found[0]}/file") if found else None

    def studies(self) -> list[dict[str, Any]]:
        return [json.loads(self.get(f"/studies/{one}")) for one in json.loads(self.get("/studies"))]

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Orthanc has ended"
        with contextlib.suppress(urllib.error.URLError, OSError):
            self.get("/system")
            return True
        return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


class StoreScp:
    """DCMTK's storescp, AE title STORESCP: no Storage Commitment."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder
        folder.mkdir(exist_ok=True)
        command = [tool("storescp"), "-aet", "STORESCP", "-od", str(folder), *options, str(self.port)]
        environment = {**os.environ, "TCP_NODELAY": "1"}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens)

    @property
    def files(self) -> list[Path]:
        return list(self.folder.iterdir())

    def _listens(self) -> bool:
        assert self._process.poll() is None, "storescp has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def __enter__(self) -> StoreScp:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


class Pacs:
    """pynetdicom's SCP, AE title PACS, which does as it is told.

    Attributes:
        stored: SOP Instance UIDs in the order that they came, repeats too.
        statuses: Of C-STORE, one after the other; then 0x0000.
        reports: How each request for commitment is answered: "same" association, "silent", or "not kept".
        hold: If set, a C-STORE waits for it.
    """

    def __init__(
        self, *, commitment: bool = True, port: int | None = None, sop_classes: list[str] | None = None
    ) -> None:
        self.stored: list[str] = []
        self.statuses: list[int] = []
        self.reports: list[str] = []
        self.hold: threading.Event | None = None
        self.holding = threading.Event()
        self.associations = self.asked = 0
        ae = AE(ae_title="PACS")
        offered = sop_classes or [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
        for uid in offered:
            ae.add_supported_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        if commitment:
            ae.add_supported_context(StorageCommitmentPushModel)
        self._server = ae.start_server(
            ("127.0.0.1", port or 0),
            block=False,
            evt_handlers=[
                (evt.EVT_ESTABLISHED, self._established),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_ACTION, self._asked),
            ],
        )
        self.port = int(self._server.server_address[1])

    def _established(self, _: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        self.holding.set()
        if self.hold is not None:
            self.hold.wait(60)
        status = self.statuses.pop(0) if self.statuses else 0x0000
        if status == 0x0000:
            self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return status

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        how = self.reports.pop(0) if self.reports else "same"
        self.asked += 1
        ds = event.action_information
        if how != "silent":
            threading.Thread(target=self._report, args=(event.assoc, ds, how), daemon=True).start()
        return 0x0000, None

    def _report(self, association: Any, ds: Dataset, how: str) -> None:
        time.sleep(0.1)  # behind the answer to the request
        report = Dataset()
        report.TransactionUID = ds.TransactionUID
        if how == "not kept":
            for item in ds.ReferencedSOPSequence:
                item.FailureReason = 0x0110
            report.FailedSOPSequence = ds.ReferencedSOPSequence
        else:
            report.ReferencedSOPSequence = ds.ReferencedSOPSequence
        association.send_n_event_report(
            report, 1 + (how == "not kept"), StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )

    def report_by_new_association(self, ds: Dataset, port: int, *, calling: str = "PACS") -> int | None:
        """The status of the answer; None if there was no association."""
        ae = AE(ae_title=calling)
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        association = ae.associate("127.0.0.1", port, ae_title="SIMILIS", ext_neg=[role])
        if not association.is_established:
            return None
        try:
            status, _ = association.send_n_event_report(
                ds, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            return int(status.Status)
        finally:
            association.release()

    def close(self) -> None:
        if self.hold is not None:
            self.hold.set()
        self._server.shutdown()
