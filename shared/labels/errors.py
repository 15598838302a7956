"""Why a label is refused. No message repeats what was sent: it may hold identity.

LabelRefusedError
├── UnknownClassError       the task has no such class
├── UnknownSeriesError      the study has no such series
├── UnknownInstanceError    ... no such SOP instance, or not in that series
├── UnknownFrameError       ... the SOP instance no such frame
├── NotTakenError           the task judges nothing of what was to be labelled
├── MixedPatientsError      the study's objects name different patients
└── TooManyLabelsError      a limit on records is reached
"""

from __future__ import annotations

from shared.errors import SimilisError


class LabelRefusedError(SimilisError):
    """A label that cannot be given."""


class UnknownClassError(LabelRefusedError):
    """The task has no such class."""


class UnknownSeriesError(LabelRefusedError):
    """The study has no such series."""


class UnknownInstanceError(LabelRefusedError):
    """The study, or the series that was named, has no such SOP instance."""


class UnknownFrameError(LabelRefusedError):
    """The SOP instance has no such frame."""


class NotTakenError(LabelRefusedError):
    """The task takes nothing of what was to be labelled, by modality, body part or SOP class."""


class MixedPatientsError(LabelRefusedError):
    """The study's objects name different patients: nobody can say whose label it would be."""


class TooManyLabelsError(LabelRefusedError):
    """A limit on the number of records is reached."""
