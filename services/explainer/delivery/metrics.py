"""Every metric of the delivery."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

# How deliveries ended: committed (Storage Commitment), stored (without it) or dead-lettered.
DELIVERIES: Final = Counter("similis_delivery_deliveries_total", "Deliveries ended.", ["destination", "outcome"])
# Tries that failed: unreachable, refused, not-committed, no-report, archive or unexpected (a bug: see the log).
FAILURES: Final = Counter("similis_delivery_failed_tries_total", "Tries that failed.", ["destination", "reason"])
OBJECTS: Final = Counter("similis_delivery_objects_total", "Objects stored by C-STORE, repeats too.", ["destination"])
# Objects left out of a delivery because the destination takes no objects of their SOP class.
NOT_TAKEN: Final = Counter(
    "similis_delivery_objects_not_taken_total",
    "Objects of SOP classes that a destination does not take.",
    ["destination"],
)
WAITING: Final = Gauge("similis_delivery_waiting", "Deliveries that wait in this process.", ["destination"])
