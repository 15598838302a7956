"""Pseudonyms and their key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.pseudonym import Pseudonyms, load_key


def of(key: bytes = b"k" * 32, *, issuer: str = "", patient_id: str = "", study: str = "1.2") -> str:
    return Pseudonyms(key).of(issuer=issuer, patient_id=patient_id, study_instance_uid=study)


def test_a_patient_has_one_pseudonym_in_all_studies() -> None:
    assert of(patient_id="A", study="1.2") == of(patient_id="A", study="1.3")
    assert len(of(patient_id="A")) == 32


def test_patients_issuers_and_keys_tell_pseudonyms_apart() -> None:
    found = {
        of(patient_id="A"),
        of(patient_id="B"),
        of(patient_id="A", issuer="X"),
        of(patient_id="XA"),
        of(b"l" * 32, patient_id="A"),
    }
    assert len(found) == 5


def test_without_a_patient_id_each_study_stands_for_itself() -> None:
    assert of(study="1.2") != of(study="1.3")
    assert of(study="1.2", issuer="X") == of(study="1.2")
    assert of(study="1.2") != of(patient_id="1.2")


def test_a_generated_key_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonym.key"
    key = load_key(path, generate=True)
    assert load_key(path, generate=True) == key == load_key(path, generate=False)
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_or_short_key_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        load_key(tmp_path / "none", generate=False)
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(ConfigurationError, match="fewer"):
        load_key(tmp_path / "short", generate=True)
