"""How much is fuzzed: SIMILIS_FUZZ_CASES in all, from SIMILIS_FUZZ_SEED."""

from __future__ import annotations

import os
from typing import Final

CASES: Final = int(os.environ.get("SIMILIS_FUZZ_CASES", "300"))
SEED: Final = int(os.environ.get("SIMILIS_FUZZ_SEED", "1"))


def share(part: float) -> int:
    """So many cases are this `part` of all."""
    return max(1, round(CASES * part))
