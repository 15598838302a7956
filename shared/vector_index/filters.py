"""What a `Filter` means, in Python: the reference that the engines' compilers are tested against."""

from __future__ import annotations

from shared.vector_index.port import KEYWORD_FIELDS, AnyOf, Condition, Field, Filter, FramePayload


def is_empty(where: Filter) -> bool:
    """Whether the filter holds no condition."""
    return not where.must and not where.must_not


def require_keyword(field: Field) -> None:
    """Raise ValueError unless `field` holds keywords."""
    if field not in KEYWORD_FIELDS:
        raise ValueError(f"{field} is no keyword field")


def meets(payload: FramePayload, where: Filter) -> bool:
    """Whether a payload passes the filter."""
    return all(_meets(payload, condition) for condition in where.must) and not any(
        _meets(payload, condition) for condition in where.must_not
    )


def _meets(payload: FramePayload, condition: Condition) -> bool:
    value = getattr(payload, condition.field)
    if value is None:
        return False
    if isinstance(condition, AnyOf):
        return value in condition.values
    return (condition.low is None or condition.low <= value) and (condition.high is None or value <= condition.high)
