"""Which presentation contexts are accepted: PS3.8 section 7.1.1.13.

Verification, and every storage SOP class (also private ones and those this release of pynetdicom
does not know) in every transfer syntax whose data sets can be walked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pynetdicom.sop_class
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import _STORAGE_CLASSES

# PS3.6 annex A also calls these two transfer syntaxes; they encode no data set.
_NO_DATA_SETS: Final = frozenset({"1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2"})
VERIFICATION: Final = "1.2.840.10008.1.1"
_STORAGE: Final = frozenset(_STORAGE_CLASSES.values())
TRANSFER_SYNTAXES: Final = (
    frozenset(uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax") - _NO_DATA_SETS
)


def is_storage(abstract_syntax: UID) -> bool:
    """Whether an abstract syntax is a storage SOP class, or one that nothing else claims."""
    return (
        abstract_syntax in _STORAGE
        or abstract_syntax.is_private
        or not hasattr(pynetdicom.sop_class, abstract_syntax.keyword or "?")
    )


def supported_contexts(proposed: Iterable[Any]) -> list[PresentationContext]:
    """Contexts that accept, of the `proposed` presentation contexts, what the listener can store.

    Built from the proposal, in its order of preference: so that the association's set-up handles a
    few contexts rather than all SOP classes times all transfer syntaxes.
    """
    syntaxes: dict[UID, list[UID]] = {}
    for context in proposed:
        uid = context.abstract_syntax
        if uid is None or not (uid == VERIFICATION or is_storage(uid)):
            continue
        known = syntaxes.setdefault(uid, [])
        known += [one for one in context.transfer_syntax if one in TRANSFER_SYNTAXES and one not in known]
    return [_context(uid, known) for uid, known in syntaxes.items() if known]


def _context(abstract_syntax: UID, transfer_syntaxes: list[UID]) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = abstract_syntax
    context.transfer_syntax = list(transfer_syntaxes)
    return context
