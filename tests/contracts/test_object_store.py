"""What only an archive on a server can suffer: a wrong key, a server that dies, hangs, or keeps other bytes."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.archive import open_archive
from shared.archive.object_store import ObjectStoreArchive
from shared.errors import ArchiveObjectCorruptError, ArchiveUnavailableError
from tests.contracts.s3_server import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, S3Server

pytestmark = pytest.mark.s3

MIB = 1024 * 1024


@pytest.fixture
def own_server(s3_binary: Path, tmp_path: Path) -> Iterator[S3Server]:
    """A server that a test may harm."""
    server = S3Server(s3_binary, tmp_path / "own-s3")
    server.start()
    yield server
    server.kill()


def large_file(path: Path, size_mib: int) -> str:
    """Write `size_mib` MiB, no two alike; returns their SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(size_mib):
            block = os.urandom(1024) * 1024
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


class TestRefused:
    @pytest.mark.parametrize(
        "wrong", [{"secret_access_key": "not-the-secret-of-the-tests"}, {"access_key_id": "nobody-of-the-tests"}]
    )
    def test_wrong_credentials_are_told_without_repeating_them(
        self, s3_server: S3Server, s3_prefix: str, wrong: dict[str, str], tmp_path: Path
    ) -> None:
        open_archive(s3_server.settings(s3_prefix)).put("a/b", b"there")
        archive = open_archive(s3_server.settings(s3_prefix, **wrong))
        source = tmp_path / "object.dcm"
        source.write_bytes(b"DICM")
        calls = {
            "put": lambda: archive.put("a/b", b"1"),
            "put_file": lambda: archive.put_file("a/b", source),
            "put_files": lambda: archive.put_files([("a/b", source)]),
            "get": lambda: archive.get("a/b"),
            "exists": lambda: archive.exists("a/b"),
            "verify": lambda: archive.verify("a/b", "0" * 64, 5),
            "list": lambda: list(archive.list("a")),
        }
        for call in calls.values():
            with pytest.raises(ArchiveUnavailableError) as refused:
                call()
            told = "".join(traceback.format_exception(refused.value))  # what a log would show
            assert "40" in str(refused.value)  # the status
            for secret in (*wrong.values(), SECRET_ACCESS_KEY, ACCESS_KEY_ID, "Signature="):
                assert secret not in told
        assert open_archive(s3_server.settings(s3_prefix)).get("a/b") == b"there"

    def test_no_secret_shows_in_what_describes_an_archive_or_its_settings(self, s3_server: S3Server) -> None:
        settings = s3_server.settings("folder")
        archive = open_archive(settings)
        assert isinstance(archive, ObjectStoreArchive)
        assert archive.url == f"s3://{BUCKET}/folder"
        for text in (
            repr(archive),
            str(archive),
            repr(settings),
            settings.model_dump_json(),
            str(archive.store.config),
        ):
            assert SECRET_ACCESS_KEY not in text
            assert ACCESS_KEY_ID not in text

    def test_a_missing_bucket_is_not_taken_for_a_missing_object(self, s3_server: S3Server) -> None:
        archive = open_archive(s3_server.settings(url="s3://no-such-bucket"))
        with pytest.raises(ArchiveUnavailableError, match="NoSuchBucket"):
            archive.get("a/b")
        with pytest.raises(ArchiveUnavailableError, match="NoSuchBucket"):
            archive.exists("a/b")
        with pytest.raises(ArchiveUnavailableError, match="NoSuchBucket"):
            list(archive.list("a"))
        with pytest.raises(ArchiveUnavailableError, match="NoSuchBucket"):
            archive.put("a/b", b"1")

    def test_the_settings_stand_above_the_environment(
        self, s3_server: S3Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-someone-else")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
        archive = open_archive(s3_server.settings(s3_prefix))
        archive.put("a/b", b"1")
        assert archive.get("a/b") == b"1"

    def test_the_environment_serves_where_settings_are_silent(
        self, s3_server: S3Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
        archive = open_archive(s3_server.settings(s3_prefix, access_key_id=None, secret_access_key=None))
        archive.put("a/b", b"1")
        assert archive.get("a/b") == b"1"


class TestIntegrity:
    @pytest.mark.parametrize("size_mib", [1, 11])
    def test_bytes_that_changed_on_the_server_are_found_out(
        self, s3_archive: ObjectStoreArchive, s3_server: S3Server, s3_prefix: str, tmp_path: Path, size_mib: int
    ) -> None:
        source = tmp_path / "object.dcm"
        sha256 = large_file(source, size_mib)
        s3_archive.put_file("instances/1/2/3.dcm", source, sha256=sha256, size_bytes=size_mib * MIB)
        s3_archive.verify("instances/1/2/3.dcm", sha256, size_mib * MIB)
        stored = s3_server.bucket_folder / s3_prefix / "instances/1/2/3.dcm"
        with open(stored, "r+b") as file:
            file.seek(size_mib * MIB - 100)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(ArchiveObjectCorruptError, match="SHA-256"):
            s3_archive.verify("instances/1/2/3.dcm", sha256, size_mib * MIB)
        os.truncate(stored, size_mib * MIB - 1)
        with pytest.raises(ArchiveObjectCorruptError, match="bytes instead of"):
            s3_archive.verify("instances/1/2/3.dcm", sha256, size_mib * MIB)

    def test_an_upload_that_is_refused_at_its_end_leaves_no_part_behind(
        self, own_server: S3Server, tmp_path: Path
    ) -> None:
        archive = open_archive(own_server.settings())
        source = tmp_path / "object.dcm"
        large_file(source, 11)
        with pytest.raises(ArchiveObjectCorruptError):
            archive.put_file("a/b", source, sha256="0" * 64)
        assert not archive.exists("a/b")
        assert own_server.parts_of_uploads() == []

    def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed_with_the_new_one(
        self, s3_archive: ObjectStoreArchive
    ) -> None:
        s3_archive.put("a/b", bytes(11 * MIB))
        parts = s3_archive._parts("a/b", None)
        assert next(parts) == bytes(5 * MIB)
        s3_archive.put("a/b", b"1" * 11 * MIB)
        with pytest.raises(ArchiveUnavailableError, match="PreconditionError"):
            next(parts)

    def test_objects_of_others_are_not_listed(
        self, s3_archive: ObjectStoreArchive, s3_server: S3Server, s3_prefix: str
    ) -> None:
        s3_archive.put("a/b", b"1")
        obstore.put(s3_archive.store, "a/not ours", b"1")
        assert (s3_server.bucket_folder / s3_prefix / "a/not ours").is_file()
        assert list(s3_archive.list("a")) == ["a/b"]

    def test_the_server_is_told_the_checksum(self, s3_archive: ObjectStoreArchive, s3_server: S3Server) -> None:
        s3_archive.put("a/b", b"hello")
        noted = [path for path in (s3_server.folder / "metadata").rglob("*") if path.is_file()]
        assert any(b"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=" in path.read_bytes() for path in noted)


class TestFaults:
    def test_a_server_killed_in_mid_upload_leaves_what_stood_there_and_a_retry_succeeds(
        self, own_server: S3Server, tmp_path: Path
    ) -> None:
        archive = open_archive(own_server.settings(upload_concurrency=1))
        source = tmp_path / "object.dcm"
        sha256 = large_file(source, 200)
        archive.put("instances/1/2/3.dcm", b"old")
        errors: list[Exception] = []

        def upload() -> None:
            try:
                archive.put_file("instances/1/2/3.dcm", source, sha256=sha256)
            except ArchiveUnavailableError as error:
                errors.append(error)

        uploading = threading.Thread(target=upload)
        uploading.start()
        kill_in_mid_upload(own_server)
        uploading.join(60)
        assert not uploading.is_alive()
        assert "cannot store instances/1/2/3.dcm" in str(errors[0])
        with pytest.raises(ArchiveUnavailableError):
            archive.exists("instances/1/2/3.dcm")
        own_server.start()
        assert archive.get("instances/1/2/3.dcm") == b"old"
        assert list(archive.list("instances")) == ["instances/1/2/3.dcm"]
        archive.put_file("instances/1/2/3.dcm", source, sha256=sha256)
        archive.verify("instances/1/2/3.dcm", sha256, 200 * MIB)

    def test_a_server_that_is_back_soon_is_not_noticed(self, own_server: S3Server, tmp_path: Path) -> None:
        archive = open_archive(own_server.settings(upload_concurrency=1, retries=20))
        source = tmp_path / "object.dcm"
        sha256 = large_file(source, 200)
        uploading = threading.Thread(target=archive.put_file, args=("a/b", source))
        uploading.start()
        kill_in_mid_upload(own_server)
        time.sleep(1)  # longer than the pause before the first retry
        own_server.start()
        uploading.join(60)
        archive.verify("a/b", sha256, 200 * MIB)

    def test_a_server_that_hangs_is_left_after_the_time_out(self, own_server: S3Server) -> None:
        archive = open_archive(own_server.settings(timeout_s=0.3, retries=1))
        archive.put("a/b", b"1")
        own_server.pause()
        started = time.monotonic()
        with pytest.raises(ArchiveUnavailableError, match="Timeout"):
            archive.put("a/b", b"2")
        with pytest.raises(ArchiveUnavailableError, match="Timeout"):
            archive.get("a/b")
        assert time.monotonic() - started < 5
        own_server.go_on()
        archive.put("a/b", b"3")
        assert archive.get("a/b") == b"3"

    def test_memory_stays_flat_while_256_mib_go_up_and_are_read_back(
        self, s3_server: S3Server, s3_prefix: str, tmp_path: Path
    ) -> None:
        source = tmp_path / "multiframe.dcm"
        sha256 = large_file(source, 256)
        settings = s3_server.settings(s3_prefix)
        code = f"""
import resource
from pathlib import Path
from shared.archive import open_archive
from shared.settings import SimilisSettings
archive = open_archive(SimilisSettings().archive)
archive.put("a/small", b"1")
archive.verify("a/small", "{hashlib.sha256(b"1").hexdigest()}", 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
archive.put_file("a/large", Path("{source}"), sha256="{sha256}")
archive.verify("a/large", "{sha256}", {256 * MIB})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
        told = {
            "URL": settings.url,
            "ENDPOINT": s3_server.endpoint,
            "ACCESS_KEY_ID": ACCESS_KEY_ID,
            "SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "ALLOW_HTTP": "true",
        }
        environment = os.environ | {f"SIMILIS_ARCHIVE__{name}": value for name, value in told.items()}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 64 * 1024  # KiB; four parts of 8 MiB are 32,768

    def test_a_batch_breaks_off_when_the_server_dies(self, own_server: S3Server, tmp_path: Path) -> None:
        archive = open_archive(own_server.settings(retries=0))
        source = tmp_path / "object.dcm"
        source.write_bytes(b"DICM")
        own_server.kill()
        with pytest.raises(ArchiveUnavailableError):
            archive.put_files((f"a/{number}", source) for number in range(500))
        own_server.start()
        archive.put_files((f"a/{number}", source) for number in range(500))
        assert len(list(archive.list("a"))) == 500


def kill_in_mid_upload(server: S3Server) -> None:
    deadline = time.monotonic() + 30
    while len(server.parts_of_uploads()) < 3:
        assert time.monotonic() < deadline, "the upload never began"
        time.sleep(0.001)
    server.kill()
    assert server.parts_of_uploads(), "the upload was over too soon"


class TestTls:
    @pytest.fixture
    def tls_server(self, s3_binary: Path, tmp_path: Path) -> Iterator[S3Server]:
        certificate, key = self_signed(tmp_path)
        server = S3Server(s3_binary, tmp_path / "tls-s3", certificate=certificate, key=key)
        server.start()
        yield server
        server.kill()

    def test_only_a_server_whose_authority_is_trusted_is_spoken_to(self, tls_server: S3Server) -> None:
        trusting = open_archive(tls_server.settings(ca_file=tls_server.certificate))
        trusting.put("a/b", b"1")
        assert trusting.get("a/b") == b"1"
        with pytest.raises(ArchiveUnavailableError):
            open_archive(tls_server.settings()).get("a/b")


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
