"""What can come of a credential that lets nobody in.

PermanentError
└── CredentialRefusedError       401: not known, not valid, or over
TransientError
└── CredentialUncheckedError     503: what is needed to check it is away
"""

from __future__ import annotations

from shared.errors import PermanentError, TransientError


class CredentialRefusedError(PermanentError):
    """The credential is not known, not valid, or over. The text goes to the log and quotes nothing of it."""


class CredentialUncheckedError(TransientError):
    """The credential cannot be checked just now: the provider or the file of keys is away."""
