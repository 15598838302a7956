"""The values that a condition of a routing rule may list, each checked where it stands."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Final

from pydicom._uid_dict import UID_dictionary
from yaml.nodes import Node

from services.listener.rules import AnyNetwork, AnyText, Condition
from services.listener.terms import BODY_PARTS, MODALITIES
from services.listener.yaml_nodes import Problems, hint, texts_of
from shared.addresses import Network, parse_network
from shared.errors import ConfigurationError
from shared.ids import is_valid_uid

_MAX_AE_TITLE: Final = 16
_MAX_UID: Final = 64
# PS3.5 table 6.2-1, AE: the default repertoire without backslash and control characters.
_AE_TITLE: Final = re.compile(r"[ -\[\]-~]+")
_UID_GLOB: Final = re.compile(r"[0-9.*?]+")


def _keywords(kind: str) -> dict[str, str]:
    """UIDs of PS3.6 annex A by keyword; `kind` is `SOP Class` or `Transfer Syntax`."""
    return {entry[4]: uid for uid, entry in UID_dictionary.items() if entry[1] == kind and entry[4]}


_SOP_CLASSES: Final = _keywords("SOP Class")
_TRANSFER_SYNTAXES: Final = _keywords("Transfer Syntax")


def ae_titles(node: Node, problems: Problems) -> AnyText:
    """AE titles with `*` and `?`; spaces around them count for nothing, case does."""
    what = "an AE title (1 to 16 characters, with * and ?)"
    found = []
    for one, text in texts_of(node, what, problems):
        title = text.strip(" ")
        if not _AE_TITLE.fullmatch(title):
            problems.add(
                one, f"{text[:40]!r} is no AE title: empty, or a character that none may have; expected {what}"
            )
        elif len(title.replace("*", "")) > _MAX_AE_TITLE:
            problems.add(one, f"{text[:40]!r} is no AE title: longer than {_MAX_AE_TITLE} characters; expected {what}")
        else:
            found.append(title)
    return AnyText(found)


def _networks(node: Node, problems: Problems) -> AnyNetwork:
    what = "an IP address or network such as 10.1.0.0/16"
    found: list[Network] = []
    for one, text in texts_of(node, what, problems):
        try:
            found.append(parse_network(text))
        except ConfigurationError as error:
            problems.add(one, f"{error}; expected {what}")
    return AnyNetwork(tuple(found))


def _modalities(node: Node, problems: Problems) -> AnyText:
    # The header has defined terms only: another value could never match.
    what = "a defined term of Modality (0008,0060); anything else arrives as OT"
    found = []
    for one, text in texts_of(node, what, problems):
        if text in MODALITIES:
            found.append(text)
        else:
            problems.add(one, f"{text[:40]!r} is no modality: expected {what}{hint(text, MODALITIES)}")
    return AnyText(found)


def _body_parts(node: Node, problems: Problems) -> AnyText:
    what = "a defined term of Body Part Examined (0018,0015), in capitals and without spaces"
    found = []
    for one, text in texts_of(node, what, problems):
        if text in BODY_PARTS:
            found.append(text)
        else:
            problems.add(one, f"{text[:40]!r} is no body part: expected {what}{hint(text, BODY_PARTS)}")
    return AnyText(found)


def _uids(node: Node, problems: Problems, *, kind: str, known: dict[str, str], example: str) -> AnyText:
    what = f"a {kind}: its UID, its keyword such as {example}, or either with * and ?"
    found: list[str] = []
    for one, text in texts_of(node, what, problems):
        if not (uids := list(_uids_of(text, known))):
            problems.add(one, f"{text[:70]!r} is no {kind}: expected {what}{hint(text, known)}")
        found += uids
    return AnyText(found)


def _uids_of(text: str, known: dict[str, str]) -> Iterator[str]:
    """The UIDs that a value stands for; a pattern of UIDs is left as it is, one of keywords is looked up."""
    if _UID_GLOB.fullmatch(text):
        is_pattern = "*" in text or "?" in text
        if (is_pattern and len(text.replace("*", "")) <= _MAX_UID) or is_valid_uid(text):
            yield text
    elif "*" in text or "?" in text:
        if "[" not in text:
            yield from (known[keyword] for keyword in fnmatch.filter(known, text) if fnmatch.fnmatchcase(keyword, text))
    elif text in known:
        yield known[text]


def _sop_classes(node: Node, problems: Problems) -> AnyText:
    return _uids(node, problems, kind="SOP class", known=_SOP_CLASSES, example="CTImageStorage")


def _transfer_syntaxes(node: Node, problems: Problems) -> AnyText:
    return _uids(node, problems, kind="transfer syntax", known=_TRANSFER_SYNTAXES, example="JPEG2000Lossless")


CONDITIONS: Final = MappingProxyType[str, Callable[[Node, Problems], Condition]](
    {
        "calling_ae": ae_titles,
        "called_ae": ae_titles,
        "peer": _networks,
        "modality": _modalities,
        "sop_class": _sop_classes,
        "transfer_syntax": _transfer_syntaxes,
        "body_part": _body_parts,
    }
)
"""How each condition reads its values: the names are those of `rules.Facts`."""
