"""Which associations are accepted: by the allow-lists, and by how many are open."""

from __future__ import annotations

from dataclasses import dataclass

from services.listener.access import AccessRules, OpenAssociations
from services.listener.association import Association
from services.listener.audit import AuditLog
from services.listener.audit_messages import Peer
from services.listener.ports import Reject


def peer_of(association: Association) -> Peer:
    """The other end of an association, for the audit log."""
    return Peer(
        association.peer_address,
        association.tally.calling_ae_title,
        association.tally.called_ae_title,
        association.certificate_sha256,
    )


@dataclass(frozen=True, slots=True)
class GuardedAdmission:
    """Admits by `rules`, and up to the limits of `open_associations`."""

    rules: AccessRules
    open_associations: OpenAssociations
    audit: AuditLog

    def admit(self, association: Association) -> Reject | None:
        """None if accepted; then `left` must follow."""
        refused = self.rules.check(
            calling_ae_title=association.tally.calling_ae_title,
            called_ae_title=association.tally.called_ae_title,
            peer_address=association.peer_address,
        )
        refused = refused or self.open_associations.admit(association.peer_address)
        if refused is None:
            self.audit.association_accepted(peer_of(association))
        return refused

    def left(self, association: Association) -> None:
        """An admitted association has ended."""
        self.open_associations.leave(association.peer_address)
