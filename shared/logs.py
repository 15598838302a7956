"""Logging: one line a record, as text or JSON, on standard error. Never a patient's identity."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType

from shared.errors import SimilisError
from shared.unforeseen import causes_of, path_of, told

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class _Reticent(logging.Formatter):
    """An error's kind and place, and how the program came there; its text only if it is one of ours."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  (logging's name)
        """The error and its causes, the first cause last."""
        if ei[1] is None:
            return ""
        return "\n".join(
            f"{type(found).__name__}: {told(found)}\n{path_of(found)}"
            if isinstance(found, SimilisError)
            else f"{told(found)}\n{path_of(found)}"
            for found in causes_of(ei[1])
        )


class JsonFormatter(_Reticent):
    """One JSON object a line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(service: str, *, log_format: str, level: str) -> None:
    """Send the process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter(service))
    else:
        handler.setFormatter(_Reticent(f"%(asctime)s %(levelname)-7s {service:<9} %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # pydicom's warnings, logged or raised as Python warnings, quote the values of data elements.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL)
    for noisy in ("aiokafka", "highdicom", "httpx", "pynetdicom", "uvicorn", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
