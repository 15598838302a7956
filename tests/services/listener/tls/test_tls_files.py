"""The files of DICOM TLS: settings, certificates that are no good, and those that change."""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from certificates import Authority, Issued, replace
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tls_harness import Files, Serve, echo, served_fingerprint

from services.listener import tls
from services.listener.tls import TlsSection
from shared.errors import ConfigurationError

# Settings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key_file": None}, "key_file"),
        ({"cert_file": None}, "cert_file"),
        ({"client_certificates": "required"}, "ca_file"),
        ({"ca_file": "ca.pem"}, "would do nothing"),
        ({"client_certificates": "optional", "ca_file": "ca.pem", "allowed_fingerprints": ("ab" * 32,)}, "required"),
        ({"client_certificates": "required", "ca_file": "ca.pem", "allowed_fingerprints": ("ab",)}, "fingerprint"),
        ({"client_certificates": "required", "ca_file": "ca.pem", "allowed_fingerprints": ("xy" * 32,)}, "fingerprint"),
        ({"cert_file": "missing.pem"}, "missing.pem"),
        ({"client_certificates": "required", "ca_file": "server.key"}, "server.key"),
        ({"client_certificates": "required", "ca_file": "ca.pem", "crl_file": "ca.pem"}, "revocation list"),
        ({"cert_file": "server.key"}, "no PEM certificate"),
    ],
)
def test_settings_that_cannot_work_are_named(files: Files, options: dict[str, object], says: str) -> None:
    in_folder = {
        name: files.folder / value if name.endswith("_file") and isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        files.contexts(**in_folder)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: rsa.generate_private_key(65537, 1024), id="RSA 1024"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP224R1()), id="P-224"),
    ],
)
def test_a_weak_key_is_refused_at_start(
    tmp_path: Path, authority: Authority, key: Callable[[], rsa.RSAPrivateKey]
) -> None:
    files = Files(tmp_path, authority, authority.issue(key=key()))
    with pytest.raises(ConfigurationError, match="weak"):
        files.contexts()


@pytest.mark.parametrize("days", [(-9.0, -1.0), (1.0, 9.0)])
def test_a_certificate_that_is_not_valid_now_is_refused_at_start(
    tmp_path: Path, authority: Authority, days: tuple[float, float]
) -> None:
    files = Files(tmp_path, authority, authority.issue(days=days))
    with pytest.raises(ConfigurationError, match="not now"):
        files.contexts()


def test_an_encrypted_key_needs_its_password_and_never_asks_for_it(files: Files, serve: Serve) -> None:
    files.authority.issue().write(files.folder, "server", password="correct horse")
    with pytest.raises(ConfigurationError, match="password"):
        files.contexts()
    with pytest.raises(ConfigurationError, match="password") as raised:
        files.contexts(key_password="wrong secret")
    assert "wrong secret" not in str(raised.value)
    with serve(files.contexts(key_password="correct horse")).connect(files.client()) as client:
        echo(client)


def test_facts_of_the_certificate_are_those_of_the_file(files: Files, server_certificate: Issued) -> None:
    facts = files.contexts().facts
    assert facts.fingerprint == server_certificate.fingerprint
    assert facts.not_after == server_certificate.certificate.not_valid_after_utc
    assert facts.not_after > datetime.now(UTC)


# Reload


def test_changed_files_are_taken_without_a_restart_and_open_connections_stay(files: Files, serve: Serve) -> None:
    server = serve(files.contexts())
    newer = files.authority.issue()
    with server.connect(files.client()) as before:
        echo(before)
        newer.write(files.folder, "server")
        with server.connect(files.client()) as meanwhile:
            assert served_fingerprint(meanwhile) != newer.fingerprint, "not looked at yet"
        files.clock.now_s += 31
        with server.connect(files.client()) as after:
            assert served_fingerprint(after) == newer.fingerprint
            echo(after)
        echo(before)
    assert files.reloads == [True]


def test_certificate_and_key_that_come_one_after_the_other_switch_together(files: Files, serve: Serve) -> None:
    contexts = files.contexts()
    server = serve(contexts)
    old_key = files.key.read_bytes()
    newer = files.authority.issue()
    newer.write(files.folder, "server")
    new_key = files.key.read_bytes()
    replace(files.key, old_key)
    files.clock.now_s += 31
    with server.connect(files.client()) as client:
        assert served_fingerprint(client) != newer.fingerprint
        echo(client)
    assert files.reloads == [False]
    replace(files.key, new_key)
    files.clock.now_s += 31
    with server.connect(files.client()) as client:
        assert served_fingerprint(client) == newer.fingerprint
        echo(client)
    assert files.reloads == [False, True]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda files: replace(files.cert, b"nonsense"),
        lambda files: replace(files.cert, b""),
        lambda files: files.cert.unlink(),
        lambda files: replace(files.key, b"nonsense"),
        lambda files: files.key.unlink(),
        lambda files: replace(files.ca, b"nonsense"),
        lambda files: files.authority.issue(days=(-9, -1)).write(files.folder, "server"),
        lambda files: files.authority.issue(key=rsa.generate_private_key(65537, 1024)).write(files.folder, "server"),
        lambda files: files.authority.issue().write(files.folder, "server", password="unknown"),
    ],
)
def test_broken_files_leave_the_context_and_are_logged_once(
    files: Files, serve: Serve, caplog: pytest.LogCaptureFixture, spoil: Callable[[Files], object]
) -> None:
    client_context = files.client()
    contexts = files.contexts(client_certificates="optional", ca_file=files.ca)
    server = serve(contexts)
    good = {path: path.read_bytes() for path in (files.cert, files.key, files.ca)}
    spoil(files)
    for _ in range(3):
        files.clock.now_s += 31
        with server.connect(client_context) as client:
            echo(client)
    assert files.reloads == [False, False, False]
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    for path, content in good.items():
        replace(path, content)
    files.clock.now_s += 31
    with server.connect(client_context) as client:
        echo(client)
    assert files.reloads[-1] is True


def test_files_are_looked_at_no_more_often_than_asked_for(files: Files) -> None:
    contexts = files.contexts(reload_s=30)
    first = contexts.current()
    files.authority.issue().write(files.folder, "server")
    files.clock.now_s += 29
    assert contexts.current() is first
    files.clock.now_s += 2
    assert contexts.current() is not first


def test_files_that_change_while_they_are_read_wait_for_the_next_look(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = files.contexts()
    before, first = contexts.current(), contexts.facts
    newer, newest = files.authority.issue(), files.authority.issue()
    newer.write(files.folder, "server")
    build = tls._context

    def build_meanwhile(section: TlsSection) -> ssl.SSLContext:
        newest.write(files.folder, "server")
        monkeypatch.undo()
        return build(section)

    monkeypatch.setattr(tls, "_context", build_meanwhile)
    files.clock.now_s += 31
    assert (contexts.current(), contexts.facts) == (before, first)
    files.clock.now_s += 31
    assert contexts.current() is not before
    assert contexts.facts.fingerprint == newest.fingerprint


def test_the_context_forbids_what_openssl_may_allow(files: Files) -> None:
    for option in (ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_NO_TICKET, ssl.OP_CIPHER_SERVER_PREFERENCE):
        assert files.contexts().current().options & option


def test_a_link_that_points_elsewhere_is_a_change(files: Files, serve: Serve) -> None:
    """As Kubernetes mounts a secret: the files are links through a link that is switched."""
    newer = files.authority.issue()
    for name, issued in (("one", files.authority.issue()), ("two", newer)):
        (files.folder / name).mkdir()
        issued.write(files.folder / name, "server")
    data = files.folder / "..data"
    data.symlink_to("one")
    contexts = files.contexts(cert_file=data / "server.pem", key_file=data / "server.key")
    server = serve(contexts)
    switched = files.folder / "..data.new"
    switched.symlink_to("two")
    switched.rename(data)
    files.clock.now_s += 31
    with server.connect(files.client()) as client:
        assert served_fingerprint(client) == newer.fingerprint


def test_reloading_under_load_never_serves_a_mismatch(files: Files, serve: Serve) -> None:
    contexts = files.contexts(reload_s=0.001)
    server = serve(contexts)
    candidates = [files.authority.issue() for _ in range(2)]
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for candidate in candidates:
                candidate.write(files.folder, "server")
                time.sleep(0.003)

    def tick() -> None:
        while not stop.is_set():
            files.clock.now_s += 1
            time.sleep(0.001)

    threads = [threading.Thread(target=work) for work in (rewrite, tick)]
    for thread in threads:
        thread.start()
    try:
        client_context = files.client()
        deadline_s = time.monotonic() + 30
        while files.reloads.count(True) < 20 and time.monotonic() < deadline_s:
            with server.connect(client_context) as client:
                echo(client)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert server.refused == []
    assert files.reloads.count(True) >= 20


def test_time_left_of_the_certificate_is_known(files: Files, tmp_path: Path, authority: Authority) -> None:
    contexts = files.contexts()
    assert contexts.seconds_until_expiry() == pytest.approx(30 * 86400, abs=600)
    authority.issue(days=(-1, 2)).write(files.folder, "server")
    files.clock.now_s += 31
    # A look at the metric is enough: nobody need connect.
    assert contexts.seconds_until_expiry() == pytest.approx(2 * 86400, abs=60)


def test_the_log_names_the_certificate_and_nobody(
    files: Files, caplog: pytest.LogCaptureFixture, server_certificate: Issued
) -> None:
    with caplog.at_level(logging.INFO):
        files.contexts()
    assert server_certificate.fingerprint in caplog.text
    assert server_certificate.certificate.not_valid_after_utc.isoformat() in caplog.text
    assert "localhost" not in caplog.text
    assert "Test Authority" not in caplog.text
