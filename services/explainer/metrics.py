"""Every metric of the explainer."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

# How each diagnosis ended: explained, repeated (found explained, told again) or skipped (its task's policy).
# Failures are counted by the delivery, which retries or dead-letters them.
STUDIES: Final = Counter("similis_explainer_studies_total", "Diagnoses handled.", ["task", "outcome"])

# Maps made, and what one takes. Seconds cover decoding, ViT-CX, the overlay and storing.
MAPS: Final = Counter("similis_explainer_maps_total", "Saliency maps made.", ["task"])
MAP_SECONDS: Final = Histogram(
    "similis_explainer_map_seconds",
    "Seconds for one map.",
    ["task"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
)
MAP_MASKS: Final = Histogram(
    "similis_explainer_map_masks",
    "Cluster masks of one map, N in the paper.",
    ["task"],
    buckets=(5, 10, 20, 30, 40, 50, 60, 80, 120, 200),
)

# Sources whose header no DICOM object can be derived from; map and overlay are stored all the same.
OBJECTS_REFUSED: Final = Counter(
    "similis_explainer_objects_refused_total", "Maps of which no DICOM objects could be made.", ["task"]
)

# How maps compare with those of random weights: checked, not-reliable, unknown.
MAP_RELIABILITY: Final = Counter(
    "similis_explainer_map_reliability_total", "Maps by reliability.", ["task", "reliability"]
)

# Decode workers that died or took too long on a frame, which then has no map.
WORKERS_REPLACED: Final = Counter(
    "similis_explainer_decode_workers_replaced_total", "Decode workers that were replaced.", ["reason"]
)

# Progress within a map: moves while one is being made.
FORWARD_PASSES: Final = Counter("similis_explainer_forward_passes_total", "Batches that went through the backbone.")
