"""docker-compose.yml against the code, and against Compose itself where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from services.cli import app
from shared.settings import SimilisSettings
from tests.deploy.composition import COMPOSE_FILE, DEPLOY, ROOT, SECRETS, SETTINGS, interpolate

OURS = sorted(SETTINGS)


def unknown_settings(names: Iterator[str] | list[str], settings: type[SimilisSettings]) -> list[str]:
    """The SIMILIS_* names that are no setting of `settings`."""
    unknown = []
    for name in names:
        model: Any = settings
        for part in name.removeprefix("SIMILIS_").lower().split("__"):
            fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
            if part not in fields:
                unknown.append(name)
                break
            model = fields[part].annotation
    return unknown


def similis_environment(container: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in container["environment"].items() if name.startswith("SIMILIS_")}


def seconds(duration: str) -> float:
    amount, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()  # type: ignore[union-attr]
    return int(amount) * {"s": 1, "m": 60}[unit]


def variables_of(text: str) -> set[str]:
    return set(re.findall(r"\$\{(\w+)", text))


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_service_is_one_of_its_settings(name: str, containers: dict[str, Any]) -> None:
    assert unknown_settings(list(similis_environment(containers[name])), SETTINGS[name]) == []


def test_a_misspelled_or_foreign_variable_is_noticed() -> None:
    names = ["SIMILIS_LISTENER__PORT", "SIMILIS_LISTENER__PROT", "SIMILIS_QUERY__PORT", "SIMILIS_KAFKA__BOOTSTRAP__X"]
    assert unknown_settings(names, SETTINGS["listener"]) == names[1:]


@pytest.mark.parametrize("name", OURS)
def test_a_service_accepts_the_values_it_is_given(
    name: str, containers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("SIMILIS_")]:
        monkeypatch.delenv(variable)
    for variable, value in similis_environment(containers[name]).items():
        monkeypatch.setenv(variable, interpolate(value, SECRETS))
    settings = SETTINGS[name]()
    assert settings.kafka.bootstrap == "kafka:19092"
    assert settings.archive.url == "/var/lib/similis/archive"
    assert settings.monitoring.port == 9100
    assert settings.log_format == "json"


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_subcommand_from_an_image_of_its_own_extra(name: str, containers: dict[str, Any]) -> None:
    container = containers[name]
    command = get_command(app)
    for word in container["command"]:
        assert word in command.commands  # type: ignore[attr-defined]
        command = command.commands[word]  # type: ignore[attr-defined]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extra = container["build"]["args"]["SERVICE"]
    assert extra in extras
    assert container["image"] == f"similis-{extra}"
    assert extra == name or name == "topics"


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_confined(name: str, containers: dict[str, Any]) -> None:
    container = containers[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "/tmp" in container["tmpfs"]
    assert container["init"] is True


def test_every_container_is_pinned_limited_and_restarted(containers: dict[str, Any]) -> None:
    for name, container in containers.items():
        assert "no-new-privileges:true" in container["security_opt"], name
        assert container["logging"]["options"]["max-size"], name
        if "build" not in container:
            tag = container["image"].rpartition(":")[2]
            assert re.search(r"\d+\.\d+\.\d+", tag), name
        if name == "topics":
            assert container["restart"] == "no"
            continue
        assert container["restart"] == "unless-stopped", name
        assert set(container["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert seconds(container["stop_grace_period"]) >= 30, name


@pytest.mark.parametrize("name", ["embedder", "explainer"])
def test_a_worker_may_finish_its_record_before_it_is_killed(name: str, containers: dict[str, Any]) -> None:
    container = containers[name]
    stop_timeout_s = float(container["environment"]["SIMILIS_KAFKA__STOP_TIMEOUT_S"])
    assert stop_timeout_s + 15 <= seconds(container["stop_grace_period"])


def test_ports_are_bound_to_loopback_unless_told_otherwise(containers: dict[str, Any]) -> None:
    published = [port for container in containers.values() for port in container.get("ports", [])]
    assert len(published) == 5
    for port in published:
        assert interpolate(port, {}).startswith("127.0.0.1:"), port


def test_every_secret_must_come_from_the_environment(containers: dict[str, Any]) -> None:
    secret = re.compile(r"(API_KEY|PASSWORD|SECRET|TOKEN)$")
    found = 0
    for name, container in containers.items():
        for variable, value in container.get("environment", {}).items():
            if secret.search(variable):
                found += 1
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
    assert found == 4


def test_only_the_listener_holds_the_pseudonym_key_and_the_journal(containers: dict[str, Any]) -> None:
    for private in ("listener-keys", "journal"):
        assert [name for name, c in containers.items() if any(v.startswith(private) for v in c.get("volumes", []))] == [
            "listener"
        ]


def test_every_volume_is_declared_and_the_query_service_cannot_write_the_archive(
    compose: dict[str, Any], containers: dict[str, Any]
) -> None:
    used = {
        volume.split(":")[0]
        for container in containers.values()
        for volume in container.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == set(compose["volumes"])
    assert "archive:/var/lib/similis/archive:ro" in containers["query"]["volumes"]


def test_whoever_may_write_the_archive_over_http_is_asked_who_they_are(containers: dict[str, Any]) -> None:
    added = yaml.safe_load((DEPLOY / "compose.access.yml").read_text())
    query = added["services"]["query"]
    assert unknown_settings(list(query["environment"]), SETTINGS["query"]) == []
    assert query["environment"]["SIMILIS_QUERY__AUTH__REQUIRED"] == "true"
    keys_file = Path(query["environment"]["SIMILIS_QUERY__AUTH__KEYS_FILE"])
    mounted = dict(volume.split(":") for volume in query["volumes"])
    assert mounted["query-keys"] == str(keys_file.parent)
    assert mounted["archive"] == containers["query"]["environment"]["SIMILIS_ARCHIVE__URL"]
    assert set(added["volumes"]) == {"query-keys"}


def test_folders_that_are_mounted_from_here_exist(containers: dict[str, Any]) -> None:
    folders = [v.split(":")[0] for c in containers.values() for v in c.get("volumes", []) if v.startswith(".")]
    assert folders
    for folder in folders:
        assert (ROOT / folder).is_dir()


def test_kafka_makes_no_topic_by_itself_and_is_reached_by_the_advertised_name(containers: dict[str, Any]) -> None:
    environment = containers["kafka"]["environment"]
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    advertised = dict(entry.split("://") for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised["INTERNAL"] == containers["embedder"]["environment"]["SIMILIS_KAFKA__BOOTSTRAP"]
    assert interpolate(advertised["HOST"], {}) == interpolate(containers["kafka"]["ports"][0], {}).rpartition(":")[0]
    assert environment["KAFKA_LOG_DIRS"] in containers["kafka"]["volumes"][0]


def test_qdrant_wants_the_key_that_the_services_send_and_reports_to_nobody(containers: dict[str, Any]) -> None:
    environment = containers["qdrant"]["environment"]
    assert environment["QDRANT__TELEMETRY_DISABLED"] == "true"
    for name in ("embedder", "query"):
        key = containers[name]["environment"]["SIMILIS_QDRANT__API_KEY"]
        assert key == environment["QDRANT__SERVICE__API_KEY"], name


def test_services_wait_for_what_they_need(containers: dict[str, Any]) -> None:
    for name in ("listener", "embedder", "explainer"):
        assert containers[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    for name in ("embedder", "query"):
        assert containers[name]["depends_on"]["qdrant"]["condition"] == "service_healthy"
    assert containers["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"


def test_the_example_environment_names_every_variable_and_holds_no_secret(compose: dict[str, Any]) -> None:
    example = (DEPLOY / "env.example").read_text()
    named = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", example, flags=re.MULTILINE))
    assert named == variables_of(COMPOSE_FILE.read_text())
    for secret in SECRETS:
        assert re.search(rf"^{secret}=$", example, flags=re.MULTILINE)
    defaults = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", example, flags=re.MULTILINE))
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE_FILE.read_text()):
        assert defaults[name] == default


def compose_command() -> list[str] | None:
    """Docker Compose as a plugin, or else as a program of its own."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.fixture(scope="module")
def compose_program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    command = compose_command()
    if command is None:
        pytest.skip("Docker Compose is not installed; the file's structure was checked without it")
    # A developer's own .env must not decide.
    nothing = tmp_path_factory.mktemp("compose") / "empty.env"
    nothing.touch()
    return [*command, "--env-file", str(nothing)]


def config(program: list[str], files: list[Path], secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SIMILIS_", "GRAFANA_"))}
    arguments = [argument for file in files for argument in ("-f", str(file))]
    return subprocess.run(
        [*program, *arguments, "config", "-q"],
        env={**environment, **secrets},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "more", [[], [DEPLOY / "compose.gpu.yml"], [DEPLOY / "compose.access.yml"]], ids=["cpu", "gpu", "access"]
)
def test_compose_accepts_the_file(compose_program: list[str], more: list[Path]) -> None:
    answer = config(compose_program, [COMPOSE_FILE, *more], SECRETS)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_compose_refuses_to_start_without_a_secret(compose_program: list[str], missing: str) -> None:
    given = {name: value for name, value in SECRETS.items() if name != missing}
    answer = config(compose_program, [COMPOSE_FILE], given)
    assert answer.returncode != 0
    assert "env.example" in answer.stderr
