"""The step: a received study becomes points in the index and one diagnosis by each task that takes it.

Every revision embeds the whole study again, since a task judges the study and not its new objects.
Of several revisions, the newest *diagnosed* one has the points: a newer manifest alone may yet be dead-lettered,
and then the older points must stay. Each worker writes its points, archives its diagnoses, and only then looks
whether the index holds the newest diagnosed revision's points; if not it writes those. So of two workers at
once the one that looks last sees the other's diagnosis or its points: the newest revision wins in the end.

Points have deterministic ids, so they are replaced; points of frames that are no longer chosen are removed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import ValidationError

from services.embedder import metrics
from services.embedder.encode import EncodedStudy, encode_study
from services.embedder.judge import Verdict, judge
from services.embedder.points import foremost, holds_revision, points_of, replace_points
from services.embedder.ports import ContestedPointsError, Encoder
from services.embedder.survey import Survey, choose_frames, survey_study
from shared.archive import Archive, diagnosis_key
from shared.errors import ArchiveObjectCorruptError, ArchiveObjectMissingError, UndecodablePixelsError
from shared.events import NO_TASK, Decision, EvidenceFrame, SkippedInstance, StudyDiagnosed, StudyReceived, now
from shared.ids import point_id
from shared.manifest import StudyManifest
from shared.pixels import PixelLimits
from shared.vector_index.port import VectorIndex
from shared.vision.tasks import Task

# Times that a study's points are looked at before the record is tried again later.
SETTLE_ROUNDS: Final = 4


def _no_progress() -> None:
    return


@dataclass(frozen=True, slots=True)
class EmbedStudy:
    """Embeds and judges one study; safe to repeat. Blocks for seconds to minutes.

    Attributes:
        tasks: The installed tasks.
        max_frames_per_series: More frames than this are sampled evenly.
        on_progress: Called often while work goes on; what it raises ends the work.
    """

    archive: Archive
    encoder: Encoder
    tasks: tuple[Task, ...]
    index: VectorIndex
    limits: PixelLimits
    max_frames_per_series: int = 64
    upsert_points: int = 256
    max_evidence_frames: int = 8
    max_listed_skips: int = 500
    on_progress: Callable[[], None] = _no_progress
    clock: Callable[[], datetime] = now

    def __call__(self, received: StudyReceived) -> tuple[StudyDiagnosed, ...]:
        """The study's diagnoses, stored in the archive, its points in the index.

        A redelivered event whose diagnoses and points are there gives the stored diagnoses.

        Raises:
            ArchiveObjectMissingError: the manifest or one of its objects is not in the archive.
            ArchiveObjectCorruptError: the manifest, or an object, is not what was archived.
            UndecodablePixelsError: the study has images, and none could be decoded.
            InvalidVectorError: the model gave a vector that cannot be stored.
            ArchiveUnavailableError, IndexUnavailableError, ContestedPointsError: try again later.
        """
        started = time.perf_counter()
        manifest = self._manifest(received)
        takers = tuple(task for task in self.tasks if any(task.takes(*pair) for pair in manifest.instances()))
        if stored := self._stored(received, takers):
            metrics.REPEATED.inc()
            self._settle(manifest.study_instance_uid)
            return stored
        with metrics.STAGE_SECONDS.labels("survey").time():
            survey = survey_study(manifest, self.archive, self.limits, self.on_progress)
        encoded = self._encode(survey)
        events = self._diagnose(received, takers, survey, encoded, started)
        if not self._is_superseded(manifest):
            with metrics.STAGE_SECONDS.labels("index").time():
                replace_points(
                    self.index,
                    manifest.study_instance_uid,
                    points_of(manifest, encoded, foremost(events)),
                    at_once=self.upsert_points,
                    on_progress=self.on_progress,
                )
        with metrics.STAGE_SECONDS.labels("archive").time():
            for event in events:
                key = diagnosis_key(event.study_instance_uid, event.revision, event.task)
                self.archive.put(key, event.model_dump_json(indent=2).encode())
        self._settle(manifest.study_instance_uid)
        _count(events, encoded, time.perf_counter() - started)
        return events

    def _manifest(self, received: StudyReceived | StudyDiagnosed) -> StudyManifest:
        try:
            manifest = StudyManifest.model_validate_json(self.archive.get(received.manifest_key))
        except ValidationError as error:
            raise ArchiveObjectCorruptError(f"{received.manifest_key} is not a manifest") from error
        if (manifest.study_instance_uid, manifest.revision) != (received.study_instance_uid, received.revision):
            raise ArchiveObjectCorruptError(f"{received.manifest_key} is not the manifest of this event's study")
        return manifest

    def _stored(self, received: StudyReceived, takers: Sequence[Task]) -> tuple[StudyDiagnosed, ...]:
        """The archived diagnoses, if all are there for this model and the index still has their points."""
        found = []
        for task, head_id in _judges(takers):
            try:
                data = self.archive.get(diagnosis_key(received.study_instance_uid, received.revision, task))
                event = StudyDiagnosed.model_validate_json(data)
            except (ArchiveObjectMissingError, ValidationError):
                return ()
            if event.event_id != self._event_id(received, task, head_id):
                return ()
            found.append(event)
        return tuple(found)

    def _encode(self, survey: Survey) -> EncodedStudy:
        chosen = [choice for images in survey.series for choice in choose_frames(images, self.max_frames_per_series)]
        encoded = encode_study(chosen, self.archive, self.encoder, self.limits, self.on_progress)
        unread = [skip for skip in (*survey.skipped, *encoded.undecoded) if skip.reason != "not-an-image"]
        if unread and not encoded.frames:
            raise UndecodablePixelsError(
                f"none of the study's {len(unread)} images could be decoded; the first: {unread[0].detail}"
            )
        return encoded

    def _is_superseded(self, manifest: StudyManifest) -> bool:
        newest = self._newest(manifest.study_instance_uid)
        return bool(newest) and newest[0].revision > manifest.revision

    def _newest(self, study_instance_uid: str) -> tuple[StudyDiagnosed, ...]:
        """The diagnoses of the newest revision that this backbone embedded; another's points lie elsewhere."""
        by_revision: dict[int, list[str]] = {}
        for key in self.archive.list(f"diagnoses/{study_instance_uid}"):
            if (revision := key.split("/")[2]).isdigit():
                by_revision.setdefault(int(revision), []).append(key)
        for number in sorted(by_revision, reverse=True):
            found = []
            for key in by_revision[number]:
                with contextlib.suppress(ArchiveObjectMissingError, ValidationError):
                    found.append(StudyDiagnosed.model_validate_json(self.archive.get(key)))
            if ours := tuple(event for event in found if event.backbone_id == self.encoder.id):
                return ours
        return ()

    def _settle(self, study_instance_uid: str) -> None:
        """Leave the newest diagnosed revision's points in the index. Called once this revision is archived.

        Raises:
            ContestedPointsError: others kept writing; try again later.
        """
        written = (0, 0)
        for _ in range(SETTLE_ROUNDS):
            newest = self._newest(study_instance_uid)
            if not newest:
                return
            revision, expected = newest[0].revision, newest[0].frames_embedded
            if written[0] == revision:
                expected = written[1]
            if holds_revision(self.index, study_instance_uid, revision, expected):
                return
            manifest = self._manifest(newest[0])
            encoded = self._encode(survey_study(manifest, self.archive, self.limits, self.on_progress))
            replace_points(
                self.index,
                study_instance_uid,
                points_of(manifest, encoded, foremost(newest)),
                at_once=self.upsert_points,
                on_progress=self.on_progress,
            )
            written = revision, len(encoded.frames)
        raise ContestedPointsError("other embedders keep writing this study's points")

    def _diagnose(
        self,
        received: StudyReceived,
        takers: Sequence[Task],
        survey: Survey,
        encoded: EncodedStudy,
        started: float,
    ) -> tuple[StudyDiagnosed, ...]:
        joined = encoded.features.joined()
        if takers:
            verdicts = [
                judge(
                    task,
                    encoded.frames,
                    joined,
                    mixed_patients=received.mixed_patients,
                    max_evidence=self.max_evidence_frames,
                )
                for task in takers
            ]
        else:
            what = ", ".join(received.modalities) or "no modality"
            taken = f"no installed task takes this study ({what})" if encoded.frames else "the study holds no image"
            verdicts = [Verdict(Decision.NO_TASK, taken)]
        skipped = (*survey.skipped, *encoded.undecoded)
        return tuple(
            self._event(received, task, head_id, verdict, skipped, encoded, started)
            for (task, head_id), verdict in zip(_judges(takers), verdicts, strict=True)
        )

    def _event(
        self,
        received: StudyReceived,
        task: str,
        head_id: str | None,
        verdict: Verdict,
        skipped: Sequence[SkippedInstance],
        encoded: EncodedStudy,
        started: float,
    ) -> StudyDiagnosed:
        unlisted = len(skipped) - self.max_listed_skips
        return StudyDiagnosed(
            event_id=self._event_id(received, task, head_id),
            occurred_at=self.clock(),
            study_instance_uid=received.study_instance_uid,
            revision=received.revision,
            task=task,
            decision=verdict.decision,
            reason=verdict.reason if unlisted <= 0 else f"{verdict.reason}; {unlisted} more objects were skipped",
            label=verdict.label,
            confidence=verdict.confidence,
            classes=verdict.classes,
            evidence=tuple(self._evidence(encoded, *found) for found in verdict.evidence),
            frames_embedded=len(encoded.frames),
            skipped=tuple(skipped[: self.max_listed_skips]),
            partial=any(skip.reason != "not-an-image" for skip in skipped),
            mixed_patients=received.mixed_patients,
            modalities=received.modalities,
            manifest_key=received.manifest_key,
            backbone_id=self.encoder.id,
            head_id=head_id,
            duration_s=time.perf_counter() - started,
        )

    def _evidence(self, encoded: EncodedStudy, index: int, probability: float) -> EvidenceFrame:
        frame = encoded.frames[index]
        sop_instance_uid = frame.image.instance.sop_instance_uid
        return EvidenceFrame(
            series_instance_uid=frame.image.series.series_instance_uid,
            sop_instance_uid=sop_instance_uid,
            frame_number=frame.number,
            probability=probability,
            point_id=point_id(self.encoder.id, sop_instance_uid, frame.number),
        )

    def _event_id(self, received: StudyReceived, task: str, head_id: str | None) -> UUID:
        return StudyDiagnosed.identify(received.study_instance_uid, received.revision, task, self.encoder.id, head_id)


def _judges(takers: Sequence[Task]) -> list[tuple[str, str | None]]:
    """The tasks that a study's diagnoses name, with their heads' ids."""
    return [(task.name, task.head.id) for task in takers] or [(NO_TASK, None)]


def _count(events: Sequence[StudyDiagnosed], encoded: EncodedStudy, seconds: float) -> None:
    metrics.STUDY_SECONDS.observe(seconds)
    for event in events:
        metrics.DIAGNOSES.labels(event.task, event.decision.value).inc()
    for skip in events[0].skipped:
        metrics.SKIPPED.labels(skip.reason).inc()
    for frame in encoded.frames:
        metrics.FRAMES.labels(frame.image.series.modality).inc()
