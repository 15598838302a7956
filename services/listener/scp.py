"""The DICOM side: an application entity that answers C-ECHO and C-STORE from threads of its own."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final, cast

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity

from services.listener import metrics
from services.listener.negotiation import VERIFICATION, supported_contexts
from services.listener.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from services.listener.settings import ListenerSection
from services.listener.store import StoreObject, StoreRequest
from services.listener.transport import (
    CappedBuffer,
    ListenerAssociation,
    ListenerRequestHandler,
    ListenerServer,
    TransportLimits,
)
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

_MAX_COMMENT: Final = 64  # Error Comment (0000,0902) is LO
_REASONS: Final = {1: "user", 2: "no-reason", 3: "abstract-syntax", 4: "transfer-syntax"}


class Scp:
    """The running acceptor.

    Raises:
        ConfigurationError: from `start`, if the address cannot be bound.
    """

    def __init__(self, settings: ListenerSection, store: StoreObject) -> None:
        self._settings = settings
        self._store = store
        self._server: ListenerServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> tuple[str, int]:
        """Begin to accept associations; the bound host and port."""
        settings = self._settings
        ae = ApplicationEntity(ae_title=settings.ae_title)
        ae.maximum_associations = settings.max_associations
        ae.maximum_pdu_size = settings.max_pdu_bytes
        ae.acse_timeout = settings.acse_timeout_s
        ae.dimse_timeout = settings.dimse_timeout_s
        ae.network_timeout = settings.network_timeout_s
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        # make_server wants some context; each association gets its own from its request.
        ae.add_supported_context(VERIFICATION)
        try:
            server = ae.make_server(
                (settings.host, settings.port),
                server_class=ListenerServer,
                request_handler=ListenerRequestHandler,
            )
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
        self._server = cast(ListenerServer, server)
        self._server.limits = TransportLimits(
            max_pdu_bytes=settings.max_pdu_bytes,
            max_object_bytes=settings.max_object_bytes,
            pdu_timeout_s=settings.pdu_timeout_s,
        )
        self._server.handlers = {
            evt.EVT_REQUESTED: _requested,
            evt.EVT_ACCEPTED: _accepted,
            evt.EVT_REJECTED: _rejected,
            evt.EVT_ABORTED: _aborted,
            evt.EVT_C_ECHO: _echo,
            evt.EVT_C_STORE: self._on_store,
        }
        self._server.on_closed = self._store.open_studies.association_closed
        ae._servers.append(self._server)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dicom-acceptor")
        self._thread.start()
        host, port = self._server.server_address[:2]
        return host, port

    def stop(self, *, patience_s: float = 5.0) -> None:
        """Accept no more, let stores under way finish, end the associations."""
        if self._server is None or self._thread is None:
            return
        server, self._server = self._server, None
        associations = server.active_associations
        server.shutdown()
        self._thread.join()
        deadline_s = time.monotonic() + patience_s
        for assoc in associations:
            assoc.abort(block=False)
        for assoc in associations:
            assoc.join(max(0.0, deadline_s - time.monotonic()))

    def _on_store(self, event: evt.Event) -> int | Dataset:
        started_s = time.perf_counter()
        request: Any = event.request
        assoc = cast(ListenerAssociation, event.assoc)
        buffer: CappedBuffer = request.DataSet
        answer = self._store(
            StoreRequest(
                association=assoc.number,
                calling_ae_title=assoc.requestor.ae_title.strip(),
                called_ae_title=self._settings.ae_title,
                sop_class_uid=request.AffectedSOPClassUID,
                sop_instance_uid=request.AffectedSOPInstanceUID,
                transfer_syntax_uid=event.context.transfer_syntax,
                dataset=None if buffer.overflowed else buffer.getvalue(),
            )
        )
        metrics.STORE_SECONDS.observe(time.perf_counter() - started_s)
        if not answer.status:
            return 0x0000
        status = Dataset()
        status.Status = answer.status
        status.ErrorComment = answer.comment[:_MAX_COMMENT]
        return status


def _proposed(event: evt.Event) -> list[Any]:
    request: Any = event.assoc.requestor.primitive
    return list(request.presentation_context_definition_list)


def _requested(event: evt.Event) -> None:
    event.assoc.acceptor.supported_contexts = supported_contexts(_proposed(event))


def _accepted(event: evt.Event) -> None:
    metrics.ASSOCIATIONS.labels("accepted").inc()
    proposed = {context.context_id: context for context in _proposed(event)}
    for context in event.assoc.rejected_contexts:
        reason = _REASONS.get(context.result or 0, "other")
        metrics.CONTEXTS_REJECTED.labels(reason).inc()
        syntaxes = proposed[context.context_id].transfer_syntax if context.context_id in proposed else ()
        log.warning(
            "presentation context not accepted (%s): %s in %s",
            reason,
            context.abstract_syntax,
            ", ".join(syntaxes) or "no transfer syntax",
        )


def _rejected(event: evt.Event) -> None:
    metrics.ASSOCIATIONS.labels("rejected").inc()
    log.warning("association from %s rejected", event.assoc.requestor.address)


def _aborted(event: evt.Event) -> None:
    metrics.ASSOCIATIONS.labels("aborted").inc()


def _echo(event: evt.Event) -> int:
    metrics.ECHOES.inc()
    return 0x0000
