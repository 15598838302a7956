"""The step that closes a study: objects and manifest to the archive, StudyReceived to the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from services.listener import fault_points, metrics
from services.listener.journal import Journal
from services.listener.kept import JournalObject
from services.listener.ports import Publisher
from services.listener.threads import in_thread
from shared import archive as archive_keys
from shared.archive import Archive
from shared.errors import ArchiveObjectCorruptError
from shared.events import StudyReceived, now
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.topics import STUDY_RECEIVED

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishStudy:
    """Publishes a study's next revision. Safe to repeat after a failure or crash at any point:

    - before the manifest is archived, everything starts again from the journal;
    - after it, that manifest is announced again: the same event id, the same content;
    - after the revision is marked as published, only journal files are left to remove.
    """

    journal: Journal
    archive: Archive
    publisher: Publisher
    slots: asyncio.Semaphore
    """Studies that are brought to the archive at a time. A broker that is away holds up none of them."""

    async def __call__(self, study: str) -> StudyManifest | None:
        """Publish the next revision of `study`; None if the journal has nothing new for one.

        Raises:
            TransientError: the archive or the broker is away; try again.
            OSError: the journal could not be read or written; try again.
        """
        async with self.slots:
            manifest = await in_thread(partial(self._archive, study))
        if manifest is None:
            return None
        await self.publisher.publish(STUDY_RECEIVED.name, announce(manifest))
        fault_points.reach("publish.announced")
        await in_thread(partial(self._finish, manifest))
        return manifest

    def _archive(self, study: str) -> StudyManifest | None:
        # Revisions are numbered by the journal, but the archive's manifest decides what is in one.
        self.journal.purge(study)
        revision = self.journal.published(study).revision + 1
        key = archive_keys.manifest_key(study, revision)
        if self.archive.exists(key):
            return StudyManifest.model_validate_json(self.archive.get(key))
        objects = self.journal.objects(study)
        if not objects:
            return None
        previous = None
        if revision > 1:
            previous_key = archive_keys.manifest_key(study, revision - 1)
            previous = StudyManifest.model_validate_json(self.archive.get(previous_key))
        self._copy(study, objects)
        manifest = build_manifest(study, revision, objects, previous)
        self.archive.put(key, manifest.model_dump_json(indent=1).encode())
        fault_points.reach("publish.manifest")
        return manifest

    def _copy(self, study: str, objects: Sequence[JournalObject]) -> None:
        """Bring the objects to the archive, and see that what arrived there is what was received."""
        self.archive.put_files((_instance_key(entry), self.journal.path(entry)) for entry in objects)
        fault_points.reach("publish.objects")
        try:
            for entry in objects:
                self.archive.verify(_instance_key(entry), entry.sha256, entry.size_bytes)
        except ArchiveObjectCorruptError:
            # Either copy may be the damaged one: the next try reads the journal's anew.
            self.journal.doubt(study)
            raise
        fault_points.reach("publish.verified")

    def _finish(self, manifest: StudyManifest) -> None:
        study = manifest.study_instance_uid
        objects = {entry.sop_instance_uid: entry.sha256 for _, entry in manifest.instances()}
        self.journal.mark_published(study, manifest.revision, objects)
        fault_points.reach("publish.marked")
        self.journal.purge(study)
        metrics.STUDIES_PUBLISHED.inc()
        if manifest.mixed_patients:
            metrics.MIXED_PATIENTS.inc()
            log.warning("study %s: its objects name different patients", study)


def build_manifest(
    study: str, revision: int, objects: Iterable[JournalObject], previous: StudyManifest | None
) -> StudyManifest:
    """The manifest of everything received so far: `previous` and, marked as new, `objects`."""
    # A series' modality and body part are those of the first object that came with them.
    kinds: dict[str, tuple[str, str | None]] = {}
    entries: list[tuple[str, InstanceEntry]] = []
    callers, study_date = set[str](), None
    if previous is not None:
        callers.update(previous.calling_ae_titles)
        study_date = previous.study_date
        for series in previous.series:
            kinds[series.series_instance_uid] = (series.modality, series.body_part)
            entries += [(series.series_instance_uid, _no_longer_new(entry)) for entry in series.instances]
    for received in objects:
        header = received.header
        callers.add(received.calling_ae_title)
        study_date = study_date or header.study_date
        modality, body_part = kinds.get(header.series_instance_uid, (header.modality, None))
        kinds[header.series_instance_uid] = (modality, body_part or header.body_part)
        entries.append((header.series_instance_uid, _new_entry(received)))
    entries.sort(key=lambda pair: (pair[0], pair[1].sop_instance_uid))
    pseudonyms = tuple(sorted({entry.patient_pseudonym for _, entry in entries}))
    return StudyManifest(
        study_instance_uid=study,
        revision=revision,
        created_at=now(),
        study_date=study_date,
        calling_ae_titles=tuple(sorted(callers)),
        patient_pseudonyms=pseudonyms,
        mixed_patients=len(pseudonyms) > 1,
        series=tuple(
            SeriesEntry(
                series_instance_uid=uid,
                modality=kinds[uid][0],
                body_part=kinds[uid][1],
                instances=tuple(entry for _, entry in group),
            )
            for uid, group in groupby(entries, key=lambda pair: pair[0])
        ),
    )


def announce(manifest: StudyManifest) -> StudyReceived:
    """The event that a manifest stands for: always the same one, also after a crash."""
    study, revision = manifest.study_instance_uid, manifest.revision
    entries = [entry for _, entry in manifest.instances()]
    return StudyReceived(
        event_id=StudyReceived.identify(study, revision),
        occurred_at=manifest.created_at,
        study_instance_uid=study,
        revision=revision,
        manifest_key=archive_keys.manifest_key(study, revision),
        patient_pseudonyms=manifest.patient_pseudonyms,
        mixed_patients=manifest.mixed_patients,
        modalities=tuple(sorted({series.modality for series in manifest.series})),
        instance_count=len(entries),
        new_instance_count=sum(entry.is_new for entry in entries),
        frame_count=sum(entry.number_of_frames for entry in entries),
    )


def _instance_key(entry: JournalObject) -> str:
    header = entry.header
    return archive_keys.instance_key(header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)


def _new_entry(received: JournalObject) -> InstanceEntry:
    header = received.header
    return InstanceEntry(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        archive_key=_instance_key(received),
        size_bytes=received.size_bytes,
        sha256=received.sha256,
        number_of_frames=header.number_of_frames,
        patient_pseudonym=header.patient_pseudonym,
        sex=header.sex,
        age_band=header.age_band,
        is_new=True,
    )


def _no_longer_new(entry: InstanceEntry) -> InstanceEntry:
    return entry.model_copy(update={"is_new": False})
