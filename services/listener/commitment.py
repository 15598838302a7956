"""Storage Commitment Push Model SCP, PS3.4 annex J: the step behind N-ACTION.

    N-ACTION-RQ ─▶ kept durably ─▶ N-ACTION-RSP ┄▶ its studies archived? ─▶ read back ─▶ N-EVENT-REPORT-RQ ─▶ forgotten

What comes after the response is in `commitment_reports`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from services.listener import dimse, metrics
from services.listener.answers import RefusedObjectError
from services.listener.association import Association
from services.listener.commitment_peers import STORAGE_COMMITMENT_INSTANCE
from services.listener.commitment_reports import CommitmentReports
from services.listener.commitment_requests import CommitmentRequestError, TooManyReferencesError, read_request
from services.listener.commitment_transactions import Transaction, Transactions
from services.listener.dimse import Command
from services.listener.negotiation import STORAGE_COMMITMENT

log = logging.getLogger(__name__)

# PS3.4 table J.3-2, and statuses of PS3.7 annex C.
_REQUEST_STORAGE_COMMITMENT: Final = 1
INVALID_ARGUMENT_VALUE: Final = 0x0115
RESOURCE_LIMITATION: Final = 0x0213


@dataclass(frozen=True, slots=True)
class TakeCommitmentRequest:
    """Takes requests from any thread; `check_space` raises RefusedObjectError where the disk is nearly full."""

    transactions: Transactions
    reports: CommitmentReports
    check_space: Callable[[int], None]
    max_transactions: int

    def requested(self, association: Association, command: Command, data_set: bytes, transfer_syntax_uid: str) -> int:
        """The status of an N-ACTION-RSP, PS3.7 section 10.1.4.1.10: after Success the request is durable."""
        status = self._check(command)
        if status == dimse.SUCCESS:
            status = self._keep(association, data_set, transfer_syntax_uid)
        metrics.COMMITMENT_REQUESTS.labels(f"{status:04X}").inc()
        if status != dimse.SUCCESS:
            caller = association.tally.calling_ae_title
            log.warning("a request for storage commitment was refused with 0x%04X (from %s)", status, caller)
        return status

    def _check(self, command: Command) -> int:
        if command.sop_class_uid != STORAGE_COMMITMENT:
            return dimse.NO_SUCH_SOP_CLASS
        if command.sop_instance_uid != STORAGE_COMMITMENT_INSTANCE:
            return dimse.NO_SUCH_SOP_INSTANCE
        if command.type_id != _REQUEST_STORAGE_COMMITMENT:
            return dimse.NO_SUCH_ACTION_TYPE
        return RESOURCE_LIMITATION if self.reports.open_count >= self.max_transactions else dimse.SUCCESS

    def _keep(self, association: Association, data_set: bytes, transfer_syntax_uid: str) -> int:
        try:
            transaction_uid, references = read_request(data_set, transfer_syntax_uid)
            self.check_space(len(data_set))
            transaction = Transaction(
                transaction_uid=transaction_uid,
                calling_ae_title=association.tally.calling_ae_title,
                called_ae_title=association.tally.called_ae_title,
                peer_address=association.peer_address,
                received_at=datetime.now(UTC),
                references=references,
            )
            kept = self.transactions.keep(transaction)
        except (TooManyReferencesError, RefusedObjectError):
            return RESOURCE_LIMITATION
        except CommitmentRequestError as error:
            log.warning("a request for storage commitment cannot be read: %s", error)
            return INVALID_ARGUMENT_VALUE
        except OSError as error:
            log.error("a request for storage commitment could not be kept: %s", error.strerror)  # noqa: TRY400
            return dimse.PROCESSING_FAILURE
        except Exception:
            log.exception("a request for storage commitment could not be handled")
            return dimse.PROCESSING_FAILURE
        self.reports.requested(kept, transaction, association)
        return dimse.SUCCESS
