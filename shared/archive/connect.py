"""From the settings to a store of the library obstore: a bucket, its credentials, time-outs and retries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from shared.archive.keys import is_key
from shared.errors import ConfigurationError
from shared.settings import ArchiveSettings

if TYPE_CHECKING:
    from obstore.store import (
        AzureAccessKey,
        AzureConfig,
        AzureCredentialProvider,
        ClientConfig,
        RetryConfig,
        S3Config,
        S3Credential,
        S3CredentialProvider,
    )

Store = S3Store | GCSStore | AzureStore

_LONGEST_BACKOFF: Final = timedelta(seconds=5)
_NOT_GCS: Final = ("endpoint", "region", "access_key_id", "secret_access_key", "session_token")
_NOT_AZURE: Final = ("region", "session_token")


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket (Azure: a container) and the folder in it."""

    scheme: str
    bucket: str
    prefix: str | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def locate(url: str) -> Location:
    """Take `s3://bucket/prefix` (or gs, az) apart.

    Raises:
        ConfigurationError: it has no bucket, names a user, port or query, or the prefix could not be one of keys.
    """
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    # The URL is not repeated: someone may have put a password there.
    if not parts.netloc or parts.netloc != parts.hostname:
        raise ConfigurationError(
            "SIMILIS_ARCHIVE__URL: after the scheme stands a bucket in small letters, nothing else"
        )
    if parts.query or parts.fragment or (prefix and not is_key(prefix)):
        raise ConfigurationError("SIMILIS_ARCHIVE__URL: after the bucket stands a path of [A-Za-z0-9._-], nothing else")
    return Location(parts.scheme, parts.netloc, prefix or None)


def connect(settings: ArchiveSettings) -> Store:
    """The store that `settings` name. Nothing is sent to it.

    Credentials that the settings do not have are looked for where the provider's own tools look: AWS_*, GOOGLE_* or
    AZURE_* in the environment, then the machine's role.

    Raises:
        ConfigurationError: the settings contradict each other.
    """
    location = locate(settings.url)
    _check(settings)
    client, retry = _client(settings), _retry(settings)
    try:
        if location.scheme == "s3":
            return S3Store(
                location.bucket,
                prefix=location.prefix,
                config=_s3(settings),
                credential_provider=_s3_key(settings),
                client_options=client,
                retry_config=retry,
            )
        if location.scheme == "gs":
            _refuse(settings, location.scheme, _NOT_GCS)
            return GCSStore(location.bucket, prefix=location.prefix, client_options=client, retry_config=retry)
        _refuse(settings, location.scheme, _NOT_AZURE)
        return AzureStore(
            location.bucket,
            prefix=location.prefix,
            config=_azure(settings),
            credential_provider=_azure_key(settings),
            client_options=client,
            retry_config=retry,
        )
    except (BaseError, ValueError, OSError) as error:
        # Only the kind of error is told: its text may repeat a key.
        raise ConfigurationError(f"SIMILIS_ARCHIVE__*: {location} cannot be opened ({type(error).__name__})") from None


def _check(settings: ArchiveSettings) -> None:
    if (settings.access_key_id is None) != (settings.secret_access_key is None):
        raise ConfigurationError("SIMILIS_ARCHIVE__ACCESS_KEY_ID and _SECRET_ACCESS_KEY go together")
    if settings.session_token is not None and settings.access_key_id is None:
        raise ConfigurationError("SIMILIS_ARCHIVE__SESSION_TOKEN goes with an access key")
    if settings.endpoint is not None and _scheme_of(settings.endpoint) == "http" and not settings.allow_http:
        raise ConfigurationError("SIMILIS_ARCHIVE__ENDPOINT is not encrypted; SIMILIS_ARCHIVE__ALLOW_HTTP permits that")


def _scheme_of(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        sound = parts.hostname and parts.port != 0 and "@" not in parts.netloc and not parts.query
    except ValueError:
        sound = False
    if not sound or parts.scheme not in ("http", "https"):
        raise ConfigurationError("SIMILIS_ARCHIVE__ENDPOINT: an http:// or https:// URL without user or query")
    return parts.scheme


def _refuse(settings: ArchiveSettings, scheme: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(settings, name) is not None:
            raise ConfigurationError(f"SIMILIS_ARCHIVE__{name.upper()} has no meaning for a {scheme}:// archive")


# Keys go in by a call, not among the options: there the environment's would be mixed in (our key with its
# AWS_SESSION_TOKEN), and a store repeats its options when asked.


def _s3_key(settings: ArchiveSettings) -> S3CredentialProvider | None:
    if settings.access_key_id is None or settings.secret_access_key is None:
        return None
    token = settings.session_token
    key: S3Credential = {
        "access_key_id": settings.access_key_id.get_secret_value(),
        "secret_access_key": settings.secret_access_key.get_secret_value(),
        "token": token.get_secret_value() if token else None,
        "expires_at": None,
    }
    return lambda: key


def _azure_key(settings: ArchiveSettings) -> AzureCredentialProvider | None:
    if settings.secret_access_key is None:
        return None
    key: AzureAccessKey = {"access_key": settings.secret_access_key.get_secret_value(), "expires_at": None}
    return lambda: key


def _s3(settings: ArchiveSettings) -> S3Config:
    # The server compares each part with its SHA-256 and keeps that with the object.
    config: S3Config = {
        "checksum_algorithm": "SHA256",
        "virtual_hosted_style_request": settings.virtual_hosted_style,
    }
    if settings.endpoint is not None:
        config["aws_endpoint_url_s3"] = settings.endpoint  # by this name it also stands above the environment's
    if settings.region is not None:
        config["region"] = settings.region
    return config


def _azure(settings: ArchiveSettings) -> AzureConfig:
    config: AzureConfig = {}
    if settings.endpoint is not None:
        config["endpoint"] = settings.endpoint
    if settings.access_key_id is not None:
        config["account_name"] = settings.access_key_id.get_secret_value()
    return config


def _client(settings: ArchiveSettings) -> ClientConfig:
    options: ClientConfig = {
        "allow_http": settings.allow_http,
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "timeout": timedelta(seconds=settings.timeout_s),
    }
    if settings.ca_file is not None:
        try:
            options["root_certificate"] = settings.ca_file.expanduser().read_bytes()
        except OSError as error:
            raise ConfigurationError(f"SIMILIS_ARCHIVE__CA_FILE: {settings.ca_file}: {error.strerror}") from error
    return options


def _retry(settings: ArchiveSettings) -> RetryConfig:
    return {
        "max_retries": settings.retries,
        "retry_timeout": timedelta(seconds=settings.retry_timeout_s),
        "backoff": {"max_backoff": _LONGEST_BACKOFF},
    }
