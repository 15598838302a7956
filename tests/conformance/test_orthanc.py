"""Orthanc as the sending peer, plain and over TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydicom.uid import generate_uid

from tests.conformance.kept import archived, entries
from tests.conformance.orthanc import Orthanc
from tests.conformance.peers import assert_kept, sample, sample_file
from tests.services.listener.certificates import Authority
from tests.services.listener.listener_harness import Running, encode, make_dataset

pytestmark = pytest.mark.peers

FILES = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "ExplVR_BigEnd.dcm",
    "JPEG2000.dcm",
    "examples_jpeg2k.dcm",
    "JPGExtended.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "image_dfl.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orthanc")


@pytest.fixture(scope="module")
def orthanc(folder: Path, authority: Authority) -> Iterator[Orthanc]:
    cert_file, key_file = authority.issue("orthanc", key=rsa.generate_private_key(65537, 2048)).write(folder, "orthanc")
    running = Orthanc(folder, cert_file=cert_file, key_file=key_file, ca_file=authority.write(folder))
    yield running
    running.close()


@pytest.fixture(scope="module")
def tls(folder: Path, authority: Authority) -> dict[str, object]:
    """The listener's settings for TLS."""
    issued = authority.issue("listener", key=rsa.generate_private_key(65537, 2048))
    cert_file, key_file = issued.write(folder, "listener")
    return {"mode": "on", "cert_file": cert_file, "key_file": key_file}


@pytest.fixture
def listener(start_listener: Callable[..., Running]) -> Running:
    return start_listener()


def test_orthanc_is_answered(orthanc: Orthanc, listener: Running) -> None:
    assert orthanc.echo(orthanc.knows(listener))
    assert not orthanc.echo(orthanc.knows(listener, called="SOMEONE"))


@pytest.mark.parametrize("name", FILES)
def test_orthanc_stores_in_the_transfer_syntax_it_holds(orthanc: Orthanc, listener: Running, name: str) -> None:
    account = orthanc.store(orthanc.knows(listener), orthanc.upload(sample_file(name)))
    assert account is not None
    assert account["FailedInstancesCount"] == 0
    assert_kept(listener, name)
    sent = sample(name)
    assert archived(listener, sent).file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


def test_orthanc_stores_many_objects_over_one_association(orthanc: Orthanc, listener: Running, tmp_path: Path) -> None:
    study, identifiers, datasets = generate_uid(), [], []
    for number in range(30):
        ds = make_dataset(study=study, series=generate_uid(), sop=generate_uid(), fill=number)
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
        identifiers.append(orthanc.upload(tmp_path / "one.dcm"))
        datasets.append(ds)
    account = orthanc.store(orthanc.knows(listener), *identifiers)
    assert account is not None
    assert (account["InstancesCount"], account["FailedInstancesCount"]) == (30, 0)
    by_sop = entries(listener, study, 30)
    for ds in datasets:
        assert encode(ds) in listener.archive.get(by_sop[ds.SOPInstanceUID].archive_key)


def test_orthanc_may_send_an_object_again(orthanc: Orthanc, listener: Running) -> None:
    identifier = orthanc.upload(sample_file("CT_small.dcm"))
    for _ in range(3):
        assert orthanc.store(orthanc.knows(listener), identifier) is not None
    assert_kept(listener, "CT_small.dcm")
    [(_, event)] = listener.publisher.events
    assert (event.revision, event.instance_count) == (1, 1)


def test_orthanc_is_told_of_a_refusal(orthanc: Orthanc, start_listener: Callable[..., Running]) -> None:
    listener = start_listener(max_object_bytes=1000)
    assert orthanc.store(orthanc.knows(listener), orthanc.upload(sample_file("CT_small.dcm"))) is None
    assert listener.publisher.events == []


def test_orthanc_is_let_in_by_its_title(orthanc: Orthanc, start_listener: Callable[..., Running]) -> None:
    listener = start_listener(access={"calling_ae_titles": ("ORTHANC",)})
    assert orthanc.echo(orthanc.knows(listener))
    assert not orthanc.echo(orthanc.knows(listener, calling="STRANGER"))


@pytest.mark.parametrize("client_certificates", ["none", "optional", "required"])
def test_orthanc_stores_over_tls(
    orthanc: Orthanc,
    start_listener: Callable[..., Running],
    tls: dict[str, object],
    folder: Path,
    client_certificates: str,
) -> None:
    asked = {} if client_certificates == "none" else {"ca_file": folder / "ca.pem"}
    listener = start_listener(tls=tls | {"client_certificates": client_certificates, **asked})
    modality = orthanc.knows(listener, tls=True)
    assert orthanc.echo(modality)
    assert orthanc.store(modality, orthanc.upload(sample_file("JPEG2000.dcm"))) is not None
    assert_kept(listener, "JPEG2000.dcm")


def test_orthanc_is_turned_away_by_a_listener_that_does_not_know_its_authority(
    orthanc: Orthanc, start_listener: Callable[..., Running], tls: dict[str, object], tmp_path: Path
) -> None:
    elsewhere = Authority("Elsewhere").write(tmp_path, "elsewhere")
    listener = start_listener(tls=tls | {"client_certificates": "required", "ca_file": elsewhere})
    assert not orthanc.echo(orthanc.knows(listener, tls=True))


def test_orthanc_without_tls_is_turned_away_where_it_is_asked_for(
    orthanc: Orthanc, start_listener: Callable[..., Running], tls: dict[str, object]
) -> None:
    assert not orthanc.echo(orthanc.knows(start_listener(tls=tls)))
