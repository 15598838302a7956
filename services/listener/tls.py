"""DICOM TLS by the BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile: PS3.15 section B.12.

TLS 1.2 at least, 1.3 preferred (RFC 8996; PS3.15 B.12), AEAD suites with ECDHE alone (RFC 9325
sections 4.1 and 4.2), no compression and no renegotiation (3.3, 3.5). The suites are also among
those of the profiles before it, B.10 and B.11, that are retired. DHE is left out: RFC 9325 says not
to, and its key length could not be set here, which B.13 asks for where DHE is used.

Sessions are not resumed by tickets: associations are few and long, and a ticket would let in a
certificate that has been revoked since. DICOM registers no ALPN name, so none is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field, PositiveFloat, SecretStr

from services.listener.tls_socket import TlsSocket
from shared.errors import ConfigurationError
from shared.settings import Section

log = logging.getLogger(__name__)

# RFC 9325 section 4.2, strongest first; level 2 refuses keys under 112 bits of security and SHA-1
# signatures in any certificate of either side, also where the system's default is lower.
_CIPHERS: Final = (
    "@SECLEVEL=2:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
)
_OPTIONS: Final = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
_MIN_RSA_BITS: Final = 2048  # RFC 9325 section 4.5
_MIN_CURVE_BITS: Final = 256
_KINDS: Final = {"x509": "certificate", "crl": "revocation list"}
_VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

Stamp = tuple[tuple[int, int, int, int], ...]


class TlsSection(Section):
    """DICOM over TLS (PS3.15 B.12)."""

    mode: Literal["off", "on"] = Field("off", description="on: every connection must speak TLS 1.2 or 1.3.")
    cert_file: Path | None = Field(
        None, description="PEM file: the listener's certificate, then the authorities between it and the root."
    )
    key_file: Path | None = Field(None, description="PEM file of that certificate's key.")
    key_password: SecretStr | None = Field(None, description="The key's password, if it is encrypted.")
    client_certificates: Literal["none", "optional", "required"] = Field(
        "none", description="Whether senders must show a certificate (required: mutual TLS)."
    )
    ca_file: Path | None = Field(None, description="PEM file of the authorities that senders' certificates come from.")
    crl_file: Path | None = Field(
        None, description="PEM file of those authorities' revocation lists; one that is out of date refuses all."
    )
    allowed_fingerprints: tuple[str, ...] = Field(
        (), description="SHA-256 fingerprints of the senders' certificates that are let in. Unset: all that verify."
    )
    handshake_timeout_s: PositiveFloat = Field(10.0, description="Longest time for a TLS handshake as a whole.")
    reload_s: PositiveFloat = Field(30.0, description="How often the files are looked at; changed ones are taken.")


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What may be said of a certificate in logs: nobody's name."""

    fingerprint: str
    """SHA-256 of its DER form, as 64 hexadecimal digits."""
    not_after: datetime


class TlsContexts:
    """The context for new connections, made anew when the files change; open ones keep theirs.

    While changed files cannot be used, such as a certificate whose key has not followed yet, the
    context stays as it is. `on_reload` is told of each try: whether it succeeded. Safe from any thread.

    Raises:
        ConfigurationError: from the constructor, the settings or the files cannot be used.
    """

    def __init__(
        self,
        section: TlsSection,
        *,
        on_reload: Callable[[bool], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._section = section
        self._on_reload = on_reload
        self._monotonic = monotonic
        self._files = _files(section)
        self.allowed_fingerprints = _fingerprints(section)
        self.handshake_timeout_s = section.handshake_timeout_s
        self._looking = threading.Lock()
        self._refused: Stamp | None = None
        self._stamp, self._context, self._facts = self._load()
        self._looked_s = monotonic()
        _log_certificate(self._facts)

    def current(self) -> ssl.SSLContext:
        """The context to use; looks at the files if that is due. Never raises."""
        now_s = self._monotonic()
        # Whoever comes while another thread looks takes what there is.
        if now_s - self._looked_s >= self._section.reload_s and self._looking.acquire(blocking=False):
            try:
                self._looked_s = now_s
                self._look()
            finally:
                self._looking.release()
        return self._context

    @property
    def facts(self) -> CertificateFacts:
        """Of the certificate that new connections are served with."""
        return self._facts

    def seconds_until_expiry(self) -> float:
        """How long the listener's certificate is still valid; negative once it is not."""
        self.current()
        return (self._facts.not_after - datetime.now(UTC)).total_seconds()

    def _look(self) -> None:
        stamp: Stamp = ()  # of files that are not there
        try:
            stamp = _stamp(self._files)
            if stamp == self._stamp:
                self._refused = None
                return
            self._stamp, self._context, self._facts = self._load()
        except (OSError, ConfigurationError) as error:
            if stamp != self._refused:
                log.error("the TLS files have changed and cannot be used; the ones before stay: %s", error)  # noqa: TRY400
            self._refused = stamp
            self._on_reload(False)
            return
        self._refused = None
        log.info("the TLS files have changed and are used from now on")
        _log_certificate(self._facts)
        self._on_reload(True)

    def _load(self) -> tuple[Stamp, ssl.SSLContext, CertificateFacts]:
        try:
            stamp = _stamp(self._files)
            for file in self._files:
                file.open("rb").close()  # names the one that may not be read, as OpenSSL does not
            facts = _check_certificate(self._files[0])
            context = _context(self._section)
            if _stamp(self._files) != stamp:
                raise ConfigurationError("the TLS files are being changed")
        except OSError as error:
            raise ConfigurationError(f"the TLS file {error.filename} cannot be read: {error.strerror}") from error
        return stamp, context, facts


def _context(section: TlsSection) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= _OPTIONS
    context.num_tickets = 0
    assert section.cert_file is not None
    password = section.key_password.get_secret_value() if section.key_password is not None else ""
    try:
        # The password is always given: without one OpenSSL would ask for it on the terminal, and wait.
        context.load_cert_chain(section.cert_file, section.key_file, password=lambda: password)
    except ssl.SSLError as error:
        reason = "they do not match" if error.reason == "KEY_VALUES_MISMATCH" else "no PEM, or a wrong password"
        raise ConfigurationError(
            f"the TLS certificate {section.cert_file} and key {section.key_file} cannot be used: {reason}"
        ) from error
    context.verify_mode = _VERIFY[section.client_certificates]
    if section.crl_file is not None:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    for file, kind in ((section.ca_file, "x509"), (section.crl_file, "crl")):
        if file is not None:
            before = context.cert_store_stats()[kind]
            with contextlib.suppress(ssl.SSLError):
                context.load_verify_locations(file)
            if context.cert_store_stats()[kind] == before:
                raise ConfigurationError(f"the TLS file {file} holds no PEM {_KINDS[kind]}")
    return context


def _check_certificate(path: Path) -> CertificateFacts:
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
        key = certificate.public_key()
    except ValueError as error:
        raise ConfigurationError(f"the TLS certificate {path} cannot be read: no PEM certificate") from error
    match key:
        case rsa.RSAPublicKey():
            is_strong = key.key_size >= _MIN_RSA_BITS
        case ec.EllipticCurvePublicKey():
            is_strong = key.curve.key_size >= _MIN_CURVE_BITS
        case _:
            is_strong = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    if not is_strong:
        raise ConfigurationError(
            f"the TLS certificate {path} has too weak a key: RSA of {_MIN_RSA_BITS} bits, or a curve of "
            f"{_MIN_CURVE_BITS}, is the least"
        )
    not_after = certificate.not_valid_after_utc
    if not certificate.not_valid_before_utc <= datetime.now(UTC) < not_after:
        raise ConfigurationError(
            f"the TLS certificate {path} is valid from {certificate.not_valid_before_utc} to {not_after}, not now"
        )
    return CertificateFacts(hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(), not_after)


def _files(section: TlsSection) -> Sequence[Path]:
    if section.cert_file is None or section.key_file is None:
        raise ConfigurationError("TLS needs both cert_file and key_file")
    if section.client_certificates == "none":
        if section.ca_file or section.crl_file or section.allowed_fingerprints:
            raise ConfigurationError(
                "TLS asks senders for no certificate: ca_file, crl_file and allowed_fingerprints would do nothing"
            )
    elif section.ca_file is None:
        raise ConfigurationError("TLS needs ca_file to verify senders' certificates")
    if section.allowed_fingerprints and section.client_certificates != "required":
        raise ConfigurationError("TLS with allowed_fingerprints needs client_certificates=required")
    files = (section.cert_file, section.key_file, section.ca_file, section.crl_file)
    return tuple(file for file in files if file is not None)


def _fingerprints(section: TlsSection) -> frozenset[str]:
    fingerprints = set()
    for text in section.allowed_fingerprints:
        digits = text.replace(":", "").strip().lower()
        try:
            is_sha256 = len(bytes.fromhex(digits)) == hashlib.sha256().digest_size
        except ValueError:
            is_sha256 = False
        if not is_sha256:
            raise ConfigurationError(f"{text!r} is no SHA-256 fingerprint")
        fingerprints.add(digits)
    return frozenset(fingerprints)


def _stamp(files: Sequence[Path]) -> Stamp:
    """What tells one content of the files from the next, links followed."""
    stats = [file.stat() for file in files]
    return tuple((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def _log_certificate(facts: CertificateFacts) -> None:
    log.info("TLS certificate %s, valid until %s", facts.fingerprint, facts.not_after.isoformat())
