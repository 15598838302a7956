"""Every metric of the embedder."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

# Diagnoses by what was concluded. `repeated`: found done in the archive and only published again.
# Failures are counted by the delivery, which retries or dead-letters them.
DIAGNOSES: Final = Counter("similis_embedder_diagnoses_total", "Diagnoses made.", ["task", "decision"])
REPEATED: Final = Counter("similis_embedder_repeated_studies_total", "Studies found done and published again.")

# Frames that reached the index, and objects that did not.
FRAMES: Final = Counter("similis_embedder_frames_total", "Frames embedded.", ["modality"])
SKIPPED: Final = Counter("similis_embedder_skipped_instances_total", "Objects left out.", ["reason"])

# Where the time of a study goes: survey (read, verify, parse), decode, encode, judge, index, archive.
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
