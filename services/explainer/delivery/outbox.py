"""The outbox: notes durably what is to be sent, and has it sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

from services.explainer.delivery.courier import Courier
from services.explainer.delivery.records import DeliveryRecords
from services.explainer.delivery.sending import SendObjects, tls_context
from services.explainer.delivery.settings import DeliverySection
from services.explainer.delivery.transactions import ReportServer, Transactions
from shared import events
from shared.archive import Archive
from shared.errors import ConfigurationError, TransientError
from shared.events import StudyExplained

log = logging.getLogger(__name__)

_STOP_S: Final = 10.0


class DeliveryOutbox:
    """Delivers results to every destination of its section, between `start` and `stop`.

    A delivery is on record before `add` returns. At the start all that is on record and not finished is taken up,
    also what other processes wrote: an object may be sent twice, and is the same object.
    """

    def __init__(self, section: DeliverySection, archive: Archive, *, now: Callable[[], datetime] = events.now) -> None:
        """Nothing connects yet.

        Raises:
            ConfigurationError: a destination's TLS files cannot be used, or Storage Commitment is required where no
                report could come back.
        """
        self._section = section
        self._records = DeliveryRecords(archive, now)
        self._transactions = Transactions()
        self._couriers = {
            destination.name: Courier(
                section,
                SendObjects(section, destination, archive, self._transactions, tls_context(destination.tls)),
                self._records,
            )
            for destination in section.destinations
        }
        if section.report_port is None and section.association_wait_s == 0 and self._expects_reports():
            raise ConfigurationError("SIMILIS_DELIVERY: a report of Storage Commitment could come on no association")
        self._reports: ReportServer | None = None
        self._stopping = threading.Event()
        self._taking_up = threading.Thread(target=self._take_up, name="deliver-pending", daemon=True)

    @property
    def report_port(self) -> int | None:
        """Where reports are taken on new associations; None if nowhere."""
        return None if self._reports is None else self._reports.port

    def start(self) -> None:
        """Take up what is pending, and deliver.

        Raises:
            ConfigurationError: the port for reports cannot be bound.
        """
        if not self._couriers:
            return
        if self._section.report_port is not None and self._expects_reports():
            self._reports = ReportServer(self._section, self._transactions)
        for courier in self._couriers.values():
            courier.start()
        self._taking_up.start()

    def stop(self) -> None:
        """Stop, within seconds. What is not finished is taken up at the next start."""
        self._stopping.set()
        for courier in self._couriers.values():
            courier.stop(_STOP_S)
        if self._reports is not None:
            self._reports.close()

    def add(self, explained: StudyExplained) -> None:
        """Note durably that the DICOM objects of `explained` are to be sent, if any destination wants them.

        Raises:
            ArchiveUnavailableError: the note cannot be stored.
        """
        for destination in self._section.destinations:
            delivery = self._records.add(explained, destination)
            if delivery is not None:
                self._couriers[destination.name].give(delivery)

    def _expects_reports(self) -> bool:
        return any(destination.commitment != "off" for destination in self._section.destinations)

    def _take_up(self) -> None:
        while not self._stopping.is_set():
            try:
                for delivery in self._records.pending():
                    if delivery.destination in self._couriers:
                        self._couriers[delivery.destination].give(delivery)
                    else:
                        log.warning("delivery %s waits: no destination is named %s", delivery.id, delivery.destination)
            except TransientError as error:
                log.warning("pending deliveries cannot be read yet: %s", error)
                self._stopping.wait(self._section.retry_s)
            else:
                return
