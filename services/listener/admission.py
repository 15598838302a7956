"""Which associations are accepted: by the allow-lists, and by how many are open."""

from __future__ import annotations

from dataclasses import dataclass

from services.listener.access import AccessRules, OpenAssociations
from services.listener.association import Association
from services.listener.ports import Reject


@dataclass(frozen=True, slots=True)
class GuardedAdmission:
    """Admits by `rules`, and up to the limits of `open_associations`."""

    rules: AccessRules
    open_associations: OpenAssociations

    def admit(self, association: Association) -> Reject | None:
        """None if accepted; then `left` must follow."""
        refused = self.rules.check(
            calling_ae_title=association.tally.calling_ae_title,
            called_ae_title=association.tally.called_ae_title,
            peer_address=association.peer_address,
        )
        return refused or self.open_associations.admit(association.peer_address)

    def left(self, association: Association) -> None:
        """An admitted association has ended."""
        self.open_associations.leave(association.peer_address)
