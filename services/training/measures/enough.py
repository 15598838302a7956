"""How many patients figures need before they may be told."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_PATIENTS: Final = 10  # fewer say little, and may point at a person; the model card keeps to it too


def has_enough_patients(patients: NDArray[np.str_]) -> bool:
    """Whether figures of cases of these patients, (N,), may be told: one patient with many cases is one patient."""
    return len(np.unique(patients)) >= LEAST_PATIENTS
