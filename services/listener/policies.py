"""From settings to the small decisions that the doors and the store step ask for."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Final

from services.listener import metrics
from services.listener.answers import Answer
from services.listener.crosswalk import Crosswalk
from services.listener.header import ObjectHeader, PatientIdentity
from services.listener.rules import Facts, Rules
from services.listener.server import Secure
from services.listener.store import Decide, NoteIdentity, StoreRequest, note_nobody
from services.listener.tls import TlsContexts, TlsSection
from services.listener.tls_socket import accept_tls
from shared.errors import ConfigurationError

_UID_PATTERN: Final = re.compile(r"[0-9.*?]{1,64}")


def by_rules(rules: Rules) -> Decide:
    """The routing rules' answer to an object that they do not let in."""

    def decide(request: StoreRequest, header: ObjectHeader) -> Answer | None:
        facts = Facts(
            request.calling_ae_title,
            request.called_ae_title,
            request.peer_address,
            header.modality,
            header.sop_class_uid,
            request.transfer_syntax_uid,
            header.body_part,
        )
        decision = rules.decide(facts)
        answer = decision.answer
        if answer is not None:
            metrics.RULE_DECISIONS.labels(decision.rule, decision.action).inc()
        return answer

    return decide


def into_crosswalk(crosswalk: Crosswalk | None) -> NoteIdentity:
    """Notes whose each pseudonym is, if there is a crosswalk."""
    if crosswalk is None:
        return note_nobody

    def note(header: ObjectHeader, identity: PatientIdentity) -> None:
        crosswalk.note(header.patient_pseudonym, identity.issuer, identity.patient_id, header.study_instance_uid)

    return note


def tls(section: TlsSection) -> Secure | None:
    """Makes TLS connections, if the settings say so.

    Raises:
        ConfigurationError: the settings or the files cannot be used.
    """
    if section.mode == "off":
        return None
    contexts = TlsContexts(
        section, on_reload=lambda taken: metrics.TLS_RELOADS.labels("taken" if taken else "kept-old").inc()
    )
    metrics.TLS_EXPIRY_SECONDS.set_function(contexts.seconds_until_expiry)
    return lambda connected: accept_tls(connected, contexts)


def sop_class_filter(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a SOP Class UID is one of `patterns`; without any, each is.

    Raises:
        ConfigurationError: one is no UID, nor a UID with * or ?.
    """
    if not patterns:
        return lambda _: True
    for pattern in patterns:
        if not _UID_PATTERN.fullmatch(pattern):
            raise ConfigurationError(f"SIMILIS_LISTENER__SOP_CLASSES: {pattern!r} is no UID, nor one with * or ?")
    wanted = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
    return lambda uid: wanted.fullmatch(uid) is not None
