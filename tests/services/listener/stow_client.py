"""STOW-RS requests, right and wrong, and a client that can send any bytes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from listener_harness import Running, Sample

from services.listener.part10 import encode_file_head

BOUNDARY = "a-boundary"
CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def dicom_file(sample: Sample, **meta: str) -> bytes:
    """The sample as a DICOM file; `meta` gives another file meta group than its own."""
    values = {
        "sop_class_uid": sample.sop_class,
        "sop_instance_uid": sample.sop,
        "transfer_syntax_uid": sample.transfer_syntax,
    }
    return encode_file_head(**(values | meta)) + sample.dataset


def message(*files: bytes, headers: str = "Content-Type: application/dicom\r\n", boundary: str = BOUNDARY) -> bytes:
    delimiter = b"--" + boundary.encode()
    parts = b"".join(delimiter + b"\r\n" + headers.encode() + b"\r\n" + file + b"\r\n" for file in files)
    return parts + delimiter + b"--\r\n"


def post(listener: Running, body: Any, path: str = "/studies", *, verify: Any = True, **headers: str) -> httpx.Response:
    """POST `body`; underscores in header names stand for hyphens."""
    sent = {"Content-Type": CONTENT_TYPE} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{listener.stow_url}{path}", content=body, headers=sent, timeout=60, verify=verify)


def store(listener: Running, *samples: Sample, path: str = "/studies", **headers: Any) -> httpx.Response:
    return post(listener, message(*map(dicom_file, samples)), path, **headers)


def stored(response: httpx.Response) -> list[str]:
    """The SOP Instance UIDs that the response names as stored."""
    items = response.json().get("00081199", {}).get("Value", [])
    return [item["00081155"]["Value"][0] for item in items]


def failed(response: httpx.Response) -> dict[str, int]:
    """The failure reason by SOP Instance UID."""
    items = response.json().get("00081198", {}).get("Value", [])
    return {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in items}


def other_failures(response: httpx.Response) -> list[int]:
    return [item["00081197"]["Value"][0] for item in response.json().get("0008119A", {}).get("Value", [])]


def connect(listener: Running) -> socket.socket:
    assert listener.stow_url is not None
    where = urlsplit(listener.stow_url)
    return socket.create_connection((where.hostname, where.port), timeout=20)  # type: ignore[arg-type]


def head(length: int | None, path: str = "/studies", content_type: str = CONTENT_TYPE) -> bytes:
    """A request's head; chunked without a length."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: {content_type}\r\n{size}\r\n\r\n".encode()


def read_all(peer: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    received = b""
    try:
        while data := peer.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def status_and_body(answer: bytes) -> tuple[int, Any]:
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body)


def receiving(listener: Running) -> list[Path]:
    """What the journal holds of objects that are not whole."""
    return list((listener.settings.listener.journal_dir / "receiving").iterdir())
