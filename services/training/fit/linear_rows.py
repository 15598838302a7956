"""One row of weights for each class, also of two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]


def linear_rows(model: LogisticRegression) -> tuple[Floats, Floats]:
    """Weights (C, F) and biases (C,); scikit-learn keeps one row for two classes."""
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias
