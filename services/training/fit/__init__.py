"""What is fitted on frozen features: probe, lens, calibration, task space, distance; and the shortcut check."""
