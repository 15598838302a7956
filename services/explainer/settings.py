"""The explainer's settings: SIMILIS_EXPLAINER__*, beside the shared sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from services.explainer.delivery.settings import DeliverySection
from shared.settings import Section, SimilisSettings, VisionSettings


class ExplainerSection(Section):
    """Saliency maps and their pictures."""

    method: Literal["vit-cx", "rollout", "legrad", "rise"] = Field(
        "vit-cx",
        description="vit-cx; rollout or legrad, which cost two passes; rise, for comparison. See docs/explainer.md.",
    )
    mode: Literal["auto", "exact", "two-pass", "adaptive", "one-pass"] = Field(
        "auto",
        description="How exactly ViT-CX is worked out. exact: the float32 model, two passes a mask; two-pass: the same "
        "by the fast forward, in SIMILIS_VISION__PRECISION; adaptive: second passes only while they may change the "
        "map; one-pass: none of them. auto: the fastest that keeps a correlation of .999 with exact on phantoms.",
    )
    max_masks: NonNegativeInt = Field(
        0,
        description="Most masks of a ViT-CX map: masks are merged beyond delta until no more are left. 0: no limit.",
    )
    rise_masks: PositiveInt = Field(500, description="Random masks of a RISE map.")
    delta: float = Field(
        0.1,
        gt=0.0,
        le=1.0,
        description="Feature maps closer than this (1 - cosine) may share a mask; smaller: more masks.",
    )
    noise_std: NonNegativeFloat = Field(
        0.1, description="Standard deviation of the noise where a mask removes the image, in normalised pixel units."
    )
    fill: Literal["mean", "black"] = Field(
        "mean",
        description="What stands where a mask removes the image: mean, the mid-grey of the authors' code, or black.",
    )
    overlay_size_px: PositiveInt = Field(
        768, ge=256, le=4096, description="Longer side of the frame in an overlay PNG."
    )
    overlay_span: PositiveFloat = Field(
        0.05,
        description="Least span of an overlay's colour scale above the frame's mean, as a probability; for rollout and "
        "legrad, whose values are none, as a share of the map's greatest magnitude. A map that rises less is not "
        "stretched to full colour.",
    )
    faithfulness: bool = Field(
        True,
        description="Measure insertion and deletion of each map beside random orders: about as many forward passes as "
        "a ViT-CX map takes. Without it no map is checked.",
    )
    dicom_results: bool = Field(
        True, description="Also write DICOM objects into the study: see docs/explainer-dicom.md for which."
    )
    region_share: float = Field(
        0.5,
        gt=0.0,
        lt=1.0,
        description="The SEG holds what lies at least this share of the way from the map's mean to its greatest value.",
    )
    studies_at_once: PositiveInt = Field(
        2, description="Studies under way at once; their masked images share batches. More than partitions is idle."
    )
    decode_workers: NonNegativeInt = Field(
        1, description="Worker processes that decode the frames. 0: decode in the service itself."
    )
    decode_timeout_s: PositiveFloat = Field(
        30.0, description="Longest decode of one frame; then its worker is replaced and the frame is undecodable."
    )
    decode_memory_bytes: NonNegativeInt = Field(
        4 * 1024**3, description="Address space that a decode worker may take beyond its start's; 0: no limit."
    )
    stuck_after_s: PositiveFloat = Field(
        600.0, description="With a map under way and no forward pass finished for this long, /livez fails."
    )


class ExplainerSettings(SimilisSettings):
    """Everything the explainer reads from the environment."""

    vision: VisionSettings = VisionSettings()
    delivery: DeliverySection = DeliverySection()
    explainer: ExplainerSection = ExplainerSection()
