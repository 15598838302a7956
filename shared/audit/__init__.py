"""Audit logs: records of DICOM PS3.15 A.5 as lines of JSON, written so that nobody waits for the disk.

    service's messages ─▶ Recorder: queue ─▶ writer ─▶ LineFile
         Source, codes        Repeats └▶ full: lost, counted, told of

A service's own messages are made of `messages` and `codes`. No identity enters: a patient is a pseudonym or <none>.
"""

from shared.audit.messages import Message, Source
from shared.audit.recorder import Recorder, RecorderSection

__all__ = ["Message", "Recorder", "RecorderSection", "Source"]
