"""Every metric of the listener. No label holds a value that a sender can choose freely."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Receiving
OBJECTS = Counter(
    "similis_listener_objects_total", "C-STORE requests answered, by outcome and DIMSE status.", ["outcome", "status"]
)
OBJECT_BYTES = Counter("similis_listener_object_bytes_total", "Data set bytes of the objects stored.")
STORE_SECONDS = Histogram(
    "similis_listener_store_seconds",
    "From the last byte of a C-STORE request to its answer.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
DUPLICATES = Counter("similis_listener_duplicate_objects_total", "Objects that were sent again unchanged.")
CONFLICTS = Counter(
    "similis_listener_conflicting_objects_total", "Objects refused: another object already has their SOP Instance UID."
)
RULE_DECISIONS = Counter(
    "similis_listener_rule_decisions_total", "Objects that a routing rule dropped or refused.", ["rule", "action"]
)
ECHOES = Counter("similis_listener_echoes_total", "C-ECHO requests answered.")

# STOW-RS
STOW_REQUESTS = Counter(
    "similis_listener_stow_requests_total", "STOW-RS requests by HTTP status; or refused, disconnected.", ["status"]
)

# Associations
ASSOCIATIONS_OPEN = Gauge("similis_listener_associations_open", "Transport connections being served.")
ASSOCIATIONS = Counter(
    "similis_listener_associations_total", "Associations by what became of the request.", ["outcome"]
)
ASSOCIATIONS_REJECTED = Counter(
    "similis_listener_associations_rejected_total", "Association requests rejected, by reason.", ["reason"]
)
CONTEXTS_REJECTED = Counter(
    "similis_listener_presentation_contexts_rejected_total",
    "Presentation contexts not accepted, by reason.",
    ["reason"],
)
TLS_FAILURES = Counter(
    "similis_listener_tls_failures_total", "Connections that did not become TLS connections, by reason.", ["reason"]
)
TLS_RELOADS = Counter("similis_listener_tls_reloads_total", "Times changed TLS files were taken or not.", ["outcome"])
TLS_EXPIRY_SECONDS = Gauge(
    "similis_listener_tls_certificate_expiry_seconds", "Time until the listener's certificate expires; without TLS 0."
)
AUDIT_RECORDS_LOST = Counter("similis_listener_audit_records_lost_total", "Audit records that could not be written.")

# Studies
STUDIES_OPEN = Gauge("similis_listener_studies_open", "Studies with objects that no published revision has.")
STUDIES_PUBLISHED = Counter("similis_listener_studies_published_total", "Revisions of studies announced.")
MIXED_PATIENTS = Counter(
    "similis_listener_mixed_patient_studies_total", "Revisions whose objects name several patients."
)
PUBLISH_RETRIES = Counter(
    "similis_listener_publish_retries_total", "Tries to publish a study that failed and will be repeated.", ["reason"]
)
WATCH_FAILURES = Counter(
    "similis_listener_watch_failures_total", "Looks for due studies and free space that failed and will be repeated."
)

# Storage commitment
COMMITMENT_REQUESTS = Counter(
    "similis_listener_commitment_requests_total", "Requests for storage commitment answered, by status.", ["status"]
)
COMMITMENTS_OPEN = Gauge("similis_listener_commitments_open", "Requests for storage commitment not reported yet.")
COMMITMENT_INSTANCES = Counter(
    "similis_listener_commitment_instances_total",
    "Instances reported, by Failure Reason; 0000 is committed.",
    ["reason"],
)
COMMITMENT_REPORTS = Counter("similis_listener_commitment_reports_total", "Reports taken, by way.", ["way"])
COMMITMENT_RETRIES = Counter(
    "similis_listener_commitment_retries_total", "Reports that were not taken and will be sent again."
)
COMMITMENTS_GIVEN_UP = Counter(
    "similis_listener_commitments_given_up_total", "Requests whose requestor took no report in time."
)

# Journal
JOURNAL_BYTES = Gauge("similis_listener_journal_bytes", "Bytes of objects waiting in the journal.")
DISK_FREE_BYTES = Gauge("similis_listener_disk_free_bytes", "Free bytes of the journal's file system.")
UNREADABLE = Counter(
    "similis_listener_unreadable_objects_total", "Journal files set aside because they cannot be read."
)
