"""The explainer's settings: SIMILIS_EXPLAINER__*, beside the shared sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from shared.settings import Section, SimilisSettings, VisionSettings


class ExplainerSection(Section):
    """ViT-CX and its pictures."""

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
        description="Least span of an overlay's colour scale above the frame's mean, as a probability: a map that "
        "rises less is not stretched to full colour.",
    )
    stuck_after_s: PositiveFloat = Field(
        600.0, description="With a map under way and no forward pass finished for this long, /livez fails."
    )


class ExplainerSettings(SimilisSettings):
    """Everything the explainer reads from the environment."""

    vision: VisionSettings = VisionSettings()
    explainer: ExplainerSection = ExplainerSection()
