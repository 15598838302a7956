"""Settings of training: the shared sections that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.settings import SimilisSettings, VisionSettings

DEFAULT_TASKS: Final = Path("similis-data/tasks")


class TrainSettings(SimilisSettings):
    """The backbone, the tasks' folder, the archive."""

    vision: VisionSettings = VisionSettings()

    def tasks_dir(self, given: Path | None = None) -> Path:
        """The folder of tasks that every command uses: the given one, else the configured one, else the usual one."""
        return given or self.vision.tasks_dir or DEFAULT_TASKS
