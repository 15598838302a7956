"""What can go wrong in a benchmark."""

from __future__ import annotations

from shared.errors import SimilisError


class BenchmarkError(SimilisError):
    """A run did not measure what it was meant to, such as a receiver that lost an object."""


class NotInstalledError(BenchmarkError):
    """A receiver or sender is not on this machine."""
