"""Benchmarks: commands that measure in one run, print ratios and plot them. Run from the checkout."""
