"""What is fitted on frozen features: the probe, the patch lens, calibration, task space, the distance."""
