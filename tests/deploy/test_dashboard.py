"""Dashboard and alerts: whatever they ask for exists, and whatever exists is shown."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clm_ray.serve.measures import MEASURES

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bray_[a-z0-9_]+\b")
LABELS = re.compile(r"(ray_clm_[a-z0-9_]+)\{([^}]*)\}")
OURS = {exported: measure for measure in MEASURES.values() for exported in measure.exported}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((DEPLOY / "grafana" / "clm_ray.json").read_text(encoding="utf-8"))
    return made


def queries(dashboard: dict[str, Any]) -> list[str]:
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return asked + [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]


def alerts() -> list[dict[str, Any]]:
    read = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


def known_to_ray() -> set[str]:
    """Serve's own metrics, by the dashboard that Ray ships."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "dashboard" / "modules" / "metrics" / "dashboards"
    return set(NAME.findall((folder / "serve_dashboard_panels.py").read_text(encoding="utf-8")))


def test_every_query_names_a_metric_that_exists(dashboard: dict[str, Any]) -> None:
    for query in [*queries(dashboard), *(rule["expr"] for rule in alerts())]:
        names = set(NAME.findall(query))
        assert names, query
        for name in names:
            assert name in OURS or name in known_to_ray(), f"{name} in {query}"


def test_every_metric_is_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    asked = {name for query in queries(dashboard) for name in NAME.findall(query)}
    for measure in MEASURES.values():
        assert asked & set(measure.exported), f"{measure.name} is shown nowhere"


def test_every_label_that_a_query_asks_for_is_one_of_its_metric(dashboard: dict[str, Any]) -> None:
    for query in [*queries(dashboard), *(rule["expr"] for rule in alerts())]:
        for name, selector in LABELS.findall(query):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            assert asked <= set(OURS[name].tags), query
        tags = {tag for name in NAME.findall(query) if name in OURS for tag in OURS[name].tags}
        if tags:
            for grouped in re.findall(r"by \(([^)]*)\)", query):
                assert {label.strip() for label in grouped.split(",")} <= tags | {"le", "deployment"}, query


def test_panels_have_names_and_places_of_their_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_alerts_are_complete_and_explained_in_the_documentation() -> None:
    page = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]
        assert rule["alert"] in page, "docs/operations.md says what to do"


def test_prometheus_reads_the_alerts_that_are_there() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert [(DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"]] == [True]
    (scrape,) = config["scrape_configs"]
    assert scrape["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
