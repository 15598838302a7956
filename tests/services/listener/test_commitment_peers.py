"""A requestor of storage commitment that is not pynetdicom: Orthanc."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from listener_harness import Running, make_dataset, wait_for
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

pytestmark = pytest.mark.peers

SYSTEM_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Orthanc:
    """A running Orthanc, spoken to by its REST interface. The listener at `port` is its modality `similis`."""

    def __init__(self, folder: Path, *, dicom_port: int, similis_port: int) -> None:
        executable = shutil.which("Orthanc", path=SYSTEM_PATH)
        if executable is None:
            if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
                pytest.fail("Orthanc is not installed, and SIMILIS_REQUIRE_PEERS=1")
            pytest.skip("Orthanc is not installed")
        http_port = free_port()
        folder.mkdir()
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "TemporaryDirectory": str(folder),
            "DicomAet": "ORTHANC",
            "DicomPort": dicom_port,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
            "DicomModalities": {
                "similis": {
                    "AET": "SIMILIS",
                    "Host": "127.0.0.1",
                    "Port": similis_port,
                    "AllowStorageCommitment": True,
                }
            },
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._url = f"http://127.0.0.1:{http_port}"
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [executable, "--verbose", str(folder / "orthanc.json")], stdout=self._log, stderr=self._log
        )
        wait_for(self._answers, 30)

    def call(self, path: str, body: object = None) -> Any:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self._url + path, data), timeout=60) as answer:
            return json.load(answer)

    def store(self, file: bytes) -> str:
        """Put a file into Orthanc and send it on to the listener; its identifier in Orthanc."""
        identifier = str(self.call("/instances", file)["ID"])
        assert self.call("/modalities/similis/store", [identifier])["FailedInstancesCount"] == 0
        return identifier

    def committed(self, body: dict[str, object]) -> dict[str, Any]:
        """Ask the listener for storage commitment, and wait for its report."""
        transaction = self.call("/modalities/similis/storage-commitment", body)["ID"]
        wait_for(lambda: self.call(f"/storage-commitment/{transaction}")["Status"] != "Pending", 30)
        return dict(self.call(f"/storage-commitment/{transaction}"))

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Orthanc has ended"
        with contextlib.suppress(urllib.error.URLError, OSError):
            self.call("/system")
            return True
        return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@pytest.fixture
def orthanc(start_listener: Callable[..., Running], tmp_path: Path) -> Iterator[tuple[Orthanc, Running]]:
    port = free_port()
    listener = start_listener(commitment_peers=(f"ORTHANC=127.0.0.1:{port}",))
    running = Orthanc(tmp_path / "orthanc", dicom_port=port, similis_port=listener.port)
    yield running, listener
    running.close()


def test_orthanc_is_told_of_what_it_sent(orthanc: tuple[Orthanc, Running]) -> None:
    requestor, listener = orthanc
    identifiers = [
        requestor.store(Path(get_testdata_file(name, download=False)).read_bytes())
        for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm")
    ]
    report = requestor.committed({"Resources": identifiers})
    assert report["Status"] == "Success"
    assert report["RemoteAET"] == "SIMILIS"
    assert len(report["Success"]) == 3
    assert report["Failures"] == []
    folder: Path = listener.settings.listener.journal_dir / "commitments"
    wait_for(lambda: list(folder.iterdir()) == [])


def test_orthanc_is_told_of_each_kind_of_failure(orthanc: tuple[Orthanc, Running], tmp_path: Path) -> None:
    requestor, listener = orthanc
    study, series = generate_uid(), generate_uid()
    sound, damaged = generate_uid(), generate_uid()
    for sop in (sound, damaged):
        ds = make_dataset(study=study, series=series, sop=sop)
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
        requestor.store((tmp_path / "one.dcm").read_bytes())
    wait_for(lambda: len(list(listener.archive.list(f"instances/{study}"))) == 2 and listener.journal_files == [])
    (listener.archive.root / f"instances/{study}/{series}/{damaged}.dcm").write_bytes(b"something else")
    mr, unknown = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
    report = requestor.committed({"DicomInstances": [[mr, sound], [mr, damaged], [mr, unknown]]})
    assert report["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in report["Success"]] == [sound]
    failures = {one["SOPInstanceUID"]: one["FailureReason"] for one in report["Failures"]}
    assert failures == {damaged: 0x0110, unknown: 0x0112}
    report = requestor.committed({"DicomInstances": [[SECONDARY_CAPTURE, sound]]})
    assert [one["FailureReason"] for one in report["Failures"]] == [0x0119]
