"""The best frame of each study, from searches that return frames."""

from __future__ import annotations

from collections.abc import Callable

from shared.vector_index.port import AnyOf, Filter, Hit

Fetch = Callable[[Filter], list[Hit]]
"""The most similar frames that meet a filter, best first: some if there are any, in any number."""


def best_of_each_study(fetch: Fetch, *, limit: int, where: Filter) -> list[Hit]:
    """The best frame of each of the `limit` most similar studies, best first.

    A study may fill a whole answer with its own frames, so the search is repeated without the
    studies already seen. Each answer is a prefix of what remains, so the result is exact.
    """
    best: dict[str, Hit] = {}
    while len(best) < limit:
        seen = (AnyOf("study_instance_uid", tuple(best)),) if best else ()
        hits = fetch(Filter(must=where.must, must_not=where.must_not + seen))
        if not hits:
            break
        for hit in hits:
            best.setdefault(hit.payload.study_instance_uid, hit)
    return list(best.values())[:limit]
