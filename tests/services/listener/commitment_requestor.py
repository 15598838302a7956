"""A requestor of storage commitment: pynetdicom's SCU, and an AE that takes reports on new associations."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple

from listener_harness import MR, Running, Sample, Sender, wait_for
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, Association, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

COMMITMENT = (StorageCommitmentPushModel, ExplicitVRLittleEndian)
STORAGE = (MR, ExplicitVRLittleEndian)


class Report(NamedTuple):
    """What a requestor was told."""

    event_type: int
    ds: Dataset
    by_new_association: bool

    @property
    def transaction(self) -> str:
        return str(self.ds.TransactionUID)

    @property
    def committed(self) -> list[str]:
        return [str(item.ReferencedSOPInstanceUID) for item in self.ds.get("ReferencedSOPSequence", [])]

    @property
    def failed(self) -> dict[str, int]:
        items = self.ds.get("FailedSOPSequence", [])
        return {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in items}


def request(samples: Iterable[Sample], transaction: str | None = None) -> Dataset:
    """The data set of an N-ACTION-RQ."""
    ds = Dataset()
    ds.TransactionUID = transaction or generate_uid()
    ds.ReferencedSOPSequence = []
    for sample in samples:
        item = Dataset()
        item.ReferencedSOPClassUID = sample.sop_class
        item.ReferencedSOPInstanceUID = sample.sop
        ds.ReferencedSOPSequence.append(item)
    return ds


class Requestor:
    """Answers reports with the statuses given, the last one again and again; listens while it is entered."""

    def __init__(self, *statuses: int, ae_title: str = "TESTSCU", accepts_scp: bool | None = True) -> None:
        self.reports: list[Report] = []
        self.released = threading.Event()
        self._statuses = list(statuses) or [0x0000]
        self._ae = AE(ae_title=ae_title)
        scu_role = None if accepts_scp is None else False
        self._ae.add_supported_context(StorageCommitmentPushModel, scu_role=scu_role, scp_role=accepts_scp)
        self._server = self._ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[
                (evt.EVT_N_EVENT_REPORT, self._take, [True]),
                (evt.EVT_RELEASED, lambda _: self.released.set()),
            ],
        )
        self.address = f"{ae_title}=127.0.0.1:{self._server.server_address[1]}"

    def _take(self, event: evt.Event, by_new_association: bool) -> tuple[int, None]:
        self.reports.append(Report(event.event_type, event.event_information, by_new_association))
        return (self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]), None

    def listen_on(self, assoc: Association) -> None:
        """Also take reports on the association that asks."""
        assoc.bind(evt.EVT_N_EVENT_REPORT, self._take, [False])

    def wait(self, count: int = 1, timeout_s: float = 15) -> Report:
        """The newest report, once there are so many."""
        wait_for(lambda: len(self.reports) >= count, timeout_s)
        return self.reports[-1]

    def __enter__(self) -> Requestor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()


@contextlib.contextmanager
def paused_reactor(assoc: Association) -> Iterator[None]:
    """Within it pynetdicom's own thread takes no response off the association: it may else come before the caller."""
    assoc._reactor_checkpoint.clear()
    time.sleep(0.05)
    try:
        yield
    finally:
        assoc._reactor_checkpoint.set()


def store(sender: Sender, *samples: Sample) -> None:
    """C-STORE of each, which must succeed."""
    for sample in samples:
        with paused_reactor(sender.assoc):
            assert sender.store(sample).Status == 0x0000


def ask(assoc: Association, ds: Dataset) -> int:
    """N-ACTION; its status."""
    with paused_reactor(assoc):
        status, _ = assoc.send_n_action(ds, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    return int(status.Status)


def ask_and_leave(listener: Running, ds: Dataset) -> None:
    """N-ACTION on an association that is released at once."""
    with listener.send(COMMITMENT) as sender:
        assert ask(sender.assoc, ds) == 0x0000
