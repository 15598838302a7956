"""Deterministic UIDs, numbers and dates: the same diagnosis, frame, model and mode give the same objects.

UIDs are UUID-derived (PS3.5 section B.2), from what goes into a map: the diagnosis (its event id stands for study,
revision, task, backbone, head and rules), request, frame and its rank, class, method, mode, variant, seed, and the
version of the software. What comes out is in none: two machines may round differently, and still it is the same
result. The one outcome that is there is reliability. It is in the description of a whole series; and a PACS that has
an object ignores another of the same UID, so a map found unreliable later would stay there without its flag.
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

RECIPE_VERSION: Final = 2
"""Part of every UID: raise it when what these modules write changes."""

IMPLEMENTATION_CLASS_UID: Final = UID(f"2.25.{uuid5(NAMESPACE, 'implementation').int}")
IMPLEMENTATION_VERSION_NAME: Final = "SIMILIS"
DEVICE_UID: Final = UID(f"2.25.{uuid5(NAMESPACE, 'explainer').int}")


SERIES_NUMBERS: Final = {kind: 9701 + index for index, kind in enumerate(ResultKind)}
"""Each kind has a series of its own, behind those of any scanner."""


def derived_uid(*facts: object) -> UID:
    """A UID made of `facts` alone."""
    # As JSON no text of one fact can pass for another's.
    recipe = json.dumps(["dicom-result", RECIPE_VERSION, *map(str, facts)])
    return UID(f"2.25.{uuid5(NAMESPACE, recipe).int}")


def series_uid(facts: ExplainedFrame, kind: ResultKind) -> UID:
    """Of the series that all frames of this diagnosis, or of this request, share."""
    made_by = (facts.method, facts.mode, facts.variant, facts.software_version)
    return derived_uid("series", facts.diagnosis_event_id, facts.request_id, *made_by, kind, facts.reliability)


def instance_uid(facts: ExplainedFrame, source: Dataset, kind: ResultKind, *more: object) -> UID:
    """Of one object; `more` is what else it is made by."""
    asked = (facts.diagnosis_event_id, facts.request_id)
    frame = (source.StudyInstanceUID, source.SOPInstanceUID, facts.frame_number, facts.rank)
    model = (facts.backbone_id, facts.head_id, sorted(facts.hashes.items()))
    map_of = (facts.label, facts.method, facts.mode, facts.variant, facts.seed, facts.software_version)
    return derived_uid("instance", *asked, *frame, *model, *map_of, facts.reliability, kind, *more)


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
