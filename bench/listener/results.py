"""What is measured and kept: plan, machine, and every raw run, as JSON. No path or host name of a machine is in it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

FORMAT: Final = 1


class Work(StrEnum):
    """Kinds of measurement."""

    THROUGHPUT = "throughput"
    DEFAULT_SENDERS = "default-senders"
    SETUP = "setup"
    LARGE_OBJECT = "large-object"
    IDLE = "idle"


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Plan(_Kept):
    """How much is done of each work."""

    work: tuple[Work, ...] = tuple(Work)
    receivers: tuple[str, ...] = ("similis", "orthanc", "storescp")
    associations: tuple[PositiveInt, ...] = (1, 4, 8)
    objects: PositiveInt = 1_000
    repeats: PositiveInt = 5
    other_repeats: PositiveInt = 3
    """Of everything but throughput."""
    default_sender_objects: PositiveInt = 200
    """Fewer, since two DCMTK peers that wait for each other's acknowledgements do 20 objects a second."""
    setup_associations: PositiveInt = 200
    large_object_bytes: PositiveInt = 1_000_000_000
    idle_associations: PositiveInt = 200
    idle_s: PositiveFloat = 5.0
    timeout_s: PositiveFloat = 300.0
    """Longest for one run's senders."""


class Machine(_Kept):
    """Where it was measured."""

    cpu: str
    cores: PositiveInt
    memory_bytes: PositiveInt
    kernel: str
    file_system: str
    python: str


class ReceiverFound(_Kept):
    """A receiver that took part."""

    name: str
    title: str
    version: str


class Run(_Kept):
    """What every run has. Runs of one block followed each other, and are compared with each other."""

    block: NonNegativeInt
    receiver: str


class DiskProbe(_Kept):
    """Write 0.5 MB, fsync, rename, fsync the folder: milliseconds, before a block."""

    block: NonNegativeInt
    milliseconds: tuple[PositiveFloat, ...]


class StoreRun(Run):
    """The pool of CT slices, over several associations at a time."""

    no_delay: bool
    """TCP_NODELAY=1 for senders and receiver; otherwise all as shipped."""
    associations: PositiveInt
    objects: PositiveInt
    stored: NonNegativeInt
    wall_s: PositiveFloat
    """From the first sender's start to the last one's end."""
    objects_per_s: PositiveFloat
    receiver_cpu_ms_per_object: NonNegativeFloat
    sender_cpu_ms_per_object: NonNegativeFloat
    peak_rss_bytes: NonNegativeInt
    """All processes of the receiver together, shared pages counted in each."""


class SetupRun(Run):
    """One association for each small object."""

    associations: PositiveInt
    stored: NonNegativeInt
    wall_s: PositiveFloat
    receiver_cpu_ms_per_association: NonNegativeFloat


class LargeObjectRun(Run):
    """One large multi-frame object."""

    size_bytes: PositiveInt
    stored: NonNegativeInt
    wall_s: PositiveFloat
    receiver_cpu_s: NonNegativeFloat
    peak_rss_growth_bytes: int


class IdleRun(Run):
    """Associations that say nothing."""

    associations: PositiveInt
    """Wished for."""
    established: NonNegativeInt
    """Accepted, and still open at the end."""
    setup_cpu_ms_per_association: NonNegativeFloat
    pss_growth_bytes: int
    """Of all processes; a page that several share counts once."""
    rss_growth_bytes: int
    """Of all processes; a page that several share counts in each."""
    cpu_percent_before: NonNegativeFloat
    """Of one core, without associations."""
    cpu_percent: NonNegativeFloat


class Failure(Run):
    """A run that did not do what it should have; there are no figures of it."""

    work: Work
    reason: str


class Results(_Kept):
    """Everything of one benchmark."""

    format: int = FORMAT
    made_at: str
    duration_s: PositiveFloat
    commit: str | None
    """Of the Similis that was measured; None: not a checkout."""
    commit_is_modified: bool
    machine: Machine
    plan: Plan
    receivers: tuple[ReceiverFound, ...]
    skipped: dict[str, str]
    """Receivers that are not installed, with the reason."""
    disk_probes: tuple[DiskProbe, ...] = ()
    stores: tuple[StoreRun, ...] = ()
    setups: tuple[SetupRun, ...] = ()
    large_objects: tuple[LargeObjectRun, ...] = ()
    idles: tuple[IdleRun, ...] = ()
    failures: tuple[Failure, ...] = ()
