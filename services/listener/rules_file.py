"""Reads a rules file: YAML whose every mistake is reported at once as `file:line:column: what was expected`.

rules:
  - name: no screenshots             # letters, digits, spaces, _ . -; named in logs, and to the sender
    when:                            # all of these hold; a list means any of them
      calling_ae: [CT*, MR1]
      sop_class: SecondaryCaptureImageStorage
    then: drop                       # accept, drop or refuse
  - name: no reports
    when: {modality: [SR, KO]}
    then: refuse
    status: 0x0124                   # only with refuse
default: accept                      # what no rule matches
studies:
  - calling_ae: US*
    quiet_s: 120
    max_age_s: 7200
"""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode

from services.listener.rule_values import CONDITIONS, ae_titles
from services.listener.rules import (
    DEFAULT,
    NOT_AUTHORIZED,
    REFUSALS,
    Action,
    AnyText,
    CompletionRules,
    Decision,
    Routing,
    Rule,
    Rules,
    StudyTimes,
)
from services.listener.yaml_nodes import Problems, fields, hint, is_nothing, items, read_nodes, shown, text_of

_FILE_KEYS: Final = ("rules", "default", "studies")
_RULE_KEYS: Final = ("name", "when", "then", "status")
_STUDY_KEYS: Final = ("calling_ae", "quiet_s", "max_age_s")
_ACTIONS: Final = tuple(Action)
# Short enough for an Error Comment (0000,0902), and of its default repertoire.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_MAX_S: Final = 30 * 86_400.0


def load_rules(path: Path) -> Routing:
    """The rules in the file at `path`.

    Raises:
        ConfigurationError: the file cannot be read or says something else than it should; every
            problem has a line `file:line:column: text`.
    """
    root, problems = read_nodes(path)
    found = fields(root, _FILE_KEYS, "a rules file", problems)
    rules = _rules(found["rules"], problems) if "rules" in found else []
    default = Decision(Action.ACCEPT)
    if "default" in found:
        action = _action(found["default"], problems) or Action.ACCEPT
        default = Decision(action, DEFAULT, found["default"].start_mark.line + 1)
    times = (
        [_times(node, problems) for node in items(found["studies"], "studies", problems)] if "studies" in found else []
    )
    problems.check()
    return Routing(Rules(rules, default), CompletionRules(tuple(times)))


def _rules(node: Node, problems: Problems) -> list[Rule]:
    rules: list[Rule] = []
    lines: dict[str, int] = {}
    for one in items(node, "rules", problems):
        rule = _rule(one, problems)
        name, line = rule.decision.rule, rule.decision.line
        if name in lines:
            problems.add(one, f"two rules are called {name!r}; the first in line {lines[name]}")
        elif name:
            lines[name] = line
        rules.append(rule)
    return rules


def _rule(node: Node, problems: Problems) -> Rule:
    found = fields(node, _RULE_KEYS, "a rule", problems)
    if isinstance(node, MappingNode) and (missing := [key for key in _RULE_KEYS[:3] if key not in found]):
        problems.add(node, f"this rule has no {' and no '.join(missing)}: expected name, when and then")
    name = _name(found["name"], problems) if "name" in found else ""
    action = _action(found["then"], problems) if "then" in found else None
    refusal = NOT_AUTHORIZED
    if "status" in found:
        refusal = _refusal(found["status"], problems)
        if action in (Action.ACCEPT, Action.DROP):
            problems.add(found["status"], "'status' is allowed only with 'then: refuse'")
    conditions = {}
    if "when" in found:
        when = fields(found["when"], tuple(CONDITIONS), "conditions", problems)
        if isinstance(found["when"], MappingNode) and not found["when"].value:
            problems.add(found["when"], "expected at least one condition; for every object write calling_ae: '*'")
        conditions = {key: CONDITIONS[key](value, problems) for key, value in when.items()}
    decision = Decision(action or Action.ACCEPT, name, node.start_mark.line + 1, refusal)
    return Rule(decision, MappingProxyType(conditions))


def _name(node: Node, problems: Problems) -> str:
    what = "a name of 1 to 40 letters, digits, spaces and _ . -"
    name = text_of(node, what, problems)
    if name is None:
        return ""
    if not _NAME.fullmatch(name) or name == DEFAULT:
        problems.add(node, f"expected {what}, other than {DEFAULT!r}; found {shown(node)}")
    return name


def _action(node: Node, problems: Problems) -> Action | None:
    what = "accept, drop or refuse"
    text = text_of(node, what, problems)
    if text in _ACTIONS:
        return Action(text)
    if text is not None:
        problems.add(node, f"expected {what}, found {shown(node)}{hint(text, _ACTIONS)}")
    return None


def _refusal(node: Node, problems: Problems) -> int:
    allowed = {f"0x{status:04X}": status for status in REFUSALS}
    what = "a status: " + ", ".join(f"{text} ({REFUSALS[status]})" for text, status in allowed.items())
    text = text_of(node, what, problems)
    if text is None:
        return NOT_AUTHORIZED
    status = allowed.get(f"0x{text[2:].upper()}") if text.startswith("0x") else None
    if status is None:
        problems.add(node, f"expected {what}; found {shown(node)}")
    return status or NOT_AUTHORIZED


def _times(node: Node, problems: Problems) -> StudyTimes:
    found = fields(node, _STUDY_KEYS, "an entry of studies", problems)
    quiet_s, max_age_s = (_seconds(found[key], problems) if key in found else None for key in _STUDY_KEYS[1:])
    if isinstance(node, MappingNode) and ("calling_ae" not in found or len(found) == 1):
        problems.add(node, "expected calling_ae with quiet_s, max_age_s or both")
    if quiet_s is not None and max_age_s is not None and quiet_s > max_age_s:
        problems.add(found["quiet_s"], "expected quiet_s to be at most max_age_s")
    titles = ae_titles(found["calling_ae"], problems) if "calling_ae" in found else AnyText(())
    return StudyTimes(titles, quiet_s, max_age_s)


def _seconds(node: Node, problems: Problems) -> float | None:
    plain = isinstance(node, ScalarNode) and node.style is None and not is_nothing(node)
    value = float(node.value) if plain and _SECONDS.fullmatch(node.value) else 0.0
    if 0.0 < value <= _MAX_S:
        return value
    quoted = " in quotes" if isinstance(node, ScalarNode) and node.style is not None else ""
    problems.add(node, f"expected seconds, more than 0 and at most {_MAX_S:.0f}; found {shown(node)}{quoted}")
    return None
