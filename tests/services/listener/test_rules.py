"""Routing rules: what decides, what a wrong file says, and that no file does anything else."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from services.listener.answers import Answer, Outcome
from services.listener.rules import REFUSALS, Action, CompletionRules, Decision, Facts, Routing
from services.listener.rules_file import load_rules
from services.listener.yaml_nodes import MAX_FILE_BYTES
from shared.errors import ConfigurationError

DOCUMENT = Path("docs/listener-rules.md").read_text("utf-8")
EXAMPLE = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[0]
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SC = "1.2.840.10008.5.1.4.1.1.7"
SR = "1.2.840.10008.5.1.4.1.1.88.22"
VENDOR = "1.2.840.113619.4.27"
EXPLICIT = "1.2.840.10008.1.2.1"


def facts(**given_: Any) -> Facts:
    usual = Facts("CT1", "SIMILIS", "10.1.2.3", "CT", CT, EXPLICIT, None)
    return usual._replace(**given_)


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load_text(text: str | bytes) -> Routing:
        path = tmp_path / "rules.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_rules(path)

    return load_text


@pytest.fixture
def problems(load: Any, tmp_path: Path) -> Any:
    """What is reported of a file: `line:column: text` for each."""

    def found(text: str | bytes) -> list[str]:
        with pytest.raises(ConfigurationError) as error:
            load(text)
        prefix = f"{tmp_path / 'rules.yaml'}:"
        lines = str(error.value).splitlines()
        assert all(line.startswith(prefix) for line in lines), lines
        return [line.removeprefix(prefix) for line in lines]

    return found


# What decides


@pytest.mark.parametrize(
    ("given_", "action", "rule", "status"),
    [
        ({}, Action.ACCEPT, "default", 0),
        ({"sop_class": SC}, Action.DROP, "no screenshots", 0),
        ({"sop_class": SC, "calling_ae": "ct1"}, Action.ACCEPT, "default", 0),
        ({"sop_class": SC, "calling_ae": " MR1 "}, Action.DROP, "no screenshots", 0),
        ({"calling_ae": "RESEARCH", "modality": "MR", "peer": "10.20.9.9"}, Action.ACCEPT, "research MR", 0),
        ({"calling_ae": "RESEARCH", "modality": "MR", "peer": "::ffff:10.20.9.9"}, Action.ACCEPT, "research MR", 0),
        ({"calling_ae": "RESEARCH", "modality": "MR", "peer": "2001:db8::7"}, Action.ACCEPT, "research MR", 0),
        ({"calling_ae": "RESEARCH", "modality": "MR", "peer": "10.21.9.9"}, Action.REFUSE, "research rest", 0x0124),
        ({"calling_ae": "RESEARCH", "modality": "MR", "peer": "nowhere"}, Action.REFUSE, "research rest", 0x0124),
        ({"calling_ae": "RESEARCH", "modality": "CT", "peer": "10.20.9.9"}, Action.REFUSE, "research rest", 0x0124),
        ({"modality": "SR", "sop_class": SR}, Action.REFUSE, "no reports", 0x0122),
        ({"sop_class": VENDOR}, Action.DROP, "vendor raw data", 0),
        ({"sop_class": "1.2.840.1136190.4"}, Action.ACCEPT, "default", 0),
    ],
)
def test_the_documented_example_decides_as_it_says(
    load: Any, given_: dict[str, Any], action: Action, rule: str, status: int
) -> None:
    decision = load(EXAMPLE).rules.decide(facts(**given_))
    assert (decision.action, decision.rule, decision.status) == (action, rule, status)


def test_a_decision_names_the_line_of_its_rule(load: Any) -> None:
    lines = EXAMPLE.splitlines()
    decisions = load(EXAMPLE).rules.decisions()
    assert [one.rule for one in decisions][-2:] == ["vendor raw data", "default"]
    for decision in decisions[:-1]:
        assert f"- name: {decision.rule}" in lines[decision.line - 1]
    assert lines[decisions[-1].line - 1] == "default: accept"


def test_the_documented_example_sets_study_times(load: Any) -> None:
    completion = load(EXAMPLE).completion
    assert completion.for_ae("US3") == (120.0, 7200.0)
    assert completion.for_ae(" DOSE_A ") == (2.5, None)
    assert completion.for_ae("DOSE_AB") == (None, None)
    assert completion.for_ae("us3") == (None, None)


def test_the_first_entry_that_fits_sets_both_times(load: Any) -> None:
    text = "studies: [{calling_ae: [CT1, US1], quiet_s: 5}, {calling_ae: '*', quiet_s: 9, max_age_s: 90}]"
    completion = load(text).completion
    assert completion.for_ae("CT1") == (5.0, None)
    assert completion.for_ae("CT2") == (9.0, 90.0)


def test_without_a_file_everything_is_accepted() -> None:
    assert Routing().rules.decide(facts()) == Decision(Action.ACCEPT)
    assert CompletionRules().for_ae("CT1") == (None, None)


@pytest.mark.parametrize(
    ("condition", "matching", "other"),
    [
        ("transfer_syntax: JPEG2000Lossless", {"transfer_syntax": "1.2.840.10008.1.2.4.90"}, {}),
        ("transfer_syntax: 1.2.840.10008.1.2.4.*", {"transfer_syntax": "1.2.840.10008.1.2.4.90"}, {}),
        ("body_part: [HEAD, BRAIN]", {"body_part": "BRAIN"}, {"body_part": None}),
        ("called_ae: TEST", {"called_ae": "TEST"}, {}),
        ("sop_class: '*SRStorage'", {"sop_class": SR}, {"sop_class": VENDOR}),
        ("sop_class: 'CT?mageStorage'", {"sop_class": CT}, {"sop_class": MR}),
        ("sop_class: '*'", {"sop_class": VENDOR}, None),
        ("sop_class: 1.2.840.10008.5.1.4.1.1.2", {"sop_class": CT}, {"sop_class": f"{CT}.1"}),
        ("peer: 10.1.2.3", {}, {"peer": "10.1.2.4"}),
        ("peer: fe80::/10", {"peer": "fe80::1%eth0"}, {}),
        ("calling_ae: '[A]*'", {"calling_ae": "[A]7"}, {"calling_ae": "A7"}),
        ("calling_ae: ON", {"calling_ae": "ON"}, {"calling_ae": "True"}),
        ("calling_ae: 010", {"calling_ae": "010"}, {"calling_ae": "8"}),
    ],
)
def test_each_condition_matches_what_it_lists(load: Any, condition: str, matching: Any, other: Any) -> None:
    rules = load(f"rules: [{{name: x, when: {{{condition}}}, then: drop}}]").rules
    assert rules.decide(facts(**matching)).action is Action.DROP
    if other is not None:
        assert rules.decide(facts(**other)).action is Action.ACCEPT


def test_sop_classes_may_be_what_pydicom_calls_them(load: Any) -> None:
    rules = load("rules: [{name: x, when: {sop_class: UltrasoundMultiFrameImageStorage}, then: drop}]").rules
    assert rules.decide(facts(sop_class=UID("1.2.840.10008.5.1.4.1.1.3.1"))).action is Action.DROP


def test_decisions_become_answers() -> None:
    assert Decision(Action.ACCEPT, "x").answer is None
    assert Decision(Action.DROP, "x").answer == Answer(Outcome.DROPPED)
    refused = Decision(Action.REFUSE, "x" * 40, 3, 0xA900).answer
    assert refused is not None
    assert (refused.outcome, refused.status) == (Outcome.REFUSED, 0xA900)
    assert refused.comment.endswith("x" * 40)
    assert len(refused.comment) <= 64


def test_every_refusal_is_a_failure_of_c_store() -> None:
    for status in REFUSALS:
        assert STORAGE_SERVICE_CLASS_STATUS[status][0] == "Failure"


def test_the_cache_does_not_grow_with_the_titles_that_senders_make_up(load: Any) -> None:
    rules = load(EXAMPLE).rules
    for n in range(10_000):
        rules.decide(facts(calling_ae=f"X{n}"))
    assert rules._cached.cache_info().currsize <= 4096


def test_threads_get_the_same_decisions(load: Any) -> None:
    rules = load(EXAMPLE).rules
    wrong: list[Facts] = []

    def ask(offset: int) -> None:
        for n in range(3000):
            one = facts(calling_ae=f"{'CT' if n % 2 else 'XA'}{(n + offset) % 5000}", sop_class=SC)
            if (rules.decide(one).action is Action.DROP) != (n % 2 == 1):
                wrong.append(one)

    threads = [threading.Thread(target=ask, args=(n * 700,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pattern_of_many_stars_is_not_slow(load: Any) -> None:
    rules = load(f"rules: [{{name: x, when: {{sop_class: '{'*1' * 30}'}}, then: drop}}]").rules
    started_s = time.perf_counter()
    assert rules.decide(facts(sop_class="1" * 29 + ".2" * 17)).action is Action.ACCEPT
    assert time.perf_counter() - started_s < 1


# Against a reference

TITLES = st.text("ABab*?[]! ", min_size=1, max_size=6).filter(lambda title: title.strip(" "))
NETWORKS = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "::/0"])
PEERS = st.sampled_from(["10.1.2.3", "10.2.0.1", "192.0.2.1", "2001:db8::1", "::1"])
CLASSES = {"CTImageStorage": CT, "MRImageStorage": MR, CT: CT, "1.2.840.*": "1.2.840.*", "*.2": "*.2"}
CONDITIONS = {
    "calling_ae": TITLES,
    "called_ae": TITLES,
    "peer": NETWORKS,
    "modality": st.sampled_from(["CT", "MR", "OT"]),
    "sop_class": st.sampled_from(sorted(CLASSES)),
    "transfer_syntax": st.sampled_from([EXPLICIT, "1.2.840.10008.1.2*"]),
    "body_part": st.sampled_from(["BRAIN", "CHEST"]),
}
WHEN = st.fixed_dictionaries(
    {}, optional={key: st.lists(one, min_size=1, max_size=3) | one for key, one in CONDITIONS.items()}
).filter(bool)
FACTS = st.builds(
    Facts,
    calling_ae=st.text("ABab[]! ", max_size=5),
    called_ae=st.text("ABab[]! ", max_size=5),
    peer=PEERS,
    modality=st.sampled_from(["CT", "MR", "OT"]),
    sop_class=st.sampled_from([CT, MR, SC, VENDOR, "2.25.2"]),
    transfer_syntax=st.sampled_from([EXPLICIT, "1.2.840.10008.1.2.4.90", "1.2"]),
    body_part=st.sampled_from(["BRAIN", "CHEST", None]),
)


def holds(key: str, pattern: str, value: str | None) -> bool:
    if value is None:
        return False
    if key == "peer":
        address, network = ipaddress.ip_address(value), ipaddress.ip_network(pattern)
        return address.version == network.version and address in network
    if key.endswith("_ae"):
        value, pattern = value.strip(" "), pattern.strip(" ")
    pattern = CLASSES.get(pattern, pattern)
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def reference(rules: list[dict[str, Any]], default: str, one: Facts) -> tuple[str, str]:
    for rule in rules:
        if all(
            any(holds(key, pattern, getattr(one, key)) for pattern in ([wanted] if isinstance(wanted, str) else wanted))
            for key, wanted in rule["when"].items()
        ):
            return rule["name"], rule["then"]
    return "default", default


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    whens=st.lists(st.tuples(WHEN, st.sampled_from(["accept", "drop", "refuse"])), max_size=5),
    default=st.sampled_from(["accept", "drop", "refuse"]),
    asked=st.lists(FACTS, min_size=1, max_size=10),
)
def test_decisions_are_those_of_a_naive_reference(load: Any, whens: Any, default: str, asked: list[Facts]) -> None:
    rules = [{"name": f"rule {n}", "when": when, "then": then} for n, (when, then) in enumerate(whens)]
    class_dumper = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    loaded = load(yaml.dump({"rules": rules, "default": default}, Dumper=class_dumper)).rules
    for one in [*asked, *asked]:  # the second time from the cache
        decision = loaded.decide(one)
        assert (decision.rule, decision.action) == reference(rules, default, one)


# What a wrong file says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1:1: expected a mapping, found an empty file"]),
        ("# nothing\n", ["1:1: expected a mapping, found an empty file"]),
        ("- a", ["1:1: expected a rules file: a mapping with rules, default, studies; found a list"]),
        ("rules:\n", ["1:7: expected a list of rules, found nothing"]),
        ("ruls: []", ["1:1: 'ruls' is no key of a rules file"]),
        ("default: drop\ndefault: accept", ["2:1: 'default' is given twice; first in line 1"]),
        ("default: [drop]", ["1:10: expected accept, drop or refuse, found a list"]),
        ("default: yes", ["1:10: expected accept, drop or refuse, found 'yes'"]),
        ("? [a]\n: b", ["1:3: a list is no key of a rules file"]),
        ("rules: [CT]", ["1:9: expected a rule: a mapping with name, when, then, status; found 'CT'"]),
        ("rules: [{name: a}]", ["1:9: this rule has no when and no then"]),
        ("rules: [{name: a, when: {}, then: drop}]", ["1:25: expected at least one condition"]),
        ("rules: [{name: a, when: , then: drop}]", ["1:24: expected conditions: a mapping with"]),
        ("default: &a drop", ["1:10: anchors (&name) are not allowed here"]),
        ("default: *a", ["1:10: aliases (*name) are not allowed here"]),
        ("default: !!python/name:os.system x", ["1:10: tags (!name) are not allowed here"]),
        ("default: drop\n---\ndefault: drop", ["2:1: expected one document, found another"]),
        ("default: [drop", ["1:15: no YAML: "]),
        ("default: drop: x", ["1:14: no YAML: mapping values are not allowed here"]),
        ("default: 'a\x00b'", ["1:12: the character U+0000 is not allowed in YAML"]),
        (b"default:\n  dr\xffop", ["2:5: expected UTF-8"]),
        ('default: "\\UFFFFFFFF"', ["1:1: no YAML: "]),
        ("[" * 5000, ["1:17: nested too deeply"]),
    ],
)
def test_a_file_that_is_no_rules_file_says_where_and_why(problems: Any, text: str | bytes, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected)
    for one, start in zip(found, expected, strict=True):
        assert one.startswith(start), one


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("modality: NO", "'NO' is no modality: expected a defined term"),
        ("modality: ct", "'ct' is no modality: expected a defined term of Modality (0008,0060); anything else"),
        (
            "modality: {a: b}",
            "expected a defined term of Modality (0008,0060); anything else arrives as OT, found a map",
        ),
        ("modality: ~", "expected a defined term of Modality (0008,0060); anything else arrives as OT, found nothing"),
        ("modality: []", "expected a defined term"),
        ("modality: [[CT]]", "expected a defined term"),
        ("body_part: Brain stem", "'Brain stem' is no body part"),
        ("peer: 10.1.2.3/16", "'10.1.2.3/16' is no IP address or network: 10.1.2.3/16 has host bits set"),
        ("peer: ct1.example.org", "'ct1.example.org' is no IP address or network"),
        ("calling_ae: ABCDEFGHIJKLMNOPQ", "'ABCDEFGHIJKLMNOPQ' is no AE title: longer than 16 characters"),
        ("calling_ae: 'A\\B'", "'A\\\\B' is no AE title: empty, or a character that none may have"),
        ("calling_ae: ' '", "' ' is no AE title: empty"),
        ("called_ae: RÖ1", "'RÖ1' is no AE title: empty, or a character"),
        ("sop_class: CTImageStorag", "'CTImageStorag' is no SOP class"),
        ("sop_class: JPEG2000Lossless", "'JPEG2000Lossless' is no SOP class"),
        ("sop_class: 1.2.", "'1.2.' is no SOP class"),
        ("sop_class: '*Nothing*'", "'*Nothing*' is no SOP class"),
        ("transfer_syntax: CTImageStorage", "'CTImageStorage' is no transfer syntax"),
        ("patient_id: '1'", "'patient_id' is no key of conditions"),
    ],
)
def test_a_wrong_value_is_reported_at_its_place(problems: Any, condition: str, expected: str) -> None:
    (found,) = problems(f"rules:\n- name: x\n  when:\n    {condition}\n  then: drop\n")
    place, _, text = found.partition(": ")
    column = 5 if "no key" in expected else 5 + condition.index(":") + 2
    assert place in (f"4:{column}", f"4:{column + 1}")  # of an item, past the bracket
    assert text.startswith(expected), text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quiet_s: '60'", "expected seconds, more than 0 and at most 2592000; found '60' in quotes"),
        ("quiet_s: 0", "expected seconds, more than 0 and at most 2592000; found '0'"),
        ("quiet_s: .inf", "expected seconds"),
        ("quiet_s: 1e9", "expected seconds"),
        ("quiet_s: 2592001", "expected seconds"),
        ("quiet_s: 1_000", "expected seconds"),
        ("quiet_s: yes", "expected seconds"),
        ("quiet_s: 60\n  max_age_s: 59", "expected quiet_s to be at most max_age_s"),
        ("", "expected calling_ae with quiet_s, max_age_s or both"),
    ],
)
def test_wrong_study_times_are_reported(problems: Any, line: str, expected: str) -> None:
    (found,) = problems(f"studies:\n- calling_ae: US*\n  {line}\n")
    assert found.partition(": ")[2].startswith(expected)


@pytest.mark.parametrize(
    "status", ["0124", "292", "0x124", "0x0000", "0xB000", "0xA701", "refused", "0xG000", "", "0x01 24"]
)
def test_only_a_known_failure_may_be_the_status(problems: Any, status: str) -> None:
    (found,) = problems(f"rules: [{{name: x, when: {{modality: CT}}, then: refuse, status: {status}}}]")
    assert "expected a status: 0x0124 (Refused: Not authorized), 0x0122" in found


@pytest.mark.parametrize("status", ["0xA900", "0xa900", "'0xA900'"])
def test_a_status_is_hexadecimal_in_any_case(load: Any, status: str) -> None:
    rules = load(f"rules: [{{name: x, when: {{modality: CT}}, then: refuse, status: {status}}}]").rules
    assert rules.decide(facts()).status == 0xA900


@pytest.mark.parametrize("name", ["default", "x" * 41, "-x", "ä", "a\\b", "''", "a:b"])
def test_a_name_fits_an_error_comment(problems: Any, name: str) -> None:
    (found,) = problems(f"rules: [{{name: {name}, when: {{modality: CT}}, then: drop}}]")
    assert "expected a name of 1 to 40 letters, digits, spaces and _ . -" in found


def test_all_problems_are_reported_at_once_in_order(problems: Any) -> None:
    found = problems(
        """\
rules:
  - name: a
    when: {modality: [CT, NO], peer: here}
    then: refuse
    status: 0124
  - name: a
    when: {modality: CT}
    then: dorp
    status: 0xA700
  - name: b
    when: {modality: CT}
    then: drop
    status: 0xA700
studies:
  - quiet_s: 5
default: maybe
"""
    )
    places = [":".join(one.split(":")[:2]) for one in found]
    assert places == ["3:27", "3:38", "5:13", "6:5", "8:11", "13:13", "15:5", "16:10"]
    assert found[3] == "6:5: two rules are called 'a'; the first in line 2"
    assert found[4].endswith("found 'dorp' (did you mean drop?)")
    assert found[5] == "13:13: 'status' is allowed only with 'then: refuse'"


def test_a_flood_of_problems_is_cut_short(problems: Any) -> None:
    found = problems("rules:\n" + "- x\n" * 400)
    assert len(found) == 51
    assert found[-1].endswith("and 350 more")


def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml", Path("a\0b")):
        with pytest.raises(ConfigurationError, match=r":1:1: cannot be read: "):
            load_rules(path)


def test_a_huge_file_is_not_read(problems: Any) -> None:
    (found,) = problems("# " + "x" * MAX_FILE_BYTES)
    assert found == f"1:1: expected at most {MAX_FILE_BYTES} bytes"


def broken_examples() -> st.SearchStrategy[str]:
    """The documented example with a piece cut out and another put in."""
    pieces = st.text(max_size=6) | st.sampled_from(
        ["\n", "  ", "\t", ": ", "- ", "[", "]", "{", "}", "'", '"', "&a ", "*a", "!!x ", "|", ">", "#", "---\n", "? "]
    )
    places = st.integers(0, len(EXAMPLE))
    return st.tuples(places, st.integers(0, 30), pieces).map(lambda t: EXAMPLE[: t[0]] + t[2] + EXAMPLE[t[0] + t[1] :])


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text() | broken_examples() | st.binary())
@example(text="%YAML 1." + "1" * 5000 + "\n---\na: b")
@example(text="default: !<%ff> x")
@example(text='"\\ud800": "\\ud800"')
@example(text="{" * 3000)
@example(text="- " * 3000)
@example(text="? " * 3000)
@example(text="a: &x [*x, *x]")
@example(text="\ufeffdefault: accept")
@example(text="<<: {default: accept}")
def test_any_file_is_rules_or_a_configuration_error(load: Any, text: str | bytes) -> None:
    if isinstance(text, str):
        text = text.encode(errors="surrogatepass")
    try:
        routing = load(text)
    except ConfigurationError as error:
        reported = str(error)
    else:
        routing.rules.decide(facts())
        routing.completion.for_ae("CT1")
        return
    reported.encode()  # can be printed
    assert re.search(r"rules\.yaml:\d+:\d+: ", reported)


def test_a_decision_takes_microseconds(load: Any) -> None:
    """20 rules that nothing matches. The bounds are ten times what a quiet machine takes."""
    kinds = ["calling_ae: [US*, MR1]", "peer: [10.9.0.0/16, 192.0.2.7]", "modality: [SR, KO]", "sop_class: 1.3.*"]
    lines = [f"- {{name: r{n}, when: {{called_ae: S*, {kinds[n % 4]}}}, then: drop}}" for n in range(20)]
    rules = load("rules:\n" + "\n".join(lines)).rules
    known = facts()
    assert seconds_each(lambda: rules.decide(known), 10_000) < 10e-6
    fresh = iter([facts(calling_ae=f"CT{n}") for n in range(4000)])
    assert seconds_each(lambda: rules.decide(next(fresh)), 1000) < 200e-6


def seconds_each(act: Callable[[], object], times: int) -> float:
    """The best of three rounds."""
    rounds = []
    for _ in range(3):
        started_s = time.process_time()
        for _ in range(times):
            act()
        rounds.append((time.process_time() - started_s) / times)
    return min(rounds)
