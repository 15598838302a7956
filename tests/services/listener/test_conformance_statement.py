"""docs/dicom-conformance.md says what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from listener_harness import MR, Running, associate
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import ExplicitVRLittleEndian

from services.listener import access, association, conformance, conformance_tables
from services.listener.answers import STATUS, Outcome
from services.listener.conformance import DOCUMENT, check_conformance_statement, conformance_statement
from services.listener.ports import Reject
from services.listener.settings import ListenerSection

ROOT = Path(__file__).parents[3]
MAX_CONTEXTS = 128


@pytest.fixture(scope="module")
def statement() -> str:
    return (ROOT / DOCUMENT).read_text("utf-8")


def section(statement: str, title: str) -> str:
    """What stands under a heading."""
    match = re.search(rf"^#+ [0-9.]+ {re.escape(title)}$(.*?)(?=^#+ |\Z)", statement, re.M | re.S)
    assert match is not None, title
    return match[1]


def uids(text: str) -> list[str]:
    """The UIDs of a table's last column."""
    return re.findall(r"\| `([0-9.]+)` \|$", text, re.M)


def accepted(listener: Running, proposed: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Abstract and transfer syntaxes that live associations accept."""
    left, found = sorted(proposed), set()
    while left:
        some, left = left[:MAX_CONTEXTS], left[MAX_CONTEXTS:]
        assoc = associate(listener.host, listener.port, *some)
        found |= {(str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in assoc.accepted_contexts}
        assoc.release()
    return found


def test_the_kept_statement_is_the_generated_one(statement: str) -> None:
    assert statement == conformance_statement()
    assert check_conformance_statement(ROOT / DOCUMENT) == []


def test_a_statement_that_was_edited_or_is_not_there_is_told_of(statement: str, tmp_path: Path) -> None:
    edited = tmp_path / "edited.md"
    edited.write_text(statement.replace("131072", "16384"))
    for path in (edited, tmp_path / "none.md"):
        [problem] = check_conformance_statement(path)
        assert str(path) in problem


def test_a_changed_default_or_table_changes_the_statement(statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ListenerSection.model_fields["max_pdu_bytes"], "default", 4096)
    assert conformance_statement() != statement
    monkeypatch.undo()
    assert conformance_statement() == statement
    monkeypatch.setattr(conformance.negotiation, "TRANSFER_SYNTAXES", frozenset({ExplicitVRLittleEndian}))
    assert uids(section(conformance_statement(), "Transfer syntaxes")) == [ExplicitVRLittleEndian]


def test_its_transfer_syntaxes_are_those_that_an_association_accepts(statement: str, listener: Running) -> None:
    proposed = [uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"]
    listed = uids(section(statement, "Transfer syntaxes"))
    assert len(listed) == len(set(listed)) < len(proposed)
    assert accepted(listener, ((MR, uid) for uid in proposed)) == {(MR, uid) for uid in listed}


def test_its_storage_classes_are_accepted_by_an_association(statement: str, listener: Running) -> None:
    listed = {(uid, ExplicitVRLittleEndian) for uid in uids(section(statement, "Storage SOP classes"))}
    assert len(listed) > 150
    assert accepted(listener, listed) == listed


def test_every_outcome_of_a_store_has_its_status_in_it(statement: str) -> None:
    text = section(statement, "Responses to C-STORE")
    rows = re.findall(r"^\| `([0-9A-F]{4})` \|.*\| `([a-z-]+)` \|$", text, re.M)
    assert rows == [(f"{STATUS[outcome]:04X}", outcome.value) for outcome in Outcome]


def test_every_reason_to_reject_an_association_is_in_it() -> None:
    known = {value for module in (access, association) for value in vars(module).values() if isinstance(value, Reject)}
    assert len(known) == 8
    assert {reject for reject, _ in conformance_tables._REJECTS} == known


def test_every_setting_of_the_listener_is_in_it_or_is_no_matter_of_dicom(statement: str) -> None:
    inner = {"journal_dir", "pseudonym_key_file", "generate_pseudonym_key", "crosswalk_file", "crosswalk_key_file"}
    missing = {
        name
        for name in ListenerSection.model_fields
        if f"SIMILIS_LISTENER__{name.upper()}`" not in statement
        and f"SIMILIS_LISTENER__{name.upper()}__" not in statement
    }
    assert {name for name in missing if not name.startswith("publish_")} == inner


def test_it_says_what_it_is_for(statement: str) -> None:
    assert "Research use only" in statement
    assert "{" not in statement.replace("{study}", "")
