"""How much is fuzzed, from SIMILIS_FUZZ_SEED: SIMILIS_FUZZ_CASES against the listener, of which SIMILIS_FUZZ_ONLY runs
one alone, and SIMILIS_FUZZ_QUERY_CASES against the query service.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final

from tests.fuzz.exchange import FindingError

CASES: Final = int(os.environ.get("SIMILIS_FUZZ_CASES", "300"))
QUERY_CASES: Final = int(os.environ.get("SIMILIS_FUZZ_QUERY_CASES", "400"))
SEED: Final = int(os.environ.get("SIMILIS_FUZZ_SEED", "1"))
_MOST_FINDINGS: Final = 5


def share(part: float) -> int:
    """So many cases are this `part` of all."""
    return max(1, round(CASES * part))


def share_of_query(part: float) -> int:
    """So many cases are this `part` of all against the query service."""
    return max(1, round(QUERY_CASES * part))


def run_cases(name: str, numbers: range, seed: int, run: Callable[[random.Random], None]) -> int:
    """Run cases, each from a generator of its own seed; how many there were.

    Raises:
        AssertionError: names the cases that failed, and how to run one of them alone.
    """
    only = os.environ.get("SIMILIS_FUZZ_ONLY")
    if only is not None:
        numbers = range(int(only), int(only) + 1)
    failed: list[str] = []
    for number in numbers:
        try:
            run(random.Random(f"{name} {seed} {number}"))
        except FindingError as error:
            failed.append(f"SIMILIS_FUZZ_SEED={seed} SIMILIS_FUZZ_ONLY={number}: {error}")
            if len(failed) >= _MOST_FINDINGS:
                break
    assert not failed, "\n".join((f"{len(failed)} cases of {name} failed; one runs alone with these set:", *failed))
    return len(numbers)
