"""Routing rules: what happens to an object, by where it comes from and what kind it is.

The first rule whose conditions all hold decides; if none does, the default. No condition sees who
the patient is. `rules_file` reads them from YAML; docs/listener-rules.md is the format.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from services.listener.answers import Answer, Outcome
from shared.addresses import Address, Network, normal_address

NOT_AUTHORIZED: Final = 0x0124
# PS3.4 table B.2-1 and PS3.7 annex C: failures that a rule may answer with.
REFUSALS: Final = MappingProxyType(
    {
        NOT_AUTHORIZED: "Refused: Not authorized",
        0x0122: "Refused: SOP Class not supported",
        0xA700: "Refused: Out of resources",
        0xA900: "Error: Data set does not match SOP Class",
        0xC000: "Error: Cannot understand",
    }
)
DEFAULT: Final = "default"
_CACHED: Final = 4096


class Action(StrEnum):
    """What happens to an object."""

    ACCEPT = "accept"
    DROP = "drop"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to an object, by which rule (or `default`) in which line of the file (0: none says so)."""

    action: Action
    rule: str = DEFAULT
    line: int = 0
    refusal: int = NOT_AUTHORIZED

    @property
    def status(self) -> int:
        """The DIMSE status of the C-STORE response if nothing else is wrong with the object."""
        return self.refusal if self.action is Action.REFUSE else 0x0000

    @property
    def answer(self) -> Answer | None:
        """The answer to an object that is not kept; None if it is to be kept."""
        if self.action is Action.ACCEPT:
            return None
        if self.action is Action.DROP:
            return Answer(Outcome.DROPPED)
        comment = "Refused by default" if self.rule == DEFAULT else f"Refused by rule {self.rule}"
        return Answer(Outcome.REFUSED, comment, rule_status=self.refusal)


class Facts(NamedTuple):
    """What a rule may look at: the field names are the file's condition names.

    `modality` and `body_part` are defined terms as in `ObjectHeader`.
    """

    calling_ae: str
    called_ae: str
    peer: str
    modality: str
    sop_class: str
    transfer_syntax: str
    body_part: str | None = None


class Condition(Protocol):
    """One condition of a rule."""

    def matches(self, value: object) -> bool:
        """Whether one of the condition's values is `value` or covers it."""


class AnyText:
    """Texts, exact or with `*` and `?`; case counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        texts = tuple(texts)
        self._exact = frozenset(texts)
        # Translated without backtracking; brackets are no character classes here.
        self._patterns = tuple(
            re.compile(fnmatch.translate(text.replace("[", "[[]"))).match
            for text in texts
            if "*" in text or "?" in text
        )

    def matches(self, value: object) -> bool:
        """Whether `value` is one of the texts or fits one of the patterns."""
        if value in self._exact:
            return True
        if isinstance(value, str):
            for match in self._patterns:  # half the time of any()
                if match(value):
                    return True
        return False


@dataclass(frozen=True, slots=True)
class AnyNetwork:
    """IP networks."""

    networks: Sequence[Network]

    def matches(self, value: object) -> bool:
        """Whether `value`, an IP address, is in one of the networks."""
        if isinstance(value, Address):
            for network in self.networks:
                if value in network:
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Rule:
    """Its decision holds for an object that meets every condition; conditions are by field name of `Facts`."""

    decision: Decision
    conditions: MappingProxyType[str, Condition]


class Rules:
    """Rules in their order. Safe for threads."""

    def __init__(self, rules: Iterable[Rule] = (), default: Decision = Decision(Action.ACCEPT)) -> None:
        self._rules = tuple(
            (rule.decision, tuple((Facts._fields.index(name), one.matches) for name, one in rule.conditions.items()))
            for rule in rules
        )
        self._default = default
        # A sender's objects differ in few of these facts. Bounded: a sender chooses its AE title freely.
        self._cached = functools.lru_cache(_CACHED)(self._first_match)

    def decide(self, facts: Facts) -> Decision:
        """The decision of the first rule whose conditions all hold, or the default."""
        return self._cached(facts)

    def decisions(self) -> tuple[Decision, ...]:
        """Every decision that can be made, the default last."""
        return (*(decision for decision, _ in self._rules), self._default)

    def _first_match(self, facts: Facts) -> Decision:
        # Spaces around an AE title count for nothing: PS3.5 section 6.2.
        values = (facts.calling_ae.strip(" "), facts.called_ae.strip(" "), normal_address(facts.peer), *facts[3:])
        for decision, conditions in self._rules:
            for index, matches in conditions:
                if not matches(values[index]):
                    break
            else:
                return decision
        return self._default


@dataclass(frozen=True, slots=True)
class StudyTimes:
    """When studies of some calling AE titles are complete; None leaves the setting's value."""

    calling_ae: AnyText
    quiet_s: float | None
    max_age_s: float | None


@dataclass(frozen=True, slots=True)
class CompletionRules:
    """Exceptions from `study_quiet_s` and `study_max_age_s` by calling AE title."""

    times: tuple[StudyTimes, ...] = ()

    def for_ae(self, ae_title: str) -> tuple[float | None, float | None]:
        """Quiet time and greatest age, in seconds, of the first entry that fits; None where the setting holds."""
        title = ae_title.strip(" ")
        for one in self.times:
            if one.calling_ae.matches(title):
                return one.quiet_s, one.max_age_s
        return None, None


@dataclass(frozen=True, slots=True)
class Routing:
    """All that a rules file says. Without a file: everything is accepted, and the settings hold."""

    rules: Rules = field(default_factory=Rules)
    completion: CompletionRules = CompletionRules()
