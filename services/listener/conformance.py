"""The DICOM conformance statement: its text from conformance_statement.md, its lists and numbers from the code.

`similis schemas export` writes docs/dicom-conformance.md, and `similis schemas check` compares it. The
sections stand in the order of the template of PS3.2 annex A, edition 2020a.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Final

from services.listener import (
    assembly,
    association,
    commitment_delivery,
    commitment_peers,
    commitment_requests,
    conformance_tables,
    dimse,
    elements,
    negotiation,
    stow_response,
    tls,
)
from services.listener import upper_layer as ul
from services.listener.access import AccessSection
from services.listener.answers import STATUS, Outcome
from services.listener.audit import AuditSection
from services.listener.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from services.listener.settings import ListenerSection, StowSection

DOCUMENT: Final = Path("docs/dicom-conformance.md")
_TEMPLATE: Final = Path(__file__).with_name("conformance_statement.md")
_PREFIX: Final = "SIMILIS_LISTENER__"
_TITLES: Final = ("host", "port", "ae_title")
_LIMITS: Final = (
    "max_associations",
    "max_associations_per_peer",
    "max_objects_per_association",
    "max_pdu_bytes",
    "max_object_bytes",
    "acse_timeout_s",
    "network_timeout_s",
    "pdu_timeout_s",
    "min_receive_bytes_per_s",
    "min_free_disk_bytes",
    "min_free_disk_files",
)
_STORING: Final = ("sop_classes", "rules_file", "conflicts", "study_quiet_s", "study_max_age_s")


def conformance_statement() -> str:
    """The whole statement as Markdown."""
    return Template(_TEMPLATE.read_text("utf-8")).substitute(_tables() | _settings() | _figures())


def check_conformance_statement(path: Path) -> list[str]:
    """What is wrong with the kept statement, one line each."""
    if path.is_file() and path.read_text("utf-8") == conformance_statement():
        return []
    return [f"{path}: differs from the listener's tables and settings: run `make schemas`"]


def _tables() -> dict[str, str]:
    return {
        "services": conformance_tables.services(),
        "storage_classes": conformance_tables.storage_classes(),
        "transfer_syntaxes": conformance_tables.transfer_syntaxes(),
        "rejections": conformance_tables.rejections(),
        "aborts": conformance_tables.aborts(),
        "context_results": conformance_tables.context_results(),
        "store_statuses": conformance_tables.store_statuses(),
        "rule_statuses": conformance_tables.rule_statuses(),
        "action_statuses": conformance_tables.action_statuses(),
        "failure_reasons": conformance_tables.failure_reasons(),
        "stow_reasons": conformance_tables.stow_reasons(),
        "cipher_suites": conformance_tables.cipher_suites(),
        "audit_codes": conformance_tables.audit_codes(),
    }


def _settings() -> dict[str, str]:
    settings = conformance_tables.settings
    commitment = [name for name in ListenerSection.model_fields if name.startswith("commitment_")]
    return {
        "prefix": _PREFIX,
        "title_settings": settings(ListenerSection, _PREFIX, *_TITLES),
        "limit_settings": settings(ListenerSection, _PREFIX, *_LIMITS),
        "storing_settings": settings(ListenerSection, _PREFIX, *_STORING),
        "commitment_settings": settings(ListenerSection, _PREFIX, *commitment),
        "stow_settings": settings(StowSection, f"{_PREFIX}STOW__"),
        "tls_settings": settings(tls.TlsSection, f"{_PREFIX}TLS__"),
        "access_settings": settings(AccessSection, f"{_PREFIX}ACCESS__"),
        "audit_settings": settings(AuditSection, f"{_PREFIX}AUDIT__"),
    }


def _figures() -> dict[str, object]:
    level, _, signatures, _, coercion, _ = negotiation._STORAGE_SUPPORT
    return {
        "storage_class_count": len(negotiation._STORAGE),
        "transfer_syntax_count": len(negotiation.TRANSFER_SYNTAXES),
        "application_context": negotiation.APPLICATION_CONTEXT,
        "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION_NAME,
        "max_request_bytes": association._MAX_CONTROL_PDU_BYTES,
        "least_pdu_limit_bytes": association._MIN_P_DATA_LIMIT_BYTES,
        "least_peer_pdu_bytes": ul._MIN_PDU_BYTES + ul._PDV_HEADER_BYTES,
        "level": level,
        "signatures": signatures,
        "coercion": coercion,
        "unrecognized_operation": f"{dimse.UNRECOGNIZED_OPERATION:04X}",
        "max_references": commitment_requests.MAX_REFERENCES,
        "max_action_bytes": assembly.MAX_DATA_SET_BYTES,
        "drained_bytes": assembly.DRAINED_BYTES,
        "max_empty_fragments": assembly.MAX_EMPTY_FRAGMENTS,
        "max_elements": elements.MAX_ELEMENTS,
        "too_large": f"0x{STATUS[Outcome.TOO_LARGE]:04X}",
        "all_committed": commitment_delivery.ALL_COMMITTED,
        "failures_exist": commitment_delivery.FAILURES_EXIST,
        "idle_s": f"{commitment_delivery._IDLE_S:g}",
        "connect_timeout_s": f"{commitment_peers._CONNECT_TIMEOUT_S:g}",
        "answer_timeout_s": f"{commitment_peers._ANSWER_TIMEOUT_S:g}",
        "stow_errors": ", ".join(map(str, stow_response._TITLES)),
        "min_rsa_bits": tls._MIN_RSA_BITS,
        "min_curve_bits": tls._MIN_CURVE_BITS,
    }
