"""Bodies between `edge_client` and `edge_server`: msgpack, ids and vectors as raw bytes.

Ids travel as 16 bytes each, vectors as little-endian float32, both joined; payloads as maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args
from uuid import UUID

import msgpack
import numpy as np
from numpy.typing import NDArray

from shared.vector_index.port import (
    AnyOf,
    Between,
    Condition,
    Embedding,
    Field,
    Filter,
    FramePayload,
    FramePoint,
    Hit,
)

MEDIA_TYPE = "application/vnd.msgpack"
_FLOAT32 = np.dtype("<f4")
_FIELDS = frozenset(get_args(Field))


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes."""
    packed: bytes = msgpack.packb(message, use_bin_type=True)
    return packed


def unpack(body: bytes) -> dict[str, Any]:
    """A message from bytes.

    Raises:
        ValueError: it is not one.
    """
    try:
        message = msgpack.unpackb(body, raw=False)
    except (msgpack.UnpackException, UnicodeDecodeError) as error:
        raise ValueError(f"not a msgpack message: {error}") from error
    if not isinstance(message, dict):
        raise ValueError("not a msgpack map")  # noqa: TRY004 - one kind of error for any bytes
    return message


def ids_to_wire(ids: Sequence[UUID]) -> bytes:
    """Ids, 16 bytes each."""
    return b"".join(key.bytes for key in ids)


def ids_from_wire(joined: bytes) -> list[UUID]:
    """The reverse of `ids_to_wire`."""
    return [UUID(bytes=joined[start : start + 16]) for start in range(0, len(joined), 16)]


def vector_to_wire(vectors: NDArray[np.float32]) -> bytes:
    """One vector (D,) or several (N, D)."""
    return vectors.astype(_FLOAT32, copy=False).tobytes()


def vector_from_wire(joined: bytes) -> Embedding:
    """One vector, (D,)."""
    return np.frombuffer(joined, dtype=_FLOAT32).astype(np.float32)


def points_to_wire(points: Sequence[FramePoint]) -> dict[str, Any]:
    """Points whose vectors have one length."""
    return {
        "ids": ids_to_wire([point.id for point in points]),
        "vectors": vector_to_wire(np.array([point.vector for point in points], dtype=_FLOAT32)),
        "payloads": [_payload_to_wire(point.payload) for point in points],
    }


def points_from_wire(message: Mapping[str, Any]) -> list[FramePoint]:
    """The reverse of `points_to_wire`.

    Raises:
        ValueError: ids, vectors and payloads do not fit together, or a payload is not valid.
    """
    ids = ids_from_wire(message["ids"])
    if not ids:
        return []
    rows = vector_from_wire(message["vectors"]).reshape(len(ids), -1)
    return [
        FramePoint(key, row, FramePayload.model_validate(payload))
        for key, row, payload in zip(ids, rows, message["payloads"], strict=True)
    ]


def hits_to_wire(hits: Sequence[Hit]) -> dict[str, Any]:
    """Found frames, in order."""
    return {
        "ids": ids_to_wire([hit.id for hit in hits]),
        "scores": [hit.score for hit in hits],
        "payloads": [_payload_to_wire(hit.payload) for hit in hits],
    }


def hits_from_wire(message: Mapping[str, Any]) -> list[Hit]:
    """The reverse of `hits_to_wire`."""
    return [
        Hit(key, score, FramePayload.model_validate(payload))
        for key, score, payload in zip(
            ids_from_wire(message["ids"]), message["scores"], message["payloads"], strict=True
        )
    ]


def filter_to_wire(where: Filter) -> dict[str, Any]:
    """A filter as nested lists."""
    return {
        "must": [_condition_to_wire(condition) for condition in where.must],
        "must_not": [_condition_to_wire(condition) for condition in where.must_not],
    }


def filter_from_wire(message: Mapping[str, Any]) -> Filter:
    """The reverse of `filter_to_wire`.

    Raises:
        ValueError: an unknown field or kind of condition.
    """
    return Filter(
        must=tuple(_condition_from_wire(condition) for condition in message["must"]),
        must_not=tuple(_condition_from_wire(condition) for condition in message["must_not"]),
    )


def field_from_wire(name: Any) -> Field:
    """A field's name.

    Raises:
        ValueError: there is no such field.
    """
    if name not in _FIELDS:
        raise ValueError(f"no field {name!r}")
    field: Field = name
    return field


def _payload_to_wire(payload: FramePayload) -> dict[str, Any]:
    return payload.model_dump(exclude_none=True)


def _condition_to_wire(condition: Condition) -> list[Any]:
    if isinstance(condition, AnyOf):
        return ["any", condition.field, list(condition.values)]
    return ["between", condition.field, condition.low, condition.high]


def _condition_from_wire(condition: Sequence[Any]) -> Condition:
    match condition:
        case ["any", name, [*values]] if all(isinstance(value, str) for value in values):
            return AnyOf(field_from_wire(name), tuple(values))
        case ["between", name, int() | None as low, int() | None as high]:
            return Between(field_from_wire(name), low, high)
    raise ValueError(f"no condition: {condition!r}")
