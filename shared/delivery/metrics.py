"""Every metric of delivery. `topic` is the topic as read or written, retry and dead-letter topics included."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

# Records handed to this process, whatever became of them.
CONSUMED: Final = Counter("similis_events_consumed", "Records read.", ["topic", "group"])

# What became of them: processed, skipped, retried, dead-lettered, returned (not committed, read again).
OUTCOME: Final = Counter("similis_events_outcome", "Records by what became of them.", ["topic", "group", "outcome"])

# Tries of a handler that raised; a record may fail several times before it succeeds.
FAILED_TRIES: Final = Counter("similis_events_failed_tries", "Tries that raised.", ["topic", "error"])

# Records that ended on a dead-letter topic.
DEAD_LETTERED: Final = Counter("similis_events_dead_lettered", "Records dead-lettered.", ["topic", "error"])

# Time of one try of a handler. A study may take minutes on a CPU.
HANDLER_SECONDS: Final = Histogram(
    "similis_events_handler_seconds",
    "Time of one try of a handler.",
    ["topic"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)

# Records acknowledged by the broker, and attempts that were not.
PUBLISHED: Final = Counter("similis_events_published", "Records acknowledged by the broker.", ["topic"])
PUBLISH_FAILURES: Final = Counter("similis_events_publish_failures", "Records not acknowledged.", ["topic", "error"])
