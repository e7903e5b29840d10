"""Dashboard, alerts and load configs ask only for what exists."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from corerec.serving.metrics import Metrics
from corerec.v1 import recommender_pb2

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

pytestmark = pytest.mark.timeout(600)  # the first run builds kustomize


def test_alerts_and_dashboard_ask_only_for_metrics_that_exist() -> None:
    known = {family.name for family in Metrics().registry.collect()}
    dashboard = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    rules = yaml.safe_load((DEPLOY / "monitoring/rules.yaml").read_text())
    asked += [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    names = {n for e in asked for n in re.findall(r"\b(?:corerec|rpc_server)_\w+", e)}
    plain = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in names}
    assert plain
    assert plain <= {re.sub(r"_total$", "", name) for name in known}


def test_the_monitoring_folder_renders(
    rendered: Callable[[str], list[dict[str, Any]]],
) -> None:
    kinds = {m["kind"] for m in rendered("monitoring")}
    assert kinds == {"PodMonitor", "PrometheusRule", "ConfigMap"}


def test_ghz_configs_call_a_method_that_exists_with_fields_that_exist() -> None:
    service = recommender_pb2.DESCRIPTOR.services_by_name["RecommenderService"]
    for path in sorted((DEPLOY / "ghz").glob("*.json")):
        config = json.loads(path.read_text())
        full, method = config["call"].split("/")
        assert full == service.full_name
        fields = service.methods_by_name[method].input_type.fields_by_name
        assert set(config["data"]) <= set(fields)
        assert (ROOT / config["proto"]).exists()


def test_the_operators_page_lists_exactly_the_metrics_that_exist() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    listed = set(re.findall(r"^\| `((?:corerec|rpc)_\w+)` \|", page, flags=re.MULTILINE))
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Metrics().registry.collect()
    }
    assert listed == {name for name in families if name.startswith(("corerec_", "rpc_"))}
