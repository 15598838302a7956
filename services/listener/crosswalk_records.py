"""The lines of a crosswalk file: each pseudonym beside its encrypted identity.

    similis-crosswalk 1 SALT CHECK
    PSEUDONYM BOX
    ...

SALT, CHECK and BOX are base64. A box is a random 96-bit nonce and what AES-256-GCM makes of the
identity, with magic and pseudonym as associated data: it opens only beside its own pseudonym. The key
is HKDF-SHA-256 of the secret key and this file's salt; CHECK is a box of nothing and tells a wrong
key at once. Identities are padded, so that a line's length says next to nothing of them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC: Final = b"similis-crosswalk 1"
MAX_HEADER_BYTES: Final = 256
_INFO: Final = b"similis listener: crosswalk, AES-256-GCM"
_NONCE_BYTES: Final = 12  # NIST SP 800-38D section 8.2.2; good for 2^32 records of one file
_SALT_BYTES: Final = 16
_BLOCK_BYTES: Final = 64
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Whose pseudonym it is: of a patient, or, without a Patient ID, of a study.

    It has no representation that a log could show.
    """

    issuer: str
    patient_id: str
    study_instance_uid: str


class DamagedRecordError(Exception):
    """A line is not what was written, or was written with another key."""


def is_pseudonym(text: str) -> bool:
    """Whether `text` has the form of a pseudonym."""
    return _PSEUDONYM.fullmatch(text) is not None


class RecordCipher:
    """Seals and opens the lines of one file."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._salt = salt
        self._aead = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=_INFO).derive(key))

    @classmethod
    def for_new_file(cls, key: bytes) -> RecordCipher:
        """A cipher with a salt that no other file has."""
        return cls(key, secrets.token_bytes(_SALT_BYTES))

    @classmethod
    def for_file(cls, key: bytes, header: bytes) -> RecordCipher:
        """The cipher of the file that begins with the line `header`.

        Raises:
            DamagedRecordError: it is no header, is damaged, or belongs to another key.
        """
        match header.removesuffix(b"\n").split(b" "):
            case [*magic, salt, check] if b" ".join(magic) == MAGIC:
                cipher = cls(key, _decode(salt))
                cipher._open(_decode(check), b"")
                return cipher
            case _:
                raise DamagedRecordError

    def header(self) -> bytes:
        """The first line of this cipher's file."""
        salt = base64.b64encode(self._salt)
        return b" ".join((MAGIC, salt, base64.b64encode(self._seal(b"", b"")))) + b"\n"

    def seal(self, pseudonym: str, identity: Identity) -> bytes:
        """The line that keeps `identity`."""
        who = pseudonym.encode("ascii")
        plain = json.dumps([identity.issuer, identity.patient_id, identity.study_instance_uid]).encode("ascii")
        plain += b" " * (-len(plain) % _BLOCK_BYTES)
        return who + b" " + base64.b64encode(self._seal(plain, who)) + b"\n"

    def open(self, line: bytes) -> tuple[str, Identity]:
        """The pseudonym and identity of a whole line.

        Raises:
            DamagedRecordError: not a bit of it may differ from what was written.
        """
        who, _, box = line.removesuffix(b"\n").partition(b" ")
        issuer, patient_id, study = json.loads(self._open(_decode(box), who))
        return who.decode("ascii"), Identity(issuer, patient_id, study)

    def _seal(self, plain: bytes, who: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, MAGIC + who)

    def _open(self, box: bytes, who: bytes) -> bytes:
        try:
            return self._aead.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], MAGIC + who)
        except (InvalidTag, ValueError) as error:  # ValueError: a nonce that is too short
            raise DamagedRecordError from error


def pseudonym_of(line: bytes) -> str:
    """The pseudonym that a line claims to be of, damaged or not."""
    return line.partition(b" ")[0].decode("latin-1")


def opened(lines: Iterable[bytes], cipher: RecordCipher) -> Iterator[tuple[bytes, Identity | None]]:
    """Each whole line and its identity, None if it is damaged; what has no line end yet is left out."""
    for line in lines:
        if line.endswith(b"\n"):
            try:
                yield line, cipher.open(line)[1]
            except DamagedRecordError:
                yield line, None


def _decode(text: bytes) -> bytes:
    """Base64 of which every bit counts: the unused last ones must be 0."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DamagedRecordError from error
    if base64.b64encode(raw) != text:
        raise DamagedRecordError
    return raw
