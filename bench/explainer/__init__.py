"""Benchmark of saliency maps: time beside the published procedure, and what each faster mode changes."""
