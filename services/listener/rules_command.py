"""`similis listener test-rules`: what the rules would do with files. Prints nothing of the patient."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from services.listener.rules import DEFAULT, Action, Decision, Facts
from services.listener.rules_file import load_rules
from services.listener.terms import BODY_PARTS, MODALITIES
from shared.addresses import normal_address
from shared.errors import ConfigurationError
from shared.ids import is_valid_uid

_SOP_CLASS_UID: Final = 0x00080016
_MODALITY: Final = 0x00080060
_BODY_PART_EXAMINED: Final = 0x00180015
_SEPARATORS: Final = str.maketrans("", "", " _-")
_UNREADABLE: Final = 1
_EXIT: Final = {Action.ACCEPT: 0, Action.DROP: 3, Action.REFUSE: 4}


@dataclass(frozen=True, slots=True)
class Sender:
    """Where the objects are supposed to come from."""

    calling_ae: str
    called_ae: str
    peer: str


class UnreadableError(Exception):
    """A file is not what a sender would send; the message quotes nothing of it."""


def run(files: Iterable[Path], rules_file: Path, sender: Sender, *, out: TextIO, err: TextIO) -> int:
    """Print what happens to each file and why.

    Returns:
        The exit status: 0 all accepted, 3 one dropped, 4 one refused, 1 one that cannot be read.

    Raises:
        ConfigurationError: the rules or the address are wrong.
    """
    rules = load_rules(rules_file).rules
    if normal_address(sender.peer) is None:
        raise ConfigurationError(f"{sender.peer!r} is no IP address")
    worst, unreadable = 0, False
    for file in files:
        try:
            facts = facts_of(file, sender)
        except UnreadableError as error:
            print(f"{file}: cannot be read: {error}", file=err)
            unreadable = True
            continue
        decision = rules.decide(facts)
        print(f"{file}: {_outcome(decision)} by {_place(decision, rules_file)}\n  {_shown(facts)}", file=out)
        worst = max(worst, _EXIT[decision.action])
    return _UNREADABLE if unreadable else worst


def _outcome(decision: Decision) -> str:
    if decision.action is Action.ACCEPT:
        return "accept"
    return f"{decision.action} with 0x{decision.status:04X}"


def _place(decision: Decision, rules_file: Path) -> str:
    if not decision.line:
        return f"default (none is given in {rules_file})"
    name = DEFAULT if decision.rule == DEFAULT else f"rule {decision.rule!r}"
    return f"{name} at {rules_file}:{decision.line}"


def _shown(facts: Facts) -> str:
    return (
        f"from {facts.calling_ae!r} at {facts.peer} to {facts.called_ae!r}: {_named(facts.sop_class)} "
        f"in {_named(facts.transfer_syntax)}, modality {facts.modality}, body part {facts.body_part or 'none'}"
    )


def _named(uid: str) -> str:
    keyword = UID(uid).keyword
    return f"{keyword} ({uid})" if keyword else uid


def facts_of(file: Path, sender: Sender) -> Facts:
    """What the rules see of an object that is sent from a file as it is.

    Raises:
        UnreadableError: it is no DICOM file, or lacks a usable UID.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote values of data elements
            ds = pydicom.dcmread(
                file, stop_before_pixels=True, specific_tags=[_SOP_CLASS_UID, _MODALITY, _BODY_PART_EXAMINED]
            )
            transfer_syntax = _uid(str(ds.file_meta.get("TransferSyntaxUID", "")), "Transfer Syntax UID")
            modality = _first(ds, _MODALITY)
            body_part = _first(ds, _BODY_PART_EXAMINED).translate(_SEPARATORS)
            return Facts(
                calling_ae=sender.calling_ae,
                called_ae=sender.called_ae,
                peer=sender.peer,
                modality=modality if modality in MODALITIES else "OT",
                sop_class=_uid(_text(ds, _SOP_CLASS_UID), "SOP Class UID"),
                transfer_syntax=transfer_syntax,
                body_part=body_part if body_part in BODY_PARTS else None,
            )
    except UnreadableError:
        raise
    except OSError as error:
        raise UnreadableError(error.strerror or "an error of the disk") from None
    except Exception:  # noqa: BLE001 - a broken file makes pydicom raise whatever it likes, quoting values
        raise UnreadableError("no DICOM file") from None


def _uid(value: str, name: str) -> str:
    if not is_valid_uid(value):
        raise UnreadableError(f"its {name} is missing or no UID")
    return value


def _first(ds: Dataset, tag: int) -> str:
    """The first value of a code string, as `ObjectHeader` takes it."""
    return _text(ds, tag).split("\\")[0].strip().upper()


def _text(ds: Dataset, tag: int) -> str:
    """An element's value as it is encoded, without its padding."""
    if tag not in ds:
        return ""
    value = ds.get_item(tag).value
    raw = value if isinstance(value, bytes) else b""
    raw = raw.strip(b" \0")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
