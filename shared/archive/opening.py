"""From the settings to the archive that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from shared.archive.local import LocalArchive, make_folders
from shared.archive.port import Archive
from shared.errors import ConfigurationError
from shared.settings import ArchiveSettings

OBJECT_STORES: Final = ("s3", "gs", "az")

# Settings that only an object store has: with a folder they show that the URL was forgotten.
_OF_A_SERVER: Final = ("endpoint", "region", "access_key_id", "secret_access_key", "session_token", "ca_file")


def open_archive(settings: ArchiveSettings | str) -> Archive:
    """The archive of `settings` (a plain string is its URL). Nothing is sent to an object store yet.

    Raises:
        ConfigurationError: the settings contradict each other, the scheme is not supported, or the folder cannot be
            made.
    """
    if isinstance(settings, str):
        settings = ArchiveSettings(url=settings)
    try:
        parts = urlsplit(settings.url)
    except ValueError:
        raise ConfigurationError("SIMILIS_ARCHIVE__URL is no URL") from None
    if parts.scheme in OBJECT_STORES:
        # Its library is loaded only where it is used: listeners and workers on one machine do without.
        from shared.archive.object_store import open_object_store

        return open_object_store(settings)
    return _open_folder(settings, parts)


def _open_folder(settings: ArchiveSettings, parts: SplitResult) -> LocalArchive:
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise ConfigurationError(
            "SIMILIS_ARCHIVE__URL: only a folder, file://, s3://, gs:// and az:// are supported, "
            f"not {parts.scheme or 'a host'}:"
        )
    for name in _OF_A_SERVER:
        if getattr(settings, name) is not None:
            raise ConfigurationError(f"SIMILIS_ARCHIVE__{name.upper()} is set, but SIMILIS_ARCHIVE__URL is a folder")
    root = Path(unquote(parts.path) if parts.scheme else settings.url).expanduser().resolve()
    try:
        make_folders(root)
    except OSError as error:
        raise ConfigurationError(f"SIMILIS_ARCHIVE__URL: cannot make the folder {root}: {error}") from error
    return LocalArchive(root)
