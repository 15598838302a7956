"""Pushes files by C-STORE, each in the transfer syntax it is stored in: one association a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
from pynetdicom import AE

from services.demo.studies import DemoStudy
from shared.errors import SimilisError

CALLING_AE_TITLE = "SIMILIS-DEMO"
SUCCESS = 0x0000


class SendError(SimilisError):
    """A study could not be pushed."""


def send_study(study: DemoStudy, *, host: str, port: int, ae_title: str, on_sent: Callable[[], None]) -> None:
    """Push every object of `study`; returns once each was answered with Success.

    Raises:
        SendError: no association, or an object was not answered with Success.
    """
    ae = AE(ae_title=CALLING_AE_TITLE)
    for sop_class, transfer_syntax in sorted(_contexts(study.files)):
        ae.add_requested_context(sop_class, transfer_syntax)
    association = ae.associate(host, port, ae_title=ae_title)
    if not association.is_established:
        raise SendError(f"{ae_title} at {host}:{port} did not accept an association")
    try:
        for path in study.files:
            status = association.send_c_store(str(path))
            if "Status" not in status:
                raise SendError(f"{path.name}: no answer to C-STORE")
            if status.Status != SUCCESS:
                raise SendError(f"{path.name}: C-STORE answered 0x{status.Status:04X} {status.get('ErrorComment', '')}")
            on_sent()
    finally:
        association.release()


def _contexts(files: Sequence[Path]) -> set[tuple[str, str]]:
    contexts = set()
    for path in files:
        meta = pydicom.filereader.read_file_meta_info(path)
        contexts.add((str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)))
    return contexts
