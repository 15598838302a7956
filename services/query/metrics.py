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

# -- access ----------------------------------------------------------------------------------
AUTHENTICATIONS: Final = Counter(
    "similis_query_authentications_total", "Keys and tokens that were shown, by outcome.", ["method", "outcome"]
)
SESSIONS: Final = Gauge("similis_query_sessions", "Open sessions of the page, ended ones too until the next sign-in.")

# -- audit log and rate limits ---------------------------------------------------------------
AUDIT_RECORDS_LOST: Final = Counter(
    "similis_query_audit_records_lost_total", "Audit records that could not be written."
)
RATE_LIMITED: Final = Counter(
    "similis_query_rate_limited_total", "Requests answered with 429, by the limit that they met.", ["limit"]
)

# -- search ----------------------------------------------------------------------------------
SEARCHES: Final = Counter("similis_query_searches_total", "Searches that were answered.", ["kind"])
UPLOADS: Final = Counter("similis_query_uploads_total", "Uploaded files by outcome.", ["outcome"])
WORKERS_REPLACED: Final = Counter(
    "similis_query_decode_workers_replaced_total", "Decode workers that died or took too long.", ["reason"]
)
ENCODE_SECONDS: Final = Histogram(
    "similis_query_encode_seconds",
    "Embedding one upload's frames.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

# -- the searched backbone -------------------------------------------------------------------
LIVE_FOLLOWED: Final = Gauge(
    "similis_query_live_followed", "1 while searches are by the backbone that the alias `live` stands for."
)
LIVE_CHANGES: Final = Counter(
    "similis_query_live_changes_total", "Changes of the searched backbone, by outcome: done, failed.", ["outcome"]
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
