"""Pseudonyms: the same patient gets the same one, and nobody without the key finds out whose it is."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from shared.errors import ConfigurationError

MIN_KEY_BYTES: Final = 32
_HEX_DIGITS: Final = 32


class Pseudonyms:
    """Keyed hashes (HMAC-SHA-256) of patients' identities."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, *, issuer: str, patient_id: str, study_instance_uid: str) -> str:
        """The pseudonym, 32 hexadecimal digits, of one patient.

        Without a Patient ID the study stands in: nothing says that two such studies are of one
        patient, and one pseudonym for all of them would join strangers.
        """
        if patient_id:
            return self._hash("patient", issuer, patient_id)
        return self._hash("study", study_instance_uid)

    def _hash(self, *parts: str) -> str:
        # The separator cannot occur in DICOM text, so that no two identities read the same.
        message = "\x1f".join(parts).encode("utf-8", errors="surrogatepass")
        return hmac.digest(self._key, message, "sha256").hex()[:_HEX_DIGITS]


def load_key(path: Path, *, generate: bool) -> bytes:
    """The secret key in the file at `path`; made there, readable by its owner only, if `generate` and missing.

    Raises:
        ConfigurationError: the file is missing, too short or cannot be read or made.
    """
    try:
        if generate and not path.exists():
            _generate(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"the pseudonym key file {path} cannot be used: {error.strerror}") from error
    if len(key) < MIN_KEY_BYTES:
        raise ConfigurationError(f"the pseudonym key file {path} holds fewer than {MIN_KEY_BYTES} bytes")
    return key


def _generate(path: Path) -> None:
    """Write a new key; if another process was faster, its key stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
