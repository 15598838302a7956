"""Labels: what people say that a study shows, kept in the archive for training. Research use only.

labels/<study>/<task>/<target>/<sequence>-<time>-<id>.json      LabelRecord

A label is given to a study, or to one series, SOP instance or frame of it: its target. Each time it is given, given
anew or withdrawn, one more record is written; none is ever written over. The last one of a target counts.

    rules ─▶ store ─▶ archive          what may be labelled; what stands; keys and records
"""

from shared.labels.errors import (
    LabelRefusedError,
    MixedPatientsError,
    NotTakenError,
    TooManyLabelsError,
    UnknownClassError,
    UnknownFrameError,
    UnknownInstanceError,
    UnknownSeriesError,
)
from shared.labels.keys import LabelKey, label_key
from shared.labels.record import COMMENT_MAX, Comment, LabelRecord, LabelTarget
from shared.labels.rules import checked_target
from shared.labels.store import LabelStore, place_of

__all__ = [
    "COMMENT_MAX",
    "Comment",
    "LabelKey",
    "LabelRecord",
    "LabelRefusedError",
    "LabelStore",
    "LabelTarget",
    "MixedPatientsError",
    "NotTakenError",
    "TooManyLabelsError",
    "UnknownClassError",
    "UnknownFrameError",
    "UnknownInstanceError",
    "UnknownSeriesError",
    "checked_target",
    "label_key",
    "place_of",
]
