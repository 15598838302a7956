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
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import ValidationError

from services.embedder import metrics
from services.embedder.batches import SharedBatches
from services.embedder.compose_event import Embedded, compose, rules_of, timed
from services.embedder.derived_points import DerivedIndexes
from services.embedder.diagnosed import newest_diagnosed
from services.embedder.encode import EncodedStudy, encode_study
from services.embedder.judge import Verdict, judge
from services.embedder.points import foremost, holds_revision, points_of, replace_points
from services.embedder.ports import ContestedPointsError, Encoder
from services.embedder.select_frames import select_frames, tags_of
from services.embedder.study_objects import StudyObjects
from services.embedder.survey import survey_study
from shared.archive import Archive, diagnosis_key
from shared.errors import ArchiveObjectCorruptError, ArchiveObjectMissingError, UndecodablePixelsError
from shared.events import NO_TASK, Decision, StudyDiagnosed, StudyReceived, now
from shared.manifest import StudyManifest
from shared.own_results import is_own_result, may_be_own_result
from shared.pixels import PixelLimits
from shared.pixels.pool_frames import DecodeInProcess, FrameDecoder
from shared.vector_index.port import VectorIndex
from shared.vision.frame_policy import FramesPolicy
from shared.vision.tasks import Task

log = logging.getLogger(__name__)

# Times that a study's points are looked at before the record is tried again later.
SETTLE_ROUNDS: Final = 4


def _no_progress() -> None:
    return


@dataclass(frozen=True, slots=True)
class EmbedStudy:
    """Embeds and judges one study; safe to repeat, and for several studies at once. Blocks for seconds to minutes.

    Attributes:
        tasks: The installed tasks.
        max_frames_per_series: Frames of a series that the index takes, evenly; tasks may take others.
        on_progress: Called often while work goes on; what it raises ends the work.
        decoder: None: decodes in this thread.
        batches: Shared with other calls; None: each call fills its own, and calls must not overlap.
        derived: Where means, task spaces and regions go; None: only frames are indexed.
        follows_any: Its points carry another backbone's diagnoses where it has none itself: see `second_backbone`.
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
    decoder: FrameDecoder | None = None
    batches: SharedBatches | None = None
    derived: DerivedIndexes | None = None
    follows_any: bool = False

    def __call__(self, received: StudyReceived) -> tuple[StudyDiagnosed, ...]:
        """The study's diagnoses, stored in the archive, its points in the index.

        None of a revision that adds nothing but results of Similis itself, sent back by a PACS: the earlier revision's
        diagnoses stand. A redelivered event whose diagnoses and points are there gives the stored diagnoses.

        Raises:
            ArchiveObjectMissingError: the manifest or one of its objects is not in the archive.
            ArchiveObjectCorruptError: the manifest, or an object, is not what was archived.
            UndecodablePixelsError: the study has images, and none could be decoded.
            InvalidVectorError: the model gave a vector that cannot be stored.
            ArchiveUnavailableError, IndexUnavailableError, ContestedPointsError: try again later.
        """
        started = time.perf_counter()
        manifest = self._manifest(received)
        if manifest.revision > 1 and self._adds_only_own_results(manifest):
            metrics.OWN_RESULTS.inc()
            log.info("revision %d adds only results of Similis: nothing is judged again", manifest.revision)
            return ()
        takers = self._takers(manifest)
        if stored := self._stored(received, takers):
            metrics.REPEATED.inc()
            self.settle(manifest.study_instance_uid)
            return stored
        embedded = self._embed(manifest, takers)
        judging = time.perf_counter()
        verdicts = self._judge(received, takers, embedded)
        judge_s = time.perf_counter() - judging
        metrics.STAGE_SECONDS.labels("judge").observe(judge_s)
        events = tuple(
            compose(
                received,
                task,
                verdict,
                embedded,
                event_id=self._event_id(received, task),
                occurred_at=self.clock(),
                backbone_id=self.encoder.id,
                max_listed=self.max_listed_skips,
            )
            for task, verdict in zip(takers or (None,), verdicts, strict=True)
        )
        index_s = None
        if not self._is_superseded(manifest):
            with metrics.STAGE_SECONDS.labels("index").time():
                index_s = self._replace(manifest, embedded.encoded, events)
        events = tuple(timed(event, embedded, judge_s=judge_s, index_s=index_s, started=started) for event in events)
        with metrics.STAGE_SECONDS.labels("archive").time():
            for event in events:
                key = diagnosis_key(event.study_instance_uid, event.revision, event.task)
                self.archive.put(key, event.model_dump_json(indent=2).encode())
        self.settle(manifest.study_instance_uid)
        _count(events, embedded.encoded, time.perf_counter() - started)
        return events

    def close(self) -> None:
        """End the decoder's and the model's processes and threads, and what waits for them."""
        if self.batches is not None:
            self.batches.close()
        if self.decoder is not None:
            self.decoder.close()

    def _manifest(self, received: StudyReceived | StudyDiagnosed) -> StudyManifest:
        try:
            manifest = StudyManifest.model_validate_json(self.archive.get(received.manifest_key))
        except ValidationError as error:
            raise ArchiveObjectCorruptError(f"{received.manifest_key} is not a manifest") from error
        if (manifest.study_instance_uid, manifest.revision) != (received.study_instance_uid, received.revision):
            raise ArchiveObjectCorruptError(f"{received.manifest_key} is not the manifest of this event's study")
        return manifest

    def _stored(self, received: StudyReceived, takers: Sequence[Task]) -> tuple[StudyDiagnosed, ...]:
        """The archived diagnoses, if all are there, made by these models and the tasks' present rules."""
        found = []
        for task in takers or (None,):
            name = NO_TASK if task is None else task.name
            try:
                data = self.archive.get(diagnosis_key(received.study_instance_uid, received.revision, name))
                event = StudyDiagnosed.model_validate_json(data)
            except (ArchiveObjectMissingError, ValidationError):
                return ()
            if event.event_id != self._event_id(received, task):
                return ()
            found.append(event)
        return tuple(found)

    def _embed(self, manifest: StudyManifest, takers: Sequence[Task]) -> Embedded:
        started = time.perf_counter()
        objects = StudyObjects(self.archive)
        with metrics.STAGE_SECONDS.labels("survey").time():
            survey = survey_study(manifest, objects, self.limits, self.on_progress, tags_of(takers))
        survey_s = time.perf_counter() - started
        selection = select_frames(survey.series, takers, FramesPolicy(max=self.max_frames_per_series))
        decoder = self.decoder or DecodeInProcess(self.encoder.input_size_px, self.limits)
        with contextlib.nullcontext(self.batches) if self.batches else SharedBatches(self.encoder) as batches:
            encoded = encode_study(
                selection.chosen,
                objects,
                decoder,
                batches,
                self.on_progress,
                {task.name: task.head.read for task in takers if task.head.backbone_id == self.encoder.id},
                self.derived.regions.grid if self.derived and self.derived.regions else None,
            )
        unread = [skip for skip in (*survey.skipped, *encoded.undecoded) if skip.reason != "not-an-image"]
        if unread and not encoded.frames:
            raise UndecodablePixelsError(
                f"none of the study's {len(unread)} images could be decoded; the first: {unread[0].detail}"
            )
        return Embedded(survey, encoded, selection.judged, survey_s)

    def _adds_only_own_results(self, manifest: StudyManifest) -> bool:
        new = [instance for _, instance in manifest.instances() if instance.is_new]
        return bool(new) and all(
            may_be_own_result(instance.sop_class_uid) and is_own_result(self.archive.get(instance.archive_key))
            for instance in new
        )

    def _takers(self, manifest: StudyManifest) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if any(task.takes(*pair) for pair in manifest.instances()))

    def _replace(self, manifest: StudyManifest, encoded: EncodedStudy, events: Sequence[StudyDiagnosed]) -> float:
        """Make the study's points these; the seconds that it took."""
        started = time.perf_counter()
        if self.derived is not None:
            tasks, at_once = self._takers(manifest), self.upsert_points
            self.derived.replace(manifest, encoded, events, tasks, at_once=at_once, on_progress=self.on_progress)
        replace_points(
            self.index,
            manifest.study_instance_uid,
            points_of(manifest, encoded, foremost(events)),
            at_once=self.upsert_points,
            on_progress=self.on_progress,
        )
        return time.perf_counter() - started

    def _is_superseded(self, manifest: StudyManifest) -> bool:
        newest = self.newest(manifest.study_instance_uid)
        return bool(newest) and newest[0].revision > manifest.revision

    def newest(self, study_instance_uid: str) -> tuple[StudyDiagnosed, ...]:
        """The archived diagnoses that the study's points carry; none: it has no points."""
        return newest_diagnosed(self.archive, study_instance_uid, self.encoder.id, by_any=self.follows_any)

    def holds(self, newest: Sequence[StudyDiagnosed], frames: int) -> bool:
        """Whether the index has the points of these diagnoses' revision alone, and of so many frames at least."""
        study, revision = newest[0].study_instance_uid, newest[0].revision
        # Who judges replaces what a retrained head says; who follows must see that it changed.
        said = foremost(newest) if self.follows_any else None
        return holds_revision(self.index, study, revision, frames, said) and (
            self.derived is None or self.derived.hold_revision_only(study, revision)
        )

    def settle(self, study_instance_uid: str) -> bool:
        """Leave the newest diagnosed revision's points in the index; whether they had to be written.

        Called once a revision is archived. Safe to repeat, and beside others that write.

        Raises:
            ContestedPointsError: others kept writing; try again later.
            PipelineError: as from a call.
        """
        written = (0, 0)
        for _ in range(SETTLE_ROUNDS):
            newest = self.newest(study_instance_uid)
            if not newest:
                return False
            revision, expected = newest[0].revision, newest[0].frames_embedded
            if written[0] == revision:
                expected = written[1]
            if self.holds(newest, expected):
                return written[0] > 0
            manifest = self._manifest(newest[0])
            encoded = self._embed(manifest, self._takers(manifest)).encoded
            self._replace(manifest, encoded, newest)
            written = revision, len(encoded.frames)
        raise ContestedPointsError("other embedders keep writing this study's points")

    def _judge(self, received: StudyReceived, takers: Sequence[Task], embedded: Embedded) -> list[Verdict]:
        """One verdict for each task, or one if there is none."""
        frames, read = embedded.encoded.frames, embedded.encoded.read
        if not takers:
            what = ", ".join(received.modalities) or "no modality"
            taken = f"no installed task takes this study ({what})" if frames else "the study holds no image"
            return [Verdict(Decision.NO_TASK, taken)]
        return [
            judge(
                task,
                frames,
                read.get(task.name),
                judged=embedded.judged[task.name],
                mixed_patients=received.mixed_patients,
                max_evidence=self.max_evidence_frames,
            )
            for task in takers
        ]

    def _event_id(self, received: StudyReceived, task: Task | None) -> UUID:
        name, head_id, rules = (NO_TASK, None, None) if task is None else (task.name, task.head.id, rules_of(task))
        study, revision = received.study_instance_uid, received.revision
        return StudyDiagnosed.identify(study, revision, name, self.encoder.id, head_id, rules)


def _count(events: Sequence[StudyDiagnosed], encoded: EncodedStudy, seconds: float) -> None:
    metrics.STUDY_SECONDS.observe(seconds)
    for event in events:
        metrics.DIAGNOSES.labels(event.task, event.decision.value).inc()
    for skip in events[0].skipped:
        metrics.SKIPPED.labels(skip.reason).inc()
    for failed in encoded.failed:
        metrics.FRAMES_FAILED.labels(failed.reason).inc()
    for frame in encoded.frames:
        metrics.FRAMES.labels(frame.image.series.modality).inc()
