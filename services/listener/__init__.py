"""Listener: receives DICOM objects, keeps every acknowledged one, and announces each complete study.

    C-STORE (Server, Association) ─┐
    STOW-RS (StowDoor) ────────────┴▶ StoreObject ─▶ Journal ─▶ Success
                                         │
                                         ▼
               OpenStudies ─▶ Completion ─▶ PublishStudy ─▶ archive, StudyReceived ─▶ Journal.mark_published

An object is a file in the journal, durable, before its sender gets Success. A study closes after a
quiet period in which no open association carries it. Its objects and then its manifest go to the
archive, StudyReceived goes to the broker, and only then is the revision marked as published and
its journal files removed. The manifest is the point of no return of a revision: after a crash the
one that stands in the archive is announced again, never rewritten. Objects that come later make
the next revision.
"""
