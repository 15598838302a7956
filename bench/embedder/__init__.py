"""Benchmarks of the embedder."""
