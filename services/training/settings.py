"""Settings of training: the shared sections that it reads."""

from __future__ import annotations

from shared.settings import SimilisSettings, VisionSettings


class TrainSettings(SimilisSettings):
    """The backbone, the tasks' folder, the archive."""

    vision: VisionSettings = VisionSettings()
