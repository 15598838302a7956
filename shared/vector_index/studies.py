"""The best frame of each study, from searches that return frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from shared.vector_index.port import AnyOf, Filter


class _OfStudy(Protocol):
    @property
    def study(self) -> str: ...


H = TypeVar("H", bound=_OfStudy)

Fetch = Callable[[Filter, int], list[H]]
"""The most similar frames that meet a filter, best first, of about the given number: some if there are any."""

_FIRST: Final = 4
_MARGIN: Final = 2.5
_MOST: Final = 4_096


def best_of_each_study(fetch: Fetch[H], *, limit: int, where: Filter) -> list[H]:
    """The best frame of each of the `limit` most similar studies, best first.

    A study may fill a whole answer with its own frames, so the search is repeated without the
    studies already seen, for as many frames as the studies found so far say are needed, and more.
    Each answer is a prefix of what remains, so the result is exact.
    """
    best: dict[str, H] = {}
    count = _FIRST * limit
    while len(best) < limit:
        seen = (AnyOf("study_instance_uid", tuple(best)),) if best else ()
        known = len(best)
        hits = fetch(Filter(must=where.must, must_not=where.must_not + seen), min(count, max(_MOST, limit)))
        if not hits:
            break
        for hit in hits:
            best.setdefault(hit.study, hit)
        frames_of_one = len(hits) / (len(best) - known)
        count = int(_MARGIN * frames_of_one * (limit - len(best))) + limit
    return list(best.values())[:limit]
