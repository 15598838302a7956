"""DICOM over TLS (PS3.15 section B.12) from DCMTK and pynetdicom, with and without certificates of their own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pynetdicom import AE

from tests.conformance.peers import assert_kept, dcmtk, sample, sample_file
from tests.services.listener.certificates import Authority, Issued
from tests.services.listener.listener_harness import Running

StartListener = Callable[..., Running]


@dataclass(frozen=True)
class Secured:
    """A listener that speaks TLS, and the files of its senders."""

    listener: Running
    ca: Path
    cert: Path
    key: Path
    other_cert: Path
    other_key: Path

    @property
    def own(self) -> list[str]:
        """DCMTK's options to show a certificate of the authority."""
        return ["+tls", str(self.key), str(self.cert), "+cf", str(self.ca)]

    @property
    def strange(self) -> list[str]:
        """To show one that the listener cannot know."""
        return ["+tls", str(self.other_key), str(self.other_cert), "+cf", str(self.ca)]

    @property
    def plain(self) -> list[str]:
        return []

    @property
    def anonymous(self) -> list[str]:
        return ["+tla", "+cf", str(self.ca)]


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Issued:
    return authority.issue(key=rsa.generate_private_key(65537, 2048))


@pytest.fixture
def secured(
    start_listener: StartListener, authority: Authority, certificate: Issued, tmp_path: Path
) -> Callable[..., Secured]:
    """A listener whose senders' certificates are none, optional or required."""

    def start(client_certificates: str = "none") -> Secured:
        cert_file, key_file = certificate.write(tmp_path, "listener")
        ca_file = authority.write(tmp_path)
        tls = {"mode": "on", "cert_file": cert_file, "key_file": key_file, "client_certificates": client_certificates}
        if client_certificates != "none":
            tls["ca_file"] = ca_file
        return Secured(
            start_listener(tls=tls),
            ca_file,
            *authority.issue("sender").write(tmp_path, "sender"),
            *Authority("Another").issue("stranger").write(tmp_path, "stranger"),
        )

    return start


@pytest.mark.peers
@pytest.mark.parametrize("name", ["echoscu", "storescu"])
@pytest.mark.parametrize(
    ("client_certificates", "own"),
    [("none", False), ("none", True), ("optional", False), ("optional", True), ("required", True)],
)
def test_dcmtk_is_served_over_tls(
    secured: Callable[..., Secured], name: str, client_certificates: str, own: bool
) -> None:
    at = secured(client_certificates)
    files = [sample_file("CT_small.dcm")] if name == "storescu" else []
    dcmtk(name, at.listener, *(at.own if own else at.anonymous), *files)
    if files:
        assert_kept(at.listener, "CT_small.dcm")


@pytest.mark.peers
@pytest.mark.parametrize(
    ("client_certificates", "options"),
    [("required", "anonymous"), ("required", "strange"), ("optional", "strange"), ("none", "plain")],
)
def test_dcmtk_without_what_is_asked_for_is_turned_away(
    secured: Callable[..., Secured], client_certificates: str, options: str
) -> None:
    at = secured(client_certificates)
    dcmtk("storescu", at.listener, *getattr(at, options), sample_file("CT_small.dcm"), ok=False)
    assert at.listener.publisher.events == []
    dcmtk("storescu", at.listener, *at.own, sample_file("CT_small.dcm"))
    assert_kept(at.listener, "CT_small.dcm")


@pytest.mark.peers
def test_dcmtk_does_not_send_to_a_listener_that_it_does_not_trust(
    secured: Callable[..., Secured], tmp_path: Path
) -> None:
    at = secured()
    elsewhere = Authority("Elsewhere").write(tmp_path, "elsewhere")
    dcmtk("storescu", at.listener, "+tla", "+cf", str(elsewhere), sample_file("CT_small.dcm"), ok=False)


@pytest.mark.peers
def test_dcmtk_sends_a_large_object_over_tls(secured: Callable[..., Secured]) -> None:
    at = secured("required")
    dcmtk("storescu", at.listener, *at.own, "-xv", sample_file("examples_overlay.dcm"))
    assert_kept(at.listener, "examples_overlay.dcm")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("client_certificates", ["none", "required"])
def test_pynetdicom_is_served_over_tls(
    secured: Callable[..., Secured], version: ssl.TLSVersion, client_certificates: str
) -> None:
    at = secured(client_certificates)
    context = ssl.create_default_context(cafile=at.ca)
    context.minimum_version = context.maximum_version = version
    if client_certificates == "required":
        context.load_cert_chain(at.cert, at.key)
    ae = AE("TESTSCU")
    ds = sample("CT_small.dcm")
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate(at.listener.host, at.listener.port, ae_title="SIMILIS", tls_args=(context, at.listener.host))
    assert assoc.is_established
    assert assoc.send_c_store(ds).Status == 0x0000
    assoc.release()
    assert_kept(at.listener, "CT_small.dcm")
