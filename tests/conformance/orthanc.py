"""A running Orthanc, told by its REST interface what to send where."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.conformance.peers import tool
from tests.services.listener.listener_harness import Running, wait_for


class Orthanc:
    """Orthanc as packaged, without plugins, in `folder`; it may speak TLS with the certificate in `cert_file`."""

    def __init__(self, folder: Path, *, cert_file: Path, key_file: Path, ca_file: Path) -> None:
        http_port = _free_port()
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "TemporaryDirectory": str(folder),
            "DicomAet": "ORTHANC",
            "DicomServerEnabled": False,
            "DicomTlsCertificate": str(cert_file),
            "DicomTlsPrivateKey": str(key_file),
            "DicomTlsTrustedCertificates": str(ca_file),
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._url = f"http://127.0.0.1:{http_port}"
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [tool("Orthanc"), str(folder / "orthanc.json")], stdout=self._log, stderr=self._log
        )
        wait_for(self._is_up, 30)

    def upload(self, file: Path) -> str:
        """Put a DICOM file into Orthanc; its identifier there."""
        return str(self._call("POST", "/instances", file.read_bytes())["ID"])

    def knows(self, listener: Running, *, called: str = "SIMILIS", calling: str = "ORTHANC", tls: bool = False) -> str:
        """Enter a listener as a modality; its name."""
        name = f"listener-{listener.port}-{called}-{calling}"
        modality = {
            "AET": called,
            "Host": listener.host,
            "Port": listener.port,
            "LocalAet": calling,
            "UseDicomTls": tls,
        }
        self._call("PUT", f"/modalities/{name}", modality)
        return name

    def echo(self, modality: str) -> bool:
        """C-ECHO; whether it was answered."""
        return self._works(f"/modalities/{modality}/echo", {})

    def store(self, modality: str, *identifiers: str) -> dict[str, Any] | None:
        """C-STORE; Orthanc's account of it, or None if it failed."""
        try:
            return dict(self._call("POST", f"/modalities/{modality}/store", list(identifiers)))
        except urllib.error.HTTPError:
            return None

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def _works(self, path: str, body: object) -> bool:
        try:
            self._call("POST", path, body)
        except urllib.error.HTTPError:
            return False
        return True

    def _is_up(self) -> bool:
        assert self._process.poll() is None, "Orthanc has ended"
        try:
            self._call("GET", "/system")
        except OSError:
            return False
        return True

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            error.close()
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
