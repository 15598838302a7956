"""What `similis evaluate retrieval` keeps beside a head: how often the nearest cases are of the query's class.

Read by the query service, which tells with it what a vote of the neighbours is worth. Research use only.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

RETRIEVAL_FILE: Final = "retrieval.json"
VISUAL: Final = "visual"
"""The space of the backbone's own class tokens; every other space bears its task's name."""

Gallery = Literal["training", "others"]
Disjoint = Literal["patient", "source"]
Level = Literal["study", "frame"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Frozen):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Averages(_Frozen):
    """A figure as a mean over queries (micro), and as a mean over the classes' means (macro)."""

    micro: Interval
    macro: Interval


class Measures(_Frozen):
    """How the ranking of a space meets the true classes.

    Attributes:
        p_at: Share of the nearest k that are of the query's class, by k ("1", "3", "5", "10").
        map_at_5: Mean average precision: the precisions at the ranks of the hits among the nearest five, summed and
            divided by five, or by the number of such cases in the gallery if it is smaller.
        mmv_at_5: Share of queries whose class has more of the five nearest than any other; a tie is not right.
    """

    p_at: dict[str, Averages]
    map_at_5: Averages
    mmv_at_5: Averages


class Chance(_Frozen):
    """The micro means of `Measures` if the same gallery is ranked at random."""

    p_at: float
    map_at_5: float
    mmv_at_5: float


class VoteBin(_Frozen):
    """Queries whose winning label had such a share of the labelled among the ten nearest studies.

    Attributes:
        share_from: Above this; the first bin begins at 0.
        share_to: Up to and with this.
        right: Share of them whose true class was the winning label.
        studies: How many.
        low: Of the 95 % interval (Wilson 1927).
        high: Likewise.
    """

    share_from: float = Field(ge=0, le=1)
    share_to: float = Field(ge=0, le=1)
    right: float = Field(ge=0, le=1)
    studies: int = Field(ge=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Likeness(_Frozen):
    """A share of the nearest studies, and what it is if the gallery is ranked at random."""

    found: Interval
    chance: float

    @property
    def lift(self) -> float | None:
        """How many times as often as by chance; None if it cannot happen by chance."""
        return self.found.value / self.chance if self.chance else None


class ShortcutAudit(_Frozen):
    """Whether the nearest are alike in what matters, or in what does not. Patient-disjoint, among other studies.

    Attributes:
        at: Of how many nearest studies these are shares.
        same_class: Of the query's class.
        same_source: Built on the query's source (anatomy, texture, laboratory, base image).
        same_class_other_source: What a search should find, told apart from the source.
        other_class_same_source: What a shortcut finds.
    """

    at: int
    same_class: Likeness
    same_source: Likeness
    same_class_other_source: Likeness
    other_class_same_source: Likeness


class ProtocolFigures(_Frozen):
    """One space under one protocol.

    Attributes:
        gallery: "training": the studies that the head was trained on; "others": the other test studies.
        disjoint: "patient": no study of the query's patient; "source": nor of its source, which training never saw.
        level: "study": the mean of the evidence frames, neighbours grouped by study; "frame": the strongest evidence
            frame, neighbours are frames of other studies.
        queries: Studies, none of which training saw.
        patients: Whose they are: the unit of the intervals.
        gallery_studies: The most that a query was compared with.
        measures: The figures.
        chance: Likewise, by chance.
        p_at_5_of: P@5 of the queries of each class, without an interval; a class without a query is left out.
    """

    gallery: Gallery
    disjoint: Disjoint
    level: Level
    queries: int
    patients: int
    gallery_studies: int
    measures: Measures
    chance: Chance
    p_at_5_of: dict[str, float] = {}


class SpaceFigures(_Frozen):
    """One space. The measures at the top are those of the report's `headline` protocol.

    Attributes:
        votes: What a vote of the ten nearest studies was worth, over all test studies, patient-disjoint, gallery
            "others"; the labels are those that the head gave the neighbours, as in the index. Empty bins are left out.
        ties: Queries without a winning label, or without a labelled neighbour; in no bin.
        shortcuts: Empty where sources are not known, or are all the same.
        protocols: All of them.
    """

    p_at: dict[str, Averages]
    map_at_5: Averages
    mmv_at_5: Averages
    votes: tuple[VoteBin, ...]
    ties: int
    shortcuts: tuple[ShortcutAudit, ...]
    protocols: tuple[ProtocolFigures, ...]

    @property
    def headline(self) -> ProtocolFigures:
        """The protocol whose measures stand at the top: the strictest one against the training studies."""
        return [one for one in self.protocols if one.gallery == "training" and one.level == "study"][-1]

    def vote(self, share: float) -> VoteBin | None:
        """What a winning share in (0, 1] was worth; None if no such vote was seen."""
        return next((one for one in self.votes if one.share_from < share <= one.share_to), None)


class RetrievalReport(_Frozen):
    """All of it.

    Attributes:
        notice: What the figures may be used for.
        phantom: Whether the images are simulated.
        headline: Which protocol stands at the top of each space, in words.
        spaces: "visual" and the task's own, by name.
        gain_p_at_5: Macro P@5 of the task's space minus that of the visual one, on the same queries of the headline.
        studies: Test studies, the queries.
        training_studies: In the gallery "training".
        sources: Of the test studies that training had too.
        sources_never_seen: Of the others.
        contrast: Of the phantoms' lesions; None for other images.
        precision: Of the backbone's arithmetic when it was measured.
        command: Makes the report again, without paths.
    """

    format: Literal["similis-retrieval-1"] = "similis-retrieval-1"
    notice: str
    task: str
    title: str
    phantom: bool
    head_id: str
    backbone_id: str
    precision: str
    labels: tuple[str, ...]
    headline: str
    spaces: dict[str, SpaceFigures]
    gain_p_at_5: Interval
    studies: int
    training_studies: int
    sources: tuple[str, ...]
    sources_never_seen: tuple[str, ...]
    contrast: float | None
    seed: int
    bootstraps: int
    command: str

    @classmethod
    def load(cls, folder: Path, *, head_id: str, backbone_id: str) -> RetrievalReport | None:
        """The report in a version's folder; None if there is none, or if it is of another head or backbone.

        Raises:
            ConfigurationError: it cannot be read.
        """
        path = folder / RETRIEVAL_FILE
        try:
            report = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigurationError(f"{path} is no report of retrieval: {error}") from error
        if (report.head_id, report.backbone_id) != (head_id, backbone_id):
            log.warning(
                "%s is left out: it was measured on %s with %s, not on %s with %s",
                path, report.head_id, report.backbone_id, head_id, backbone_id,
            )  # fmt: skip
            return None
        return report

    def write(self, folder: Path) -> Path:
        """Write `retrieval.json`; it is there as a whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RETRIEVAL_FILE
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return path
