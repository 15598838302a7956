"""Every metric of the embedder."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# Diagnoses by what was concluded. `repeated`: found done in the archive and only published again.
# Failures are counted by the delivery, which retries or dead-letters them.
DIAGNOSES: Final = Counter("similis_embedder_diagnoses_total", "Diagnoses made.", ["task", "decision"])
REPEATED: Final = Counter("similis_embedder_repeated_studies_total", "Studies found done and published again.")

# While the backbone is changed: behind the diagnoses, or at rest, the second one holds its studies back.
INDEXED_AGAIN: Final = Counter("similis_embedder_indexed_again_total", "Studies indexed by the second backbone, too.")

OWN_RESULTS: Final = Counter(
    "similis_embedder_own_result_revisions_total", "Revisions that add only results of Similis, sent back to it."
)

# Frames that reached the index, and objects that did not.
FRAMES: Final = Counter("similis_embedder_frames_total", "Frames embedded.", ["modality"])
SKIPPED: Final = Counter("similis_embedder_skipped_instances_total", "Objects left out.", ["reason"])

FRAMES_FAILED: Final = Counter(
    "similis_embedder_failed_frames_total", "Frames that could not be decoded; their study is partial.", ["reason"]
)

# The decoders: a queue that stays long wants more workers; a worker is replaced when it died or took too long.
DECODE_QUEUE: Final = Gauge("similis_embedder_decode_queue_objects", "Objects with the decoders or waiting for them.")
WORKERS_REPLACED: Final = Counter(
    "similis_embedder_decode_workers_replaced_total", "Decode workers replaced.", ["reason"]
)

# The model: batches far from full say that the decoders are the slower part.
BATCH_FILL: Final = Histogram(
    "similis_embedder_batch_fill_ratio",
    "Frames in a forward pass, by the batch size.",
    buckets=(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1),
)

# Where the time of a study goes: survey (read, verify, parse), decode (in the workers, summed), encode (its share of
# the model's time), embed (both, as time passes), judge, index, archive.
STAGE_SECONDS: Final = Histogram(
    "similis_embedder_stage_seconds",
    "Seconds of one study's stage.",
    ["stage"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
)
STUDY_SECONDS: Final = Histogram(
    "similis_embedder_study_seconds",
    "Seconds of one study, from its event to its diagnoses.",
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)
