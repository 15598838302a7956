"""What came of an association, for the audit log."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.listener.answers import Answer, Outcome
from services.listener.store import Reception


@dataclass(slots=True)
class Tally:
    """Who it was with, how it ended, and its objects by study, patient's pseudonym, SOP class and outcome."""

    calling_ae_title: str = ""
    called_ae_title: str = ""
    end: str = "closed"
    reject: str = ""
    objects: dict[tuple[str, str, str, Outcome], int] = field(default_factory=dict)

    def count(self, reception: Reception, answer: Answer) -> None:
        """Note one object's answer. Its study is known only if its header could be read."""
        header = reception.header
        key = (
            header.study_instance_uid if header is not None else "",
            header.patient_pseudonym if header is not None else "",
            reception.request.sop_class_uid,
            answer.outcome,
        )
        self.objects[key] = self.objects.get(key, 0) + 1
