"""Prometheus and Grafana against the code: a panel or an alert on a metric that does not exist shows nothing."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.composition import DEPLOY, ROOT

PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "similis.json"
# What a metric of each kind is called when it is scraped.
SUFFIXES = {
    "Counter": ("_total",),
    "Gauge": ("",),
    "Histogram": ("_bucket", "_sum", "_count"),
    "Summary": ("_sum", "_count"),
}
ADDED_LABELS = {"job", "instance", "le"}  # by Prometheus, and by histograms
_METRIC = re.compile(r"\bsimilis_\w+")
_SELECTOR = re.compile(r"\b(similis_\w+)\{([^}]*)\}")


def metrics_in(source: str) -> dict[str, set[str]]:
    """Scraped names with their labels, of the metrics that a module makes."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SUFFIXES):
            continue
        if not (node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)):
            continue
        name = node.args[0].value
        labels = {
            element.value
            for argument in node.args[2:3]
            if isinstance(argument, (ast.List, ast.Tuple))
            for element in argument.elts
            if isinstance(element, ast.Constant) and isinstance(element.value, str)
        }
        for suffix in SUFFIXES[node.func.id]:
            found[name.removesuffix("_total") + suffix if suffix == "_total" else name + suffix] = labels
    return found


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for room in ("shared", "services"):
        for path in sorted((ROOT / room).rglob("*.py")):
            found |= metrics_in(path.read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in panels(dashboard) for target in panel.get("targets", [])
    ]


def wrong_names(expression: str, metrics: dict[str, set[str]]) -> list[str]:
    """Metrics and labels that `expression` names and the code does not have."""
    names = set(_METRIC.findall(expression))
    wrong = sorted(names - metrics.keys())
    known = ADDED_LABELS.union(*(metrics.get(name, set()) for name in names))
    for name, selector in _SELECTOR.findall(expression):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            if label not in metrics.get(name, set()) | ADDED_LABELS:
                wrong.append(f"{name}{{{label}}}")
    if names:
        for grouping in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", expression):
            wrong += [
                f"by ({label})" for label in re.split(r"[\s,]+", grouping.strip()) if label and label not in known
            ]
    return wrong


def test_every_metric_and_label_in_alerts_and_panels_exists_in_the_code(metrics: dict[str, set[str]]) -> None:
    wrong = {expression: names for expression in expressions() if (names := wrong_names(expression, metrics))}
    assert wrong == {}


def test_a_misspelled_metric_or_label_is_noticed() -> None:
    metrics = metrics_in('A = Counter("similis_a", "A.", ["topic"])\nB = Histogram("similis_b_seconds", "B.")')
    assert set(metrics) == {
        "similis_a_total",
        "similis_b_seconds_bucket",
        "similis_b_seconds_sum",
        "similis_b_seconds_count",
    }
    assert wrong_names('sum by (topic) (rate(similis_a_total{topic="x"}[5m]))', metrics) == []
    assert wrong_names("rate(similis_a[5m])", metrics) == ["similis_a"]
    assert wrong_names('similis_a_total{tpic="x"}', metrics) == ["similis_a_total{tpic}"]
    assert wrong_names("sum by (error) (similis_a_total)", metrics) == ["by (error)"]


def test_every_service_has_a_panel_and_an_alert() -> None:
    shown = " ".join(expressions())
    for prefix in ("listener", "embedder", "explainer", "query", "events", "index"):
        assert f"similis_{prefix}_" in shown, prefix
    alerts = {rule["alert"] for rule in rules()}
    assert {"SimilisDeadLetters", "SimilisConsumerStuck", "SimilisDiskLow", "SimilisPublishRetries"} <= alerts


def test_alerts_say_what_is_wrong_and_how_bad_it_is() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_the_dashboard_is_what_grafana_is_told_to_load(containers: dict[str, Any]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/similis.yml").read_text())["providers"][0]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in containers["grafana"]["volumes"]
    home = containers["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    identities = [panel["id"] for panel in panels(dashboard)]
    assert len(identities) == len(set(identities))
    for panel in panels(dashboard):
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == source["uid"], panel["title"]
            assert panel["targets"], panel["title"]
            assert panel["description"], panel["title"]
    assert "research use only" in json.dumps(dashboard).lower()


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels(json.loads(DASHBOARD.read_text())):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]


def test_prometheus_scrapes_every_service_where_it_listens(containers: dict[str, Any]) -> None:
    scraped = {}
    for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            scraped[job["job_name"]] = (found["names"][0], str(found["port"]))
        for static in job.get("static_configs", []):
            scraped[job["job_name"]] = tuple(static["targets"][0].split(":"))
    environment = {name: container.get("environment", {}) for name, container in containers.items()}
    expected = {
        name: (name, environment[name]["SIMILIS_MONITORING__PORT"]) for name in ("listener", "embedder", "explainer")
    }
    # The query service has its metrics on its own port.
    expected["query"] = ("query", environment["query"]["SIMILIS_QUERY__PORT"])
    expected["qdrant"] = ("qdrant", environment["qdrant"]["QDRANT__SERVICE__METRICS_PORT"])
    assert scraped == expected


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus); names were checked without it")
    return program


def test_promtool_accepts_the_configuration_and_the_rules(promtool: str) -> None:
    answer = subprocess.run(
        [promtool, "check", "config", "prometheus.yml"],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    answer = subprocess.run(
        [promtool, "test", "rules", str(Path(__file__).with_name("alerts_test.yml"))],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_promtool_parses_every_panel(promtool: str, tmp_path: Path) -> None:
    numbered = enumerate(expressions())
    groups = [{"name": "panels", "rules": [{"record": f"panel:{i}", "expr": panel_query(e)} for i, e in numbered]}]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    answer = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def panel_query(expression: str) -> str:
    """The expression with Grafana's variables filled in."""
    return expression.replace("$__rate_interval", "1m").replace("$__range", "1h")
