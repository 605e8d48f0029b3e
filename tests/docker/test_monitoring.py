"""The compose file and what watches the server: every figure they name is one that it has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from container_tools import import_tool
from prometheus_client.parser import text_string_to_metric_families
from tree import ROOT

from samclip.server.metrics import Metrics
from samclip.server.service import Service
from samclip.server.settings import Limits

FOLDER = ROOT / "docker"
DASHBOARD: dict[str, Any] = json.loads(
    (FOLDER / "grafana" / "dashboards" / "samclip.json").read_text("utf-8")
)


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def figures() -> dict[str, set[str]]:
    """Each series that /metrics has after one request of each kind, with its labels."""
    metrics = Metrics()
    Service(SimpleNamespace(encoder_passes=3), Limits(), metrics)  # type: ignore[arg-type]
    metrics.requests.labels("/v1/segment", "200").inc()
    metrics.seconds.labels("/v1/segment").observe(0.1)
    metrics.observe_stages({"encode": 300.0})
    metrics.joined.observe(2)
    found: dict[str, set[str]] = {"up": {"job"}}  # Prometheus adds both
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {"job"}).update(sample.labels)
    return found


def expressions() -> Iterator[str]:
    """Every query of the dashboard and the alerts, with Grafana's variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m")
    for group in load("prometheus/alerts.yml")["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def selectors(node: Any) -> Iterator[Any]:
    """Yield every selector of series in a parsed query."""
    if type(node).__name__ == "VectorSelector":
        yield node
    elif type(node).__name__ == "MatrixSelector":
        yield node.vector_selector
    elif type(node).__name__ == "Call":
        for argument in node.args:
            yield from selectors(argument)
    for name in ("expr", "lhs", "rhs"):
        if hasattr(node, name):
            yield from selectors(getattr(node, name))


def test_queries_name_figures_and_labels_that_the_server_has(figures: dict[str, set[str]]) -> None:
    parse = import_tool("promql_parser").parse
    queries = list(expressions())
    named: set[str] = set()
    for query in queries:
        found = list(selectors(parse(query)))  # ValueError for what Prometheus would refuse
        assert found, query
        for selector in found:
            assert selector.name in figures, f"{query}: the server has no {selector.name}"
            labels = set(re.findall(r'(\w+)=~?"', query))
            grouped = re.findall(r"by \(([\w, ]+)\)", query)
            labels |= {label for group in grouped for label in re.split(r", *", group)}
            assert labels <= figures[selector.name], query
            named.add(selector.name)
    assert len(queries) > 20
    own = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in figures}
    own = {name for name in own if name.startswith("samclip_")}
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in named}
    assert own <= shown  # what the server tells, somebody sees


def test_the_dashboard_is_found_and_its_panels_do_not_overlap() -> None:
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    (provider,) = load("grafana/provisioning/dashboards/samclip.yaml")["providers"]
    services = load("compose.yaml")["services"]
    assert source["url"] == "http://prometheus:9090"
    assert (
        f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    )
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/samclip.json"
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_services_are_pinned_guarded_and_local() -> None:
    compose = load("compose.yaml")
    secrets = compose["secrets"]
    for name, service in compose["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "mem_limit" in service
        assert not service.get("privileged")
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), port
        if name != "samclip":
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), service["image"]
            assert "test" in service["healthcheck"]
        for volume in service["volumes"]:
            source, _, place = volume.partition(":")
            if source.startswith("."):
                assert (FOLDER / source).exists(), volume
                assert place.endswith(":ro"), volume
            else:
                assert source in compose["volumes"]
        assert set(service.get("secrets", ())) <= secrets.keys()
    build = compose["services"]["samclip"]["build"]
    for image in ("cpu", "gpu"):
        file = build["dockerfile"].replace("${SAMCLIP_IMAGE:-cpu}", image)
        assert (FOLDER / build["context"] / file).is_file()
    ignored = (ROOT / ".gitignore").read_text().split()
    for secret in secrets.values():
        assert f"/docker/{secret['file'].removeprefix('./')}" in ignored
    scrape = load("prometheus/prometheus.yml")
    (job,) = scrape["scrape_configs"]
    (target,) = job["static_configs"]
    assert target["targets"] == ["samclip:8000"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/samclip-token"
    assert (
        "./prometheus/alerts.yml:/etc/prometheus/alerts.yml:ro"
        in (compose["services"]["prometheus"]["volumes"])
    )
    assert scrape["rule_files"] == ["/etc/prometheus/alerts.yml"]
    gpu = load("compose.gpu.yaml")["services"]["samclip"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
