"""What the routes work with once the service is ready, and how they get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from services.query import problems
from services.query.audit import trail
from services.query.catalogue import Catalogue, StudyFile
from services.query.explanations import Explanations
from services.query.find_similar import FindSimilar
from services.query.pictures import Pictures
from services.query.ports import Encoder
from services.query.schema import TaskInfo
from services.query.settings import QuerySection
from services.query.spaces import Collections
from services.query.study_columns import CurrentColumns
from services.query.study_news import StudyNews
from services.query.work import Workers
from shared.archive import Archive
from shared.ids import Uid
from shared.labels import LabelStore
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.vision.tasks import TaskDefinition


@dataclass(frozen=True, slots=True)
class Parts:
    """The composition that `app.py` builds."""

    settings: QuerySection
    archive: Archive
    catalogue: Catalogue
    columns: CurrentColumns
    news: StudyNews
    encoder: Encoder
    find_similar: FindSimilar
    collections: Collections
    pictures: Pictures
    frame_reader: FrameReader
    limits: PixelLimits
    upload_limits: PixelLimits
    tasks: tuple[TaskInfo, ...]
    tasks_dir: Path | None
    labels: LabelStore
    definitions: Mapping[str, TaskDefinition]
    explanations: Explanations
    readers: Workers
    decoders: Workers
    encoders: Workers

    def check_writable(self) -> None:
        """Before anything is kept that a client sent.

        Raises:
            Problem: 403, the service is set up to take nothing.
        """
        if not self.settings.writable:
            raise problems.Problem(403, "read-only", "This service is set up to take neither labels nor requests.")

    async def study(self, study_instance_uid: Uid) -> StudyFile:
        """A study by its UID.

        Raises:
            Problem: 404, there is none.
        """
        file = await self.readers.run(lambda: self.catalogue.study(study_instance_uid))
        if file is None:
            raise problems.Problem(404, "unknown-study", "No study with this UID has been received.")
        trail.asked_for(study_instance_uid, file.manifest.patient_pseudonyms)
        return file


def _parts(request: Request) -> Parts:
    parts: Parts | None = request.app.state.parts
    if parts is None:
        raise problems.starting(request.app.state.retry_after_s)
    return parts


Ready = Annotated[Parts, Depends(_parts)]
