"""The published contracts: a JSON Schema per event, samples, and the AsyncAPI document.

    schemas/<event>/v1.json             JSON Schema 2020-12, frozen: it may only gain optional fields
    schemas/<event>/samples/*.json      golden samples, which every later version must still read
    schemas/asyncapi.yaml               AsyncAPI 3.0: topics, headers, keys

A subscriber may hold an older schema, and an older event may be read again, so the rule is strict in
both directions: no field is removed, retyped, made required or optional, or given other limits. What
breaks that is a new class on a `.v2` topic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from shared.delivery.cloudevents import CONTENT_TYPE, schema_uri
from shared.errors import ConfigurationError
from shared.events import EVENT_CLASSES, NO_TASK, RESEARCH_USE_ONLY, Event
from shared.topics import EXPLANATION_REQUESTED, STUDY_EXPLAINED, STUDY_RECEIVED, Topic, diagnosis

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI: Final = "asyncapi.yaml"
TASK_PARAMETER: Final = "{task}"
# What a schema says to people only; it may change at will.
_ANNOTATIONS: Final = frozenset({"title", "description", "default", "examples", "$id", "$schema", "deprecated"})


def export(folder: Path) -> None:
    """Write every schema and the AsyncAPI document.

    Raises:
        ConfigurationError: a schema would break the kept one; nothing is written.
    """
    broken = [problem for event in EVENT_CLASSES for problem in _breaks(folder, event)]
    if broken:
        raise ConfigurationError("a new version of the event is needed: " + "; ".join(broken))
    for event in EVENT_CLASSES:
        path = schema_path(folder, event)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_schema_text(event), "utf-8")
    (folder / ASYNCAPI).write_text(_asyncapi_text(), "utf-8")


def check(folder: Path) -> list[str]:
    """What differs between the kept documents and the code, and which old samples are not read any more."""
    return list(_problems(folder))


def schema_path(folder: Path, event: type[Event]) -> Path:
    """Where an event's schema is kept: `similis.study.received.v1` in `similis.study.received/v1.json`."""
    name, _, version = event.event_type.rpartition(".")
    return folder / name / f"{version}.json"


def json_schema(event: type[Event]) -> dict[str, Any]:
    """The event's JSON Schema, as a reader may rely on it."""
    return {"$schema": DIALECT, "$id": schema_uri(event), **event.model_json_schema()}


def incompatibilities(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """How `new` breaks readers of `old`, or `old` events in readers of `new`; empty if it does not."""
    return list(_compare(_resolve(old, old), _resolve(new, new), ""))


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of what subscribers may read."""
    described = (
        (STUDY_RECEIVED, "studyReceived", "A study is complete and durable in the archive."),
        (
            diagnosis(TASK_PARAMETER),
            "studyDiagnosed",
            "One task's diagnosis of a study that is embedded and searchable.",
        ),
        (EXPLANATION_REQUESTED, "explanationRequested", "Somebody asks for maps that a task's policy does not make."),
        (STUDY_EXPLAINED, "studyExplained", "Saliency maps of a study are in the archive."),
    )
    schemas: dict[str, Any] = {}
    for topic, _, _ in described:
        schema = topic.event.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[topic.event.__name__] = schema
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Similis events",
            "version": "1.0.0",
            "description": f"For {RESEARCH_USE_ONLY}. Delivery is at least once, in order per study, and event ids "
            "repeat when an event does. Beside each topic lie <topic>.retry and <topic>.dlq: records that wait for "
            "another try, and records that cannot be processed, with headers similis-* that say why.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {name: _channel(topic, about) for topic, name, about in described},
        "operations": {
            f"send{name[0].upper()}{name[1:]}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{topic.event.__name__}"}],
            }
            for topic, name, _ in described
        },
        "components": {
            "messages": {topic.event.__name__: _message(topic.event) for topic, _, _ in described},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _problems(folder: Path) -> Iterator[str]:
    for event in EVENT_CLASSES:
        path = schema_path(folder, event)
        if not path.exists():
            yield f"{path} is missing: run `similis schemas export`"
            continue
        yield from _breaks(folder, event)
        if path.read_text("utf-8") != _schema_text(event):
            yield f"{path} differs from {event.__name__}: run `similis schemas export`"
        yield from _unread_samples(path.parent / "samples", event)
    kept = folder / ASYNCAPI
    if not kept.exists() or kept.read_text("utf-8") != _asyncapi_text():
        yield f"{kept} differs from the code: run `similis schemas export`"


def _breaks(folder: Path, event: type[Event]) -> Iterator[str]:
    path = schema_path(folder, event)
    if path.exists():
        for problem in incompatibilities(json.loads(path.read_text("utf-8")), json_schema(event)):
            yield f"{path}: {problem}"


def _unread_samples(folder: Path, event: type[Event]) -> Iterator[str]:
    samples = sorted(folder.glob("*.json"))
    if not samples:
        yield f"{folder} holds no golden sample"
    for sample in samples:
        try:
            event.model_validate_json(sample.read_bytes())
        except ValidationError as error:
            yield f"{sample} is not read any more: {error}"


def _schema_text(event: type[Event]) -> str:
    return json.dumps(json_schema(event), indent=2, ensure_ascii=False) + "\n"


def _asyncapi_text() -> str:
    import yaml  # not in every service's environment

    text: str = yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=110)
    return f"# Generated by `similis schemas export`.\n{text}"


def _channel(topic: Topic, about: str) -> dict[str, Any]:
    event = topic.event.__name__
    channel: dict[str, Any] = {
        "address": topic.name,
        "description": about,
        "messages": {event: {"$ref": f"#/components/messages/{event}"}},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms},
                "bindingVersion": "0.5.0",
            }
        },
    }
    if TASK_PARAMETER in topic.name:
        about_task = f"A task's name, or `{NO_TASK}` for the studies that no task takes."
        channel["parameters"] = {
            TASK_PARAMETER.strip("{}"): {"description": about_task, "examples": ["brain-mr", NO_TASK]}
        }
    return channel


def _message(event: type[Event]) -> dict[str, Any]:
    def header(about: str, **more: str) -> dict[str, str]:
        return {"type": "string", "description": about, **more}

    return {
        "name": event.event_type,
        "title": event.__name__,
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "description": "CloudEvents 1.0, Kafka binding, binary mode.",
            "properties": {
                "ce_specversion": {"const": "1.0"},
                "ce_id": header("The event's id; repeats when the event does.", format="uuid"),
                "ce_source": header("The service that published it.", format="uri"),
                "ce_type": {"const": event.event_type},
                "ce_subject": header("The Study Instance UID."),
                "ce_time": header("When it happened.", format="date-time"),
                "ce_dataschema": {"const": schema_uri(event)},
                "content-type": {"const": CONTENT_TYPE},
            },
            "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
        },
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "The Study Instance UID (0020,000D)."},
                "bindingVersion": "0.5.0",
            }
        },
    }


def _resolve(node: Any, root: dict[str, Any]) -> Any:
    """The schema with its references replaced and its annotations dropped. The events do not recur."""
    if isinstance(node, list):
        return [_resolve(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return _resolve({**root["$defs"][name], **{key: value for key, value in node.items() if key != "$ref"}}, root)
    resolved = {}
    for key, value in node.items():
        if key == "properties":
            resolved[key] = {name: _resolve(field, root) for name, field in value.items()}
        elif key not in _ANNOTATIONS and key != "$defs":
            resolved[key] = _resolve(value, root)
    return resolved


def _compare(old: Any, new: Any, where: str) -> Iterator[str]:
    at = where or "the event"
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key == "properties":
                yield from _compare_fields(old.get(key, {}), new.get(key, {}), where)
            elif key == "required":
                before, after = set(old.get(key, [])), set(new.get(key, []))
                yield from (f"{where}{name} became required" for name in sorted(after - before))
                yield from (f"{where}{name} is required no more" for name in sorted(before - after))
            elif key not in old or key not in new:
                yield f"{at}: {key} was {'added' if key in new else 'removed'}"
            else:
                yield from _compare(old[key], new[key], where)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for before, after in zip(old, new, strict=True):
            yield from _compare(before, after, where)
    elif old != new:
        yield f"{at}: {old!r} became {new!r}"


def _compare_fields(old: dict[str, Any], new: dict[str, Any], where: str) -> Iterator[str]:
    for name in sorted(old):
        if name not in new:
            yield f"{where}{name} was removed"
        else:
            yield from _compare(old[name], new[name], f"{where}{name}.")
