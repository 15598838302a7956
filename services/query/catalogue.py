"""What the archive says about studies: manifests, diagnoses and maps, kept in memory.

The list is read anew when it is older than a setting allows. A refresh lists keys and reads only the
documents of studies whose keys changed, or that were last read longer than another setting ago: a document
may be overwritten under its key, by a diagnosis of another model. So thousands of
studies cost one walk over three folders.
One study asked for by its UID is always read from the archive itself, so it is never stale.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from services.query import metrics
from shared.archive import Archive, diagnosis_key, explanation_key, manifest_key
from shared.errors import ArchiveObjectMissingError
from shared.events import StudyDiagnosed, StudyExplained
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest

log = logging.getLogger(__name__)

# A walk that takes longer than this is not waited for: the request gets the list as it was.
QUICK_S: Final = 0.5
EXPLAINED: Final = "explained.json"
REQUESTED: Final = re.compile(r"request-[0-9a-f-]{36}\.explained\.json")

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class FrameAddress:
    """One frame of one study."""

    sop_instance_uid: str
    frame_number: int


@dataclass(frozen=True, slots=True)
class StudyKeys:
    """Which documents of a study the archive holds: `judged` by (revision, task), `explained` with the name, too."""

    revisions: frozenset[int]
    judged: frozenset[tuple[int, str]] = frozenset()
    explained: frozenset[tuple[int, str, str]] = frozenset()

    @property
    def judged_revision(self) -> int | None:
        """The newest revision that has a diagnosis."""
        return max((revision for revision, _ in self.judged), default=None)


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """One study as the list shows it. `diagnoses` are those of the newest revision that has any."""

    study_instance_uid: str
    revision: int
    received_at: datetime
    study_date: str | None
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    sexes: tuple[str, ...]
    age_bands: tuple[str, ...]
    series_count: int
    instance_count: int
    frame_count: int
    mixed_patients: bool
    diagnoses: tuple[StudyDiagnosed, ...]
    map_count: int
    cover: FrameAddress | None

    @property
    def order(self) -> tuple[datetime, str]:
        """Newest first when sorted in reverse; the UID breaks ties."""
        return self.received_at, self.study_instance_uid


@dataclass(frozen=True, slots=True)
class StudyFile:
    """Everything about one study, read just now."""

    record: StudyRecord
    manifest: StudyManifest
    explanations: tuple[StudyExplained, ...]

    def instance(self, sop_instance_uid: str) -> tuple[SeriesEntry, InstanceEntry] | None:
        """An instance with its series."""
        for series, instance in self.manifest.instances():
            if instance.sop_instance_uid == sop_instance_uid:
                return series, instance
        return None


@dataclass(slots=True)
class Catalogue:
    """The studies of an archive. Its methods may block; call them from a thread."""

    archive: Archive
    max_age_s: float
    recheck_s: float = 30.0
    clock: Callable[[], float] = time.monotonic
    _records: dict[str, tuple[StudyKeys, StudyRecord, float]] = field(default_factory=dict)
    _ordered: tuple[StudyRecord, ...] = ()
    _read_at: float | None = None
    _took_s: float = 0.0
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def studies(self) -> tuple[StudyRecord, ...]:
        """Every study that has a manifest, newest first; the same tuple until a study changes.

        Raises:
            ArchiveUnavailableError: the archive cannot be read.
        """
        if self._is_fresh():
            return self._ordered
        if self._read_at is None or self._took_s < QUICK_S:
            with self._reading:
                if not self._is_fresh():
                    self._refresh()
        elif self._reading.acquire(blocking=False):
            threading.Thread(target=self._refresh_and_release, name="catalogue", daemon=True).start()
        return self._ordered

    def study(self, study_instance_uid: str) -> StudyFile | None:
        """One study, read from the archive now; None if it has no readable manifest.

        Raises:
            ArchiveUnavailableError: the archive cannot be read.
        """
        folders = (f"{folder}/{study_instance_uid}" for folder in ("manifests", "diagnoses", "explanations"))
        keys = _keys_by_study(key for folder in folders for key in self.archive.list(folder)).get(study_instance_uid)
        return self._read(study_instance_uid, keys) if keys is not None else None

    @property
    def took_s(self) -> float:
        """How long the latest reading of the whole list took."""
        return self._took_s

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self.clock() - self._read_at <= self.max_age_s

    def _refresh_and_release(self) -> None:
        try:
            self._refresh()
        except Exception:
            log.exception("the list of studies could not be read anew")
        finally:
            self._reading.release()

    def _refresh(self) -> None:
        started = self.clock()
        folders = ("manifests", "diagnoses", "explanations")
        found = _keys_by_study(key for folder in folders for key in self.archive.list(folder))
        records: dict[str, tuple[StudyKeys, StudyRecord, float]] = {}
        for uid, keys in found.items():
            known = self._records.get(uid)
            if known is not None and known[0] == keys and started - known[2] <= self.recheck_s:
                records[uid] = known
            elif (file := self._read(uid, keys)) is not None:
                # What was read again without a change stays the same object.
                record = known[1] if known is not None and known[1] == file.record else file.record
                records[uid] = keys, record, started
        self._records = records
        ordered = tuple(
            sorted((record for _, record, _ in records.values()), key=lambda record: record.order, reverse=True)
        )
        if ordered != self._ordered:
            self._ordered = ordered
        self._took_s = self.clock() - started
        self._read_at = self.clock()
        metrics.CATALOGUE_STUDIES.set(len(self._ordered))
        metrics.CATALOGUE_SECONDS.observe(self._took_s)

    def _read(self, uid: str, keys: StudyKeys) -> StudyFile | None:
        revision = max(keys.revisions)
        manifest = self._document(manifest_key(uid, revision), StudyManifest)
        if manifest is None or manifest.study_instance_uid != uid:
            return None
        judged = keys.judged_revision
        diagnoses = tuple(
            diagnosis
            for at, task in sorted(keys.judged)
            if at == judged and (diagnosis := self._document(diagnosis_key(uid, at, task), StudyDiagnosed)) is not None
        )
        explanations = tuple(
            explained
            for at, task, name in sorted(keys.explained)
            if at == judged
            and (explained := self._document(explanation_key(uid, at, task, name), StudyExplained)) is not None
            and any(_explains(explained, diagnosis) for diagnosis in diagnoses)
        )
        record = _record(manifest, diagnoses, sum(len(explained.maps) for explained in explanations))
        return StudyFile(record, manifest, explanations)

    def _document(self, key: str, model: type[M]) -> M | None:
        """The document at `key`; None, and counted, if it is not what it should be."""
        try:
            return model.model_validate_json(self.archive.get(key))
        except ArchiveObjectMissingError:
            return None  # removed since it was listed
        except ValidationError as error:
            metrics.UNREADABLE.inc()
            log.warning("%s is not a %s: %d errors", key, model.__name__, error.error_count())
            return None


def _explains(explained: StudyExplained, diagnosis: StudyDiagnosed) -> bool:
    """Whether the maps are of this very diagnosis: an older model's may still lie beside it."""
    return (explained.task, explained.head_id, explained.backbone_id) == (
        diagnosis.task,
        diagnosis.head_id,
        diagnosis.backbone_id,
    ) and (explained.label == diagnosis.label or explained.request_id is not None)


def _keys_by_study(keys: Iterable[str]) -> Mapping[str, StudyKeys]:
    """The documents of each study that has a manifest."""
    revisions: dict[str, set[int]] = {}
    judged: dict[str, set[tuple[int, str]]] = {}
    explained: dict[str, set[tuple[int, str, str]]] = {}
    for key in keys:
        parts = key.split("/")
        match parts:
            case ["manifests", uid, name] if (revision := _number(name.removesuffix(".json"))) is not None:
                revisions.setdefault(uid, set()).add(revision)
            case ["diagnoses", uid, at, name] if (revision := _number(at)) is not None and name.endswith(".json"):
                judged.setdefault(uid, set()).add((revision, name.removesuffix(".json")))
            case ["explanations", uid, at, task, name] if (name == EXPLAINED or REQUESTED.fullmatch(name)) and (
                revision := _number(at)
            ) is not None:
                explained.setdefault(uid, set()).add((revision, task, name))
            case _:
                pass  # a map, a picture, or something that is not ours
    return {
        uid: StudyKeys(frozenset(found), frozenset(judged.get(uid, ())), frozenset(explained.get(uid, ())))
        for uid, found in revisions.items()
    }


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 and text[0] != "0" else None


def _record(manifest: StudyManifest, diagnoses: tuple[StudyDiagnosed, ...], map_count: int) -> StudyRecord:
    instances = [instance for _, instance in manifest.instances()]
    return StudyRecord(
        study_instance_uid=manifest.study_instance_uid,
        revision=manifest.revision,
        received_at=manifest.created_at,
        study_date=manifest.study_date,
        modalities=_distinct(series.modality for series in manifest.series),
        body_parts=_distinct(series.body_part for series in manifest.series),
        sexes=_distinct(instance.sex for instance in instances),
        age_bands=_distinct(instance.age_band for instance in instances),
        series_count=len(manifest.series),
        instance_count=len(instances),
        frame_count=sum(instance.number_of_frames for instance in instances),
        mixed_patients=manifest.mixed_patients,
        diagnoses=diagnoses,
        map_count=map_count,
        cover=_cover(manifest, diagnoses),
    )


def _cover(manifest: StudyManifest, diagnoses: tuple[StudyDiagnosed, ...]) -> FrameAddress | None:
    """The frame that stands for the study: the strongest evidence, else the middle image."""
    for diagnosis in diagnoses:
        for evidence in diagnosis.evidence:
            return FrameAddress(evidence.sop_instance_uid, evidence.frame_number)
    images = [instance for _, instance in manifest.instances() if instance.number_of_frames]
    if not images:
        return None
    middle = images[len(images) // 2]
    return FrameAddress(middle.sop_instance_uid, (middle.number_of_frames + 1) // 2)


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))
