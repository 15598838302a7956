"""API keys: made, listed and revoked by the command line while a real service runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from light_box_seed import Seed
from typer.testing import CliRunner

from services.query.access.access import open_access
from services.query.access.api_keys import ApiKeys, changing, new_key, read_keys
from services.query.access.errors import CredentialRefusedError
from services.query.access.settings import AuthSection
from services.query.access.users import Role
from services.query.key_commands import keys_app
from services.query.settings import QuerySection, QuerySettings
from shared.errors import ConfigurationError
from shared.health import bind, serve
from tests.services.query.conftest import ready_app


def keys(*arguments: object, file: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(keys_app, [*map(str, arguments), "--file", str(file)])
    return done.exit_code, done.stdout, done.stderr


def made(file: Path, name: str = "reading-room", role: str = "reader", **more: object) -> str:
    options = [part for option, value in more.items() for part in (f"--{option.replace('_', '-')}", value)]
    status, out, _ = keys("add", name, "--role", role, *options, file=file)
    assert status == 0
    return out.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "query.json"


@contextlib.asynccontextmanager
async def served(seed: Seed, file: Path, **options: int) -> AsyncIterator[httpx.AsyncClient]:
    auth = AuthSection(keys_file=file)
    app = ready_app(
        seed, QuerySettings(query=QuerySection(catalogue_max_age_s=0, auth=auth, event_keep_alive_s=0.05, **options))
    )
    async with (
        serve(app, bind("127.0.0.1", 0), grace_s=5) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        yield client


async def status_of(client: httpx.AsyncClient, key: str) -> int:
    answer = await client.get("/v1/studies", headers={"authorization": f"Bearer {key}"})
    assert key not in answer.text
    return answer.status_code


async def test_a_key_opens_from_when_it_is_made_until_it_is_revoked(empty: Seed, file: Path):
    first = made(file)
    async with served(empty, file) as client:
        assert (await client.get("/v1/studies")).status_code == 401
        assert await status_of(client, first) == 200
        second = made(file, "guest")
        assert await status_of(client, second) == 200
        key_id = first.split("_")[1]
        assert keys("revoke", key_id, file=file)[0] == 0
        assert await status_of(client, first) == 401
        assert await status_of(client, second) == 200
    assert keys("revoke", key_id, file=file)[0] == 3


async def test_one_user_cannot_take_all_places_of_the_stream_of_events(empty: Seed, file: Path):
    alice, bob = made(file, "alice"), made(file, "bob")
    async with served(empty, file, event_listeners_per_user_max=1) as client:

        def stream(key: str) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
            return client.stream("GET", "/v1/events", headers={"authorization": f"Bearer {key}"})

        async with stream(alice) as first:
            assert first.status_code == 200
            async with stream(alice) as second, stream(bob) as other:
                assert (second.status_code, other.status_code) == (503, 200)
        async with asyncio.timeout(5):
            while True:
                async with stream(alice) as again:
                    if again.status_code == 200:
                        break
                await asyncio.sleep(0.05)


def test_a_key_is_shown_once_and_kept_as_a_hash_for_the_owner_alone(file: Path):
    key = made(file, "alice", "operator", expires_days=30)
    assert len(key) == len("similis_") + 12 + 1 + 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key.rsplit("_", 1)[1] not in file.read_text()
    assert key[21:] not in file.read_text()
    status, out, _ = keys("list", file=file)
    assert status == 0
    assert key[21:] not in out
    record = json.loads(file.read_text())["keys"][0]
    assert record["key_id"] in out
    assert record["sha256"] not in out
    assert "operator" in out
    assert "alice" in out
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["", "a b", "-x", "näh", "x" * 65, "a\n"])
def test_names_are_plain(file: Path, name: str):
    assert keys("add", "--role", "reader", "--", name, file=file)[0] == 2
    assert not file.exists()


async def test_a_key_ends_at_its_time(empty: Seed, file: Path):
    now = datetime.now(UTC)
    key, record = new_key("brief", Role.READER, created_at=now, expires_at=now + timedelta(seconds=1))
    with changing(file) as records:
        records.append(record)
    async with served(empty, file) as client:
        assert await status_of(client, key) == 200
        await asyncio.sleep(1.05)
        assert await status_of(client, key) == 401
    assert "ended" in keys("list", file=file)[1]


async def test_a_file_that_breaks_while_the_service_runs_opens_nothing(empty: Seed, file: Path):
    key = made(file)
    kept = file.read_text()
    async with served(empty, file) as client:
        assert await status_of(client, key) == 200
        for broken in ("{", '{"version": 2, "keys": []}', kept.replace("reader", "king")):
            file.write_text(broken)
            assert await status_of(client, key) == 503
        file.chmod(0o666)
        assert await status_of(client, key) == 503
        file.unlink()
        assert await status_of(client, key) == 503
        file.write_text(kept)
        assert await status_of(client, key) == 200


def test_a_service_does_not_start_on_a_file_it_cannot_trust(file: Path):
    def start() -> None:
        open_access(AuthSection(keys_file=file), host="127.0.0.1", retry_after_s=1)

    with pytest.raises(ConfigurationError, match="similis keys add"):
        start()
    made(file)
    start()
    file.chmod(0o620)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        start()
    file.chmod(0o600)
    file.write_text(file.read_text().replace("[", "[{},", 1))
    with pytest.raises(ConfigurationError, match="no file of API keys"):
        start()


def test_a_wrong_set_up_ends_the_service_with_a_message(tmp_path: Path):
    environment = {
        **os.environ,
        "SIMILIS_QUERY__AUTH__KEYS_FILE": str(tmp_path / "none.json"),
        "SIMILIS_QUERY__PORT": "0",
        "SIMILIS_ARCHIVE__URL": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from services.query.app import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "similis query: the file of API keys" in done.stderr


def test_keys_that_are_added_at_the_same_time_are_all_kept(file: Path):
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda number: made_directly(file, f"k{number}"), range(16)))
    assert {record.key_id for record in read_keys(file).keys} == set(added)


def made_directly(file: Path, name: str) -> str:
    _, record = new_key(name, Role.READER, created_at=datetime.now(UTC), expires_at=None)
    with changing(file) as records:
        time.sleep(0.002)
        records.append(record)
    return record.key_id


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_but_the_very_key_is_taken(file: Path, data: st.DataObject):
    if not file.exists():
        made(file)
    known = ApiKeys(file)
    key_id = read_keys(file).keys[0].key_id
    secret = data.draw(st.text(max_size=50) | st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True))
    for attempt in (f"similis_{key_id}_{secret}", f"similis_{secret}", secret):
        with pytest.raises(CredentialRefusedError):
            known.user_of(attempt)
