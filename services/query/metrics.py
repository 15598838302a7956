"""Every metric of the query service. Labels are bounded: route templates, never UIDs."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# -- requests --------------------------------------------------------------------------------
REQUESTS: Final = Counter("similis_query_requests_total", "Answered requests.", ["route", "method", "status"])
REQUEST_SECONDS: Final = Histogram(
    "similis_query_request_seconds",
    "From the request's first byte to the answer's last.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
PROBLEMS: Final = Counter("similis_query_problems_total", "Answers that were problem details, by kind.", ["kind"])

# -- search ----------------------------------------------------------------------------------
SEARCHES: Final = Counter("similis_query_searches_total", "Searches that were answered.", ["kind"])
UPLOADS: Final = Counter("similis_query_uploads_total", "Uploaded files by outcome.", ["outcome"])
ENCODE_SECONDS: Final = Histogram(
    "similis_query_encode_seconds",
    "Embedding one upload's frames.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

# -- labels ----------------------------------------------------------------------------------
LABELS: Final = Counter("similis_query_labels_total", "Labels given or withdrawn, repeats too.", ["action"])

# -- pictures and catalogue ------------------------------------------------------------------
PICTURES: Final = Counter("similis_query_pictures_total", "Frame pictures and map layers, by source.", ["source"])
PICTURE_CACHE_BYTES: Final = Gauge("similis_query_picture_cache_bytes", "Memory held by rendered pictures.")
CATALOGUE_STUDIES: Final = Gauge("similis_query_catalogue_studies", "Studies in the list.")
CATALOGUE_SECONDS: Final = Histogram("similis_query_catalogue_refresh_seconds", "Reading the list anew.")
LISTENERS: Final = Gauge("similis_query_event_listeners", "Open streams of events.")
EVENTS: Final = Counter("similis_query_events_total", "Events sent, to each listener.")
UNREADABLE: Final = Counter(
    "similis_query_unreadable_documents_total", "Archived documents that could not be read as what they should be."
)
