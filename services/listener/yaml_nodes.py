"""A YAML file as nodes that know their line; everything wrong with it is reported at once.

Scalars stay the text that was written: no YAML 1.1 schema turns NO into false, 010 into 8 or 1.20
into a float. Aliases, anchors and tags are refused, so that a file is never more than it shows.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from shared.errors import ConfigurationError

MAX_FILE_BYTES: Final = 256 * 1024
_MAX_DEPTH: Final = 16
_MAX_REPORTED: Final = 50
_MAX_SHOWN: Final = 48
_NOTHING: Final = ("", "~", "null", "Null", "NULL")

Fields: TypeAlias = dict[str, Node]


class Problems:
    """What is wrong with one file, each with its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[tuple[int, int, str]] = []

    def add(self, place: Node | yaml.Event, text: str) -> None:
        """Report `text` where a node or an event begins."""
        mark = place.start_mark
        self.add_at(mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, text)

    def add_at(self, line: int, column: int, text: str) -> None:
        """Report `text`; lines and columns count from 1."""
        self._found.append((line, column, text))

    def check(self) -> None:
        """Go on only if there is nothing to report.

        Raises:
            ConfigurationError: one line for each problem, `file:line:column: text`.
        """
        if self._found:
            raise self.error()

    def error(self) -> ConfigurationError:
        """All that was reported, as an error."""
        found = sorted(set(self._found))
        lines = [f"{self._path}:{line}:{column}: {text}" for line, column, text in found[:_MAX_REPORTED]]
        if len(found) > _MAX_REPORTED:
            lines.append(f"{self._path}: and {len(found) - _MAX_REPORTED} more")
        return ConfigurationError("\n".join(lines))


def read_nodes(path: Path) -> tuple[Node, Problems]:
    """The root node of the YAML file at `path`, and where to report what is wrong with it.

    Raises:
        ConfigurationError: the file cannot be read, or is no YAML of the plain kind that is allowed here.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{path}:1:1: cannot be read: {reason}") from error
    problems = Problems(path)
    if len(raw) > MAX_FILE_BYTES:
        problems.add_at(1, 1, f"expected at most {MAX_FILE_BYTES} bytes")
    problems.check()
    text = _decode(raw, problems)
    root = _compose(text, problems)
    problems.check()
    if root is None:
        problems.add_at(1, 1, "expected a mapping, found an empty file")
        raise problems.error()
    return root, problems


def _decode(raw: bytes, problems: Problems) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        problems.add_at(before.count(b"\n") + 1, error.start - before.rfind(b"\n"), "expected UTF-8")
        raise problems.error() from error


def _compose(text: str, problems: Problems) -> Node | None:
    try:
        _screen(text, problems)
        problems.check()
        root: Node | None = yaml.compose(text, Loader=yaml.BaseLoader)  # composes text, constructs nothing
        return root
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = (before.count("\n") + 1, error.position - before.rfind("\n"))
        problems.add_at(*place, f"the character U+{int(error.character):04X} is not allowed in YAML")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problems.add_at(line, column, f"no YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML lets out what int and chr raise on a hostile version directive or escape.
        problems.add_at(1, 1, "no YAML: an escape or a directive has a number that is too large")
    return None


def _screen(text: str, problems: Problems) -> None:
    """Report what is YAML but not wanted. The parser keeps a stack of its own: no depth can exhaust ours."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                problems.add(event, "expected one document, found another")
                return
        elif isinstance(event, yaml.AliasEvent):
            problems.add(event, "aliases (*name) are not allowed here: put a value that begins with * in quotes")
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None:
                problems.add(event, "anchors (&name) are not allowed here")
            if getattr(event, "tag", None) is not None:
                problems.add(event, "tags (!name) are not allowed here")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                problems.add(event, "nested too deeply")
                return
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def shown(node: Node) -> str:
    """A node as a message shows it."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if is_nothing(node):
        return "nothing"
    text = str(node.value)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def is_nothing(node: Node) -> bool:
    """Whether a node is an empty value or a null, not quoted."""
    return isinstance(node, ScalarNode) and node.style is None and node.value in _NOTHING


def fields(node: Node, known: Collection[str], what: str, problems: Problems) -> Fields:
    """The values of a mapping by key; unknown and repeated keys are reported and left out."""
    if not isinstance(node, MappingNode):
        problems.add(node, f"expected {what}: a mapping with {_listed(known)}; found {shown(node)}")
        return {}
    found: Fields = {}
    lines: dict[str, int] = {}
    for key_node, value in node.value:
        key = str(key_node.value) if isinstance(key_node, ScalarNode) else ""
        if key not in known:
            problems.add(
                key_node, f"{shown(key_node)} is no key of {what}: expected {_listed(known)}{hint(key, known)}"
            )
        elif key in found:
            problems.add(key_node, f"{key!r} is given twice; first in line {lines[key]}")
        else:
            found[key] = value
            lines[key] = key_node.start_mark.line + 1
    return found


def items(node: Node, what: str, problems: Problems) -> list[Node]:
    """The items of a list."""
    if isinstance(node, SequenceNode):
        return list(node.value)
    problems.add(node, f"expected a list of {what}, found {shown(node)}")
    return []


def text_of(node: Node, what: str, problems: Problems) -> str | None:
    """The text of a scalar; None, reported, if it is none."""
    if isinstance(node, ScalarNode) and not is_nothing(node):
        return str(node.value)
    problems.add(node, f"expected {what}, found {shown(node)}")
    return None


def texts_of(node: Node, what: str, problems: Problems) -> Iterator[tuple[Node, str]]:
    """Each text of a scalar or of a list of scalars, with its node; an empty list is reported."""
    if isinstance(node, SequenceNode) and not node.value:
        problems.add(node, f"expected {what}, or a list of them; found an empty list")
    for one in node.value if isinstance(node, SequenceNode) else (node,):
        if (text := text_of(one, what, problems)) is not None:
            yield one, text


def hint(word: str, known: Collection[str]) -> str:
    """`(did you mean X?)` if a known word is near."""
    if len(word) > _MAX_SHOWN:
        return ""
    folded = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.75)
    return f" (did you mean {folded[near[0]]}?)" if near else ""


def _listed(known: Collection[str]) -> str:
    return ", ".join(known)
