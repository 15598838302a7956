"""An event as a Kafka record and back: CloudEvents 1.0, Kafka protocol binding, binary mode.

The attributes travel as headers `ce_<name>`, the event itself as a JSON value; the key is the Study
Instance UID. A record from elsewhere may lack every header: then the JSON alone decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from pydantic import ValidationError

from shared.errors import MalformedEventError
from shared.events import Event

E = TypeVar("E", bound=Event)
Headers = list[tuple[str, bytes]]

CONTENT_TYPE: Final = "application/json"


def schema_uri(event: type[Event]) -> str:
    """The `ce_dataschema` of an event: names its file under `schemas/`, resolves to nothing."""
    return f"urn:similis:schema:{event.event_type}"


def to_record(event: Event, source: str) -> tuple[bytes, bytes, Headers]:
    """The key, value and headers of an event. `source` names the service that publishes it."""
    attributes = {
        "content-type": CONTENT_TYPE,
        "ce_specversion": "1.0",
        "ce_id": str(event.event_id),
        "ce_source": f"urn:similis:{source}",
        "ce_type": event.event_type,
        "ce_subject": event.study_instance_uid,
        "ce_time": event.occurred_at.isoformat(),
        "ce_dataschema": schema_uri(type(event)),
    }
    return event.key, event.model_dump_json().encode(), [(name, text.encode()) for name, text in attributes.items()]


def from_record(event: type[E], value: bytes, headers: Iterable[tuple[str, bytes]]) -> E:
    """The event of class `event` that a record carries.

    Raises:
        MalformedEventError: the value is not such an event, or the headers name another type. The
            message never quotes the record.
    """
    for name, raw in headers:
        if name == "ce_type" and raw != event.event_type.encode():
            raise MalformedEventError(f"ce_type is not {event.event_type}")
    try:
        return event.model_validate_json(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"]) or "the value"
        # `type` and not `msg`: pydantic's message can quote the input
        raise MalformedEventError(
            f"not a {event.event_type}: {where}: {first['type']} ({len(problems)} in all)"
        ) from None
