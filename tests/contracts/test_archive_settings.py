"""Settings of an archive on an object store: nonsense is refused before anything is sent."""

from pathlib import Path

import pytest

from shared.archive import open_archive
from shared.archive.object_store import ObjectStoreArchive
from shared.errors import ConfigurationError
from shared.settings import ArchiveSettings

KEY = {"access_key_id": "an-id", "secret_access_key": "hush-hush"}
S3 = {"url": "s3://bucket/prefix"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "ftp://user:hush-hush@host/x"}, "not ftp:"),
        ({"url": "s3://"}, "a bucket"),
        ({"url": "s3:///prefix"}, "a bucket"),
        ({"url": "s3://user:hush-hush@bucket/x"}, "a bucket"),
        ({"url": "s3://bucket:9000/x"}, "a bucket"),
        ({"url": "s3://Bucket/x"}, "a bucket"),
        ({"url": "s3://[bucket/x"}, "no URL"),
        ({"url": "s3://bucket/x?secret=hush-hush"}, "a path"),
        ({"url": "s3://bucket/../x"}, "a path"),
        ({"url": "s3://bucket/a//b"}, "a path"),
        (S3 | {"access_key_id": "an-id"}, "go together"),
        (S3 | {"secret_access_key": "hush-hush"}, "go together"),
        (S3 | {"session_token": "hush-hush"}, "goes with an access key"),
        (S3 | KEY | {"endpoint": "http://127.0.0.1:9000"}, "ALLOW_HTTP"),
        (S3 | KEY | {"endpoint": "127.0.0.1:9000"}, "ENDPOINT"),
        (S3 | KEY | {"endpoint": "https://user:hush-hush@host"}, "ENDPOINT"),
        (S3 | KEY | {"endpoint": "https://host:port"}, "ENDPOINT"),
        (S3 | KEY | {"endpoint": "https://[host"}, "ENDPOINT"),
        (S3 | KEY | {"ca_file": "/no/such/file.pem"}, "CA_FILE"),
        (S3 | KEY | {"ca_file": __file__}, "bucket"),
        ({"url": "gs://bucket/x"} | KEY, "ACCESS_KEY_ID has no meaning for a gs://"),
        ({"url": "az://container/x", "region": "eu"}, "REGION has no meaning for a az://"),
        ({"endpoint": "https://host"} | KEY, "ENDPOINT is set, but"),
    ],
)
def test_nonsense_is_a_configuration_error_that_repeats_no_secret(
    settings: dict[str, object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="SIMILIS_ARCHIVE__") as refused:
        open_archive(ArchiveSettings.model_validate({"url": str(tmp_path / "archive")} | settings))
    assert told in str(refused.value)
    assert "hush-hush" not in f"{refused.value} {refused.value.__cause__ or ''}"
    assert not (tmp_path / "archive").exists()


def test_a_part_smaller_than_s3_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="part_bytes"):
        ArchiveSettings(part_bytes=1024 * 1024)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"url": "s3://bucket"}, "s3://bucket"),
        ({"url": "s3://bucket/a/b/"} | KEY, "s3://bucket/a/b"),
        (S3 | KEY | {"endpoint": "https://bucket.host", "virtual_hosted_style": True}, "s3://bucket/prefix"),
        ({"url": "az://container/x"} | KEY, "az://container/x"),
    ],
)
def test_an_archive_opens_without_a_word_to_the_server(settings: dict[str, object], url: str) -> None:
    archive = open_archive(ArchiveSettings.model_validate(settings))
    assert isinstance(archive, ObjectStoreArchive)
    assert archive.url == url
    assert "hush-hush" not in repr(archive)
