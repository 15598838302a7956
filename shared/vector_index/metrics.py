"""Metrics of the embedded engine's process, all in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

POINTS = Gauge("similis_index_points", "Frames stored, by collection.", ["collection"])
REQUEST_SECONDS = Histogram(
    "similis_index_request_seconds",
    "From a request's arrival to its answer, by operation.",
    ["operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ERRORS = Counter(
    "similis_index_errors_total",
    "Requests refused or failed, by operation and kind (malformed, vector, dimension, engine, other).",
    ["operation", "kind"],
)
UPSERTED = Counter("similis_index_upserted_points_total", "Frames stored or replaced.")
COMMITS = Counter("similis_index_commits_total", "Flushes to disk; several upserts share one.")
OPTIMIZE_SECONDS = Histogram(
    "similis_index_optimize_seconds",
    "A collection's rebuild, from the copy to the exchange; searches and writes go on meanwhile.",
    buckets=(0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1800),
)
PAUSE_SECONDS = Histogram(
    "similis_index_pause_seconds",
    "Parts of a rebuild during which every request waits, by step (copy, catch_up, swap).",
    ["step"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REBUILDING = Gauge("similis_index_rebuilding", "1 while a collection is rebuilt.")
FLAT_POINTS = Gauge(
    "similis_index_flat_points", "Frames that no graph holds yet, by collection: searched one by one.", ["collection"]
)
