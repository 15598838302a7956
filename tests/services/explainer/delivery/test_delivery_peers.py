"""Delivery to software of others: Orthanc, with Storage Commitment, and DCMTK, without."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from services.explainer.delivery import ClientTls
from shared.archive.local import LocalArchive
from shared.events import ResultKind, StudyExplained
from tests.services.explainer.delivery.explained_study import Opened, objects, record, section, states
from tests.services.explainer.delivery.peers import Orthanc, StoreScp, free_port, tool, wait_for

pytestmark = [
    pytest.mark.peers,
    # pynetdicom leaves a socket to the garbage collector where a connection is refused
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def report_port() -> int:
    return free_port()


@pytest.fixture
def orthanc(tmp_path: Path, report_port: int) -> Iterator[Orthanc]:
    running = Orthanc(tmp_path / "orthanc", report_port=report_port)
    yield running
    running.close()


def test_orthanc_commits_and_gives_back_the_same_objects(
    orthanc: Orthanc, report_port: int, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    outbox(section(orthanc.port, called="ORTHANC", commitment="require", report_port=report_port)).add(explained)
    wait_for(lambda: states(archive) == ["done"], 60)
    assert json.loads(record(archive, "done"))["committed"] is True
    for sent in objects():
        kept = orthanc.file(sent.sop_instance_uid)
        assert kept is not None, sent.kind
        ours, theirs = dcmread(io.BytesIO(sent.data)), dcmread(io.BytesIO(kept))
        assert theirs == ours, sent.kind
        if sent.kind is ResultKind.PARAMETRIC_MAP:
            assert np.array_equal(
                np.frombuffer(theirs.FloatPixelData, "<f4"), np.frombuffer(ours.FloatPixelData, "<f4")
            )
        elif "PixelData" in ours:
            assert np.array_equal(theirs.pixel_array, ours.pixel_array)
    [study] = orthanc.studies()
    first = _first()
    assert study["MainDicomTags"]["StudyInstanceUID"] == first.StudyInstanceUID
    assert study["PatientMainDicomTags"]["PatientID"] == first.PatientID
    assert len(study["Series"]) == 5


def test_sending_to_orthanc_again_leaves_one_of_each(
    orthanc: Orthanc, report_port: int, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    settings = section(orthanc.port, called="ORTHANC", report_port=report_port)
    running = outbox(settings)
    running.add(explained)
    wait_for(lambda: states(archive) == ["done"], 60)
    running.add(explained.model_copy(update={"event_id": UUID("11111111-2222-5333-8444-888888888888")}))
    wait_for(lambda: states(archive) == ["done", "done"], 60)
    assert len(json.loads(orthanc.get("/instances"))) == 5


def test_storescp_keeps_what_it_is_sent(
    tmp_path: Path, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    with StoreScp(tmp_path / "received") as storescp:
        outbox(section(storescp.port, called="STORESCP")).add(explained)
        wait_for(lambda: states(archive) == ["done"])
        assert json.loads(record(archive, "done"))["committed"] is False
        _assert_received(storescp)


@pytest.mark.parametrize("mutual", [False, True])
def test_storescp_takes_them_over_tls(
    tmp_path: Path, archive: LocalArchive, explained: StudyExplained, outbox: Opened, mutual: bool
) -> None:
    ca, certificate, key = _certificates(tmp_path)
    options = ["+tls", str(key), str(certificate), "+cf", str(ca)]
    with StoreScp(tmp_path / "received", *options, "-rc" if mutual else "-ic") as storescp:
        client = {"cert_file": certificate, "key_file": key} if mutual else {}
        tls = ClientTls(ca_file=ca, server_name="pacs.test", **client)
        outbox(section(storescp.port, called="STORESCP", tls=tls)).add(explained)
        wait_for(lambda: states(archive) == ["done"])
        _assert_received(storescp)


def test_a_certificate_of_another_name_is_refused(
    tmp_path: Path, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    ca, certificate, key = _certificates(tmp_path)
    with StoreScp(tmp_path / "received", "+tls", str(key), str(certificate), "-ic") as storescp:
        tls = ClientTls(ca_file=ca, server_name="another.test")
        outbox(section(storescp.port, called="STORESCP", tls=tls, give_up_after_s=0.3)).add(explained)
        wait_for(lambda: states(archive) == ["dead"])
        assert storescp.files == []


def _assert_received(storescp: StoreScp) -> None:
    received = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, storescp.files)}
    assert received == {sent.sop_instance_uid: dcmread(io.BytesIO(sent.data)) for sent in objects()}


def _first() -> Dataset:
    return dcmread(io.BytesIO(objects()[0].data))


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """An authority, and a certificate for pacs.test with its key."""
    ca, ca_key, certificate, key = (folder / name for name in ("ca.pem", "ca.key", "pacs.pem", "pacs.key"))
    openssl = tool("openssl")
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    authority = ["-subj", "/CN=Test authority", "-keyout", str(ca_key), "-out", str(ca)]
    subprocess.run([openssl, *new, *authority], check=True, capture_output=True)
    issued = [
        "-subj",
        "/CN=pacs.test",
        "-addext",
        "subjectAltName=DNS:pacs.test",
        "-addext",
        "basicConstraints=CA:FALSE",
    ]
    signed = ["-CA", str(ca), "-CAkey", str(ca_key), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *new, *issued, *signed], check=True, capture_output=True)
    return ca, certificate, key
