"""The curves that training keeps beside a head."""

from __future__ import annotations

import numpy as np

from services.training.card.curves import card_curves


def test_curves_are_worked_out_from_the_calibrated_probabilities() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = card_curves("head", probabilities, np.array([0, 0, 1, 1]), ("normal", "glioma-like"))
    assert [curve.label for curve in found.roc] == ["normal", "glioma-like"]
    assert found.roc[0].auroc == 1.0
    assert found.roc[0].points == ((0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0))
    assert [(one.confidence, one.accuracy, one.count) for one in found.calibration] == [
        (0.6, 0.0, 1),
        (0.7, 1.0, 1),
        (0.8, 1.0, 1),
        (0.9, 1.0, 1),
    ]
    assert all(one.low <= one.accuracy <= one.high for one in found.calibration)
