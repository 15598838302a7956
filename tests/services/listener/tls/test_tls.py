"""DICOM TLS over real sockets: what is agreed on with OpenSSL's and DCMTK's clients, and who is let in."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Authority, Issued
from cryptography.hazmat.primitives.asymmetric import rsa
from tls_harness import WAIT_S, Files, Serve, echo, tool

from services.listener.tls_socket import HandshakeError, accept_tls
from shared.errors import SimilisError

# What is negotiated: PS3.15 B.12


@pytest.mark.peers
@pytest.mark.parametrize(
    ("options", "version", "suite"),
    [
        ((), "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        (("-tls1_3",), "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        (("-tls1_2",), "TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), "TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256"),
        # The server's order counts, not the client's.
        (
            ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"),
            "TLSv1.2",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ),
    ],
)
def test_the_best_version_and_suite_are_agreed_on(
    files: Files, serve: Serve, options: tuple[str, ...], version: str, suite: str
) -> None:
    server = serve(files.contexts())
    shown = server.s_client("-CAfile", str(files.ca), "-verify_return_error", *options)
    assert shown.returncode == 0, shown.stderr
    assert "Verify return code: 0 (ok)" in shown.stdout
    assert f"Cipher is {suite}" in shown.stdout
    assert "Compression: NONE" in shown.stdout
    assert "No ALPN negotiated" in shown.stdout
    connection = server.connection()
    assert (connection.version, connection.cipher_suite) == (version, suite)
    assert connection.peer_fingerprint is None


@pytest.mark.peers
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), "protocol-version"),
        (("-tls1", "-cipher", "DEFAULT@SECLEVEL=0"), "protocol-version"),
        (("-tls1_2", "-cipher", "AES128-SHA"), "cipher-suite"),
        (("-tls1_2", "-cipher", "AES256-GCM-SHA384"), "cipher-suite"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"), "cipher-suite"),
        (("-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"), "cipher-suite"),
        (("-tls1_2", "-cipher", "aNULL@SECLEVEL=0"), "cipher-suite"),
        (("-tls1_2", "-curves", "secp224r1", "-cipher", "DEFAULT@SECLEVEL=0"), "cipher-suite"),
    ],
)
def test_what_is_too_weak_is_refused(files: Files, serve: Serve, options: tuple[str, ...], reason: str) -> None:
    server = serve(files.contexts())
    shown = server.s_client(*options)
    assert shown.returncode != 0, shown.stdout
    assert server.refusal() == reason


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_ticket_is_given(files: Files, serve: Serve, version: ssl.TLSVersion) -> None:
    client_context = files.client(minimum_version=version, maximum_version=version)
    with serve(files.contexts()).connect(client_context) as client:
        echo(client)  # TLS 1.3 gives its tickets after the handshake
        assert client.session is None or not client.session.has_ticket


@pytest.mark.peers
def test_renegotiation_is_refused(files: Files, serve: Serve) -> None:
    """RFC 9325 section 3.5: R on s_client's input asks for it; the listener does not go along."""
    server = serve(files.contexts())
    client = subprocess.Popen(
        [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with client:
        server.connection()
        assert client.stdin is not None
        client.stdin.write("R\n")
        client.stdin.flush()
        time.sleep(0.3)
        output, _ = client.communicate("", timeout=30)
    assert "RENEGOTIATING" in output
    assert re.search("no renegotiation|unexpected", output), output


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_elliptic_certificate_serves_too(
    tmp_path: Path, authority: Authority, serve: Serve, version: ssl.TLSVersion
) -> None:
    files = Files(tmp_path, authority, authority.issue())
    server = serve(files.contexts())
    with server.connect(files.client(minimum_version=version, maximum_version=version)) as client:
        echo(client)
    assert server.connection().version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("profile", "suite"),
    [
        ("--profile-bcp195-nd", "ECDHE-RSA-AES256-GCM-SHA384|TLS_AES_256_GCM_SHA384"),
        ("--profile-bcp195", "ECDHE-RSA-AES256-GCM-SHA384|TLS_AES_256_GCM_SHA384"),
        ("--profile-bcp195-ex", "ECDHE-RSA-AES256-GCM-SHA384"),
    ],
)
def test_dcmtk_is_let_in_by_each_of_its_current_profiles(files: Files, serve: Serve, profile: str, suite: str) -> None:
    contexts = files.contexts(client_certificates="required", ca_file=files.ca)
    server = serve(contexts)
    sender = files.authority.issue("CT1", key=rsa.generate_private_key(65537, 2048))
    cert, key = sender.write(files.folder, "client")
    # What it sends comes back, which is no answer; the handshake is what counts here.
    subprocess.run(
        [
            tool("echoscu"),
            *("+tls", str(key), str(cert), "+cf", str(files.ca), profile, "-ta", "5", "127.0.0.1", str(server.port)),
        ],
        capture_output=True,
        timeout=30,
        check=False,
    )
    connection = server.connection()
    assert re.fullmatch(suite, connection.cipher_suite)
    assert connection.peer_fingerprint == sender.fingerprint


@pytest.mark.peers
def test_dcmtk_is_refused_by_the_retired_profile(files: Files, serve: Serve) -> None:
    server = serve(files.contexts())
    subprocess.run(
        [tool("echoscu"), "+tla", "-ic", "--profile-aes", "127.0.0.1", str(server.port)],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert server.refusal() in ("cipher-suite", "protocol-version")


# Who is let in


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mutual_tls_lets_in_a_certificate_of_the_authority(files: Files, serve: Serve, version: ssl.TLSVersion) -> None:
    server = serve(files.contexts(client_certificates="required", ca_file=files.ca))
    sender = files.authority.issue("CT1")
    with server.connect(files.client(sender, maximum_version=version)) as client:
        echo(client)
    assert server.connection().peer_fingerprint == sender.fingerprint


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "no-certificate"),
        (lambda _: Authority("Somebody Else").issue("CT1"), "unknown-authority"),
        (lambda authority: authority.issue("CT1", days=(-20, -1)), "certificate-expired"),
        (lambda authority: authority.issue("CT1", days=(1, 20)), "certificate-expired"),
        (lambda authority: authority.issue("CT1", key=rsa.generate_private_key(65537, 1024)), "certificate-weak"),
    ],
)
def test_mutual_tls_refuses_every_other(
    files: Files,
    serve: Serve,
    version: ssl.TLSVersion,
    make: Callable[[Authority], Issued | None],
    reason: str,
) -> None:
    server = serve(files.contexts(client_certificates="required", ca_file=files.ca))
    context = ssl.create_default_context(cafile=files.ca)
    context.maximum_version = version
    if (sender := make(files.authority)) is not None:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # for the client to show the weak one
        context.load_cert_chain(*sender.write(files.folder, "client"))
    # With TLS 1.3 the client learns of it only when it reads.
    with pytest.raises(OSError), server.connect(context) as client:  # noqa: PT012
        client.sendall(b"A-ASSOCIATE-RQ")
        if not client.recv(1):
            raise ConnectionError("closed")
    assert server.refusal() == reason
    assert not server.accepted


def test_an_optional_certificate_may_be_left_out_but_not_be_wrong(files: Files, serve: Serve) -> None:
    server = serve(files.contexts(client_certificates="optional", ca_file=files.ca))
    with server.connect(files.client()) as client:
        echo(client)
    assert server.connection().peer_fingerprint is None
    sender = files.authority.issue("CT1")
    with server.connect(files.client(sender)) as client:
        echo(client)
    assert server.connection().peer_fingerprint == sender.fingerprint
    stranger = files.client(Authority("Somebody Else").issue("CT1"), maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(OSError):
        server.connect(stranger)
    assert server.refusal() == "unknown-authority"


def test_only_listed_fingerprints_are_let_in(files: Files, serve: Serve) -> None:
    known, other = files.authority.issue("CT1"), files.authority.issue("CT2")
    with_colons = ":".join(re.findall("..", known.fingerprint.upper()))
    server = serve(
        files.contexts(client_certificates="required", ca_file=files.ca, allowed_fingerprints=(with_colons,))
    )
    with server.connect(files.client(known)) as client:
        echo(client)
    server.connection()
    with server.connect(files.client(other)) as client, contextlib.suppress(OSError):
        assert client.recv(1) == b""
    assert server.refusal() == "fingerprint"


def test_a_revoked_certificate_is_refused_once_the_list_says_so(files: Files, serve: Serve) -> None:
    sender = files.authority.issue("CT1")
    crl_file = files.authority.write_revoked(files.folder)
    server = serve(files.contexts(client_certificates="required", ca_file=files.ca, crl_file=crl_file))
    client_context = files.client(sender, maximum_version=ssl.TLSVersion.TLSv1_2)
    with server.connect(client_context) as client:
        echo(client)
        session = client.session
    server.connection()
    files.authority.write_revoked(files.folder, sender)
    files.clock.now_s += 31
    connected = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)
    # Not even with the session of before, which showed the certificate when it was good.
    with connected, pytest.raises(OSError):
        client_context.wrap_socket(connected, server_hostname="127.0.0.1", session=session)
    assert server.refusal() == "certificate-revoked"


def test_a_revocation_list_that_is_out_of_date_refuses_all(files: Files, serve: Serve) -> None:
    crl_file = files.authority.write_revoked(files.folder, days=-1)
    server = serve(files.contexts(client_certificates="required", ca_file=files.ca, crl_file=crl_file))
    with pytest.raises(OSError):
        server.connect(files.client(files.authority.issue("CT1"), maximum_version=ssl.TLSVersion.TLSv1_2))
    assert server.refusal() == "revocation-list"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x01\x00\x00\x00\x00\xcd" + bytes(205), "not-tls"),  # an A-ASSOCIATE-RQ in the clear
        (b"GET / HTTP/1.1\r\n\r\n", "not-tls"),
        (b"", "closed"),
        (b"\x16\x03\x01\x02\x00\x01", "closed"),
    ],
)
def test_what_is_no_handshake_is_refused(files: Files, serve: Serve, sent: bytes, reason: str) -> None:
    server = serve(files.contexts())
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as client:
        client.sendall(sent)
        with contextlib.suppress(OSError):  # the listener may have reset the connection by now
            client.shutdown(socket.SHUT_WR)
            while client.recv(100):
                pass
    assert server.refusal() == reason


def test_a_sender_that_does_not_trust_the_listener_shows(files: Files, serve: Serve) -> None:
    server = serve(files.contexts())
    distrustful = ssl.create_default_context(cafile=Authority("Somebody Else").write(files.folder, "other"))
    with pytest.raises(ssl.SSLCertVerificationError):
        server.connect(distrustful)
    assert server.refusal() == "refused-by-peer"


@pytest.mark.parametrize("pause_s", [10.0, 0.05])
def test_a_handshake_has_its_time_as_a_whole(files: Files, serve: Serve, pause_s: float) -> None:
    """Also against a sender that gives a byte now and then."""
    server = serve(files.contexts(handshake_timeout_s=0.4))
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400)
    started_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as client, contextlib.suppress(OSError):
        for byte in hello:
            client.sendall(bytes((byte,)))
            if server.served.acquire(timeout=pause_s):
                break
    assert server.refused == ["handshake-timeout"]
    assert 0.3 < time.monotonic() - started_s < 3


def test_a_refused_connection_is_closed(files: Files) -> None:
    near, far = socket.socketpair()
    with near:
        near.sendall(b"no TLS at all")
        with pytest.raises(HandshakeError) as raised:
            accept_tls(far, files.contexts())
        near.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionResetError):
            while near.recv(100):
                pass
    assert far.fileno() == -1
    assert isinstance(raised.value, SimilisError)
    assert isinstance(raised.value, OSError)
