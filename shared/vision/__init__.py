"""Seeing: the frozen backbone, heads on its features, calibration. Torch lives only here (and in train)."""
