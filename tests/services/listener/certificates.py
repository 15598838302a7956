"""Certificates made for a test, and files of them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def write(self, folder: Path, name: str, *, password: str | None = None) -> tuple[Path, Path]:
        """Write `name`.pem and `name`.key; their paths."""
        cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
        replace(cert_file, self.certificate.public_bytes(Encoding.PEM))
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        replace(key_file, self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return cert_file, key_file


def replace(path: Path, content: bytes) -> None:
    """Replace a file as careful tools do: by a rename."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.rename(path)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """A root that issues certificates."""

    def __init__(self, name: str = "Test Authority") -> None:
        self.key = ec_key()
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(
            _builder(self._name, self._name, self.key, days=(-1, 100)).add_extension(
                x509.BasicConstraints(ca=True, path_length=None), critical=True
            )
        )

    def issue(self, name: str = "localhost", *, key: Key | None = None, days: tuple[float, float] = (-1, 30)) -> Issued:
        """A certificate for 127.0.0.1 that is valid between two moments, in days from now."""
        key = key or ec_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self._name, key, days=days).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        return Issued(self._sign(builder), key)

    def write(self, folder: Path, name: str = "ca") -> Path:
        path = folder / f"{name}.pem"
        replace(path, self.certificate.public_bytes(Encoding.PEM))
        return path

    def write_revoked(self, folder: Path, *revoked: Issued, name: str = "crl", days: float = 7) -> Path:
        """The authority's revocation list."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._name, last_update=now - timedelta(days=10), next_update=now + timedelta(days=days)
        )
        for one in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(one.certificate.serial_number, now - timedelta(days=1)).build()
            )
        path = folder / f"{name}.pem"
        replace(path, builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, *, days: tuple[float, float]) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
