"""Deterministic UIDs, numbers and dates: the same diagnosis, frame, model and mode give the same objects.

UIDs are UUID-derived (PS3.5 section B.2). What an object says and may change between two runs on the same frame
is in its UID: the diagnosis (its event id stands for study, revision, task, backbone, head and rules), class,
method, mode, seed, parameters, reliability and the version of the software. The values of the map are not: two
machines may round differently, and still it is the same result.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Final
from uuid import uuid5

from pydicom import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from services.explainer.dicom_results.facts import ExplainedFrame
from shared.events import ResultKind
from shared.ids import NAMESPACE

RECIPE_VERSION: Final = 1
"""Part of every UID: raise it when what these modules write changes."""

IMPLEMENTATION_CLASS_UID: Final = UID(f"2.25.{uuid5(NAMESPACE, 'implementation').int}")
IMPLEMENTATION_VERSION_NAME: Final = "SIMILIS"
DEVICE_UID: Final = UID(f"2.25.{uuid5(NAMESPACE, 'explainer').int}")


SERIES_NUMBERS: Final = {kind: 9701 + index for index, kind in enumerate(ResultKind)}
"""Each kind has a series of its own, behind those of any scanner."""


def derived_uid(*facts: object) -> UID:
    """A UID made of `facts` alone."""
    return UID(f"2.25.{uuid5(NAMESPACE, '|'.join(map(str, ('dicom-result', RECIPE_VERSION, *facts)))).int}")


def series_uid(facts: ExplainedFrame, kind: ResultKind) -> UID:
    """Of the series that all frames of this diagnosis share. Its description says whether its maps are reliable."""
    shared = (facts.diagnosis_event_id, facts.method, facts.mode, facts.software_version)
    return derived_uid(*shared, kind, facts.reliability)


def instance_uid(facts: ExplainedFrame, source: Dataset, kind: ResultKind, *more: object) -> UID:
    """Of one object; `more` is what else it is made by."""
    frame = (source.StudyInstanceUID, source.SOPInstanceUID, facts.frame_number)
    model = (facts.backbone_id, facts.head_id, *(f"{name}={facts.hashes[name]}" for name in sorted(facts.hashes)))
    map_of = (facts.label, facts.method, facts.mode, facts.seed, facts.reliability, facts.software_version)
    settings = json.dumps(dict(facts.parameters), sort_keys=True, default=str)
    return derived_uid(facts.diagnosis_event_id, *frame, *model, *map_of, settings, kind, *more)


def local_time(moment: datetime, source: Dataset) -> tuple[DA, TM]:
    """Date and time in the source's own time zone (0008,0201), in UTC where it names none.

    The offset holds for every date in an object (PS3.3 C.12.1.1.8), so the study's own must not be changed.
    """
    there = moment.astimezone(_zone(source.get("TimezoneOffsetFromUTC")))
    return DA(there.date()), TM(f"{there:%H%M%S}.{there.microsecond:06}")


def _zone(offset: object) -> timezone:
    value = str(offset or "")
    if len(value) == 5 and value[0] in "+-" and value[1:].isdigit() and int(value[3:]) < 60 and int(value[1:3]) < 24:
        away = timedelta(hours=int(value[1:3]), minutes=int(value[3:]))
        return timezone(-away if value[0] == "-" else away)
    return timezone(timedelta(0))
