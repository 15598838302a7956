"""Results of one explained study in an archive, one destination, and how deliveries stand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from uuid import UUID

from services.explainer.delivery import DeliveryOutbox, DeliverySection, Destination
from services.explainer.dicom_results import DicomResult, key_objects, source_frame
from shared.archive import Archive, explanation_key
from shared.events import ResultObject, StudyExplained
from tests.services.explainer.dicom_results.sources import ct, facts, results


@cache
def objects() -> tuple[DicomResult, ...]:
    """All five kinds."""
    ds = ct()
    return (*results(ds).values(), key_objects([source_frame(ds, 1)], facts()))


def stored_in(archive: Archive, event_id: str = "11111111-2222-5333-8444-777777777777") -> StudyExplained:
    """The event of a study whose results are archived."""
    study, referred = "1.2.3", []
    for result in objects():
        key = explanation_key(study, 1, "brain-mr", f"{result.sop_instance_uid}.dcm")
        archive.put(key, result.data)
        referred.append(
            ResultObject(
                kind=result.kind,
                sop_class_uid=result.sop_class_uid,
                series_instance_uid=result.series_instance_uid,
                sop_instance_uid=result.sop_instance_uid,
                key=key,
            )
        )
    return StudyExplained(
        event_id=UUID(event_id),
        occurred_at=datetime(2026, 1, 2, tzinfo=UTC),
        study_instance_uid=study,
        revision=1,
        task="brain-mr",
        label="glioma-like",
        maps=(),
        backbone_id="tiny@0",
        head_id="brain-mr@0",
        duration_s=1.0,
        objects=tuple(referred),
    )


def section(port: int, *, called: str = "PACS", **changed: object) -> DeliverySection:
    """One destination; patient for a test, no longer."""
    ours = {name: changed.pop(name) for name in ("commitment", "kinds", "tls") if name in changed}
    destination = Destination(name="pacs", host="127.0.0.1", port=port, called_ae_title=called, **ours)  # type: ignore[arg-type]
    values: dict[str, object] = {
        "retry_s": 0.1,
        "retry_max_s": 0.4,
        "association_wait_s": 2.0,
        "connect_timeout_s": 5.0,
    }
    return DeliverySection(destinations=(destination,), **(values | changed))  # type: ignore[arg-type]


Opened = Callable[[DeliverySection], DeliveryOutbox]


def states(archive: Archive) -> list[str]:
    """The last states of all deliveries: pending, done or dead."""
    found: dict[str, str] = {}
    for key in archive.list("deliveries"):
        if key.count(".") == 2:
            stem, state, _ = key.rsplit(".", 2)
            if state != "pending" or stem not in found:
                found[stem] = state
    return sorted(found.values())


def record(archive: Archive, state: str) -> bytes:
    [key] = [key for key in archive.list("deliveries") if key.endswith(f".{state}.json")]
    return archive.get(key)
