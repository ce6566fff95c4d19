"""Dashboards and alerts ask only for metrics of the table, and each alert tells what to do."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.support import charts
from topcoat.api import conditions, finetunejob, promotion
from topcoat.handlers import metrics

ALERTS: list[dict[str, str]] = yaml.safe_load((charts.CHART / "alerts.yaml").read_text())["alerts"]
BOARDS: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text()) for path in sorted((charts.CHART / "dashboards").glob("*.json"))
}


def _tool(name: str) -> ModuleType:
    """A module of tools/, which is no package."""
    place = charts.ROOT / "tools" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"tool_{name}", place)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


METRICS = _tool("metric").METRICS
DIGEST = "sha256:" + "1" * 64
LABELS = {series: {*metric.labels, "le"} for metric in METRICS for series in metric.series}


def queries() -> list[str]:
    shown = [target["expr"] for board in BOARDS.values() for panel in board["panels"] for target in panel["targets"]]
    return [*shown, *(alert["expr"] for alert in ALERTS)]


def unknown(query: str) -> list[str]:
    """Names of metrics and labels in a query that the table lacks."""
    series = set(re.findall(r"\btopcoat_\w+", query))
    missing = sorted(series - set(LABELS))
    allowed = {label for name in series & set(LABELS) for label in LABELS[name]}
    asked = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    asked |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=~?|!=)\"", query))
    return missing + sorted(asked - allowed)


def test_every_query_uses_metrics_and_labels_of_the_table() -> None:
    assert [(query, unknown(query)) for query in queries() if unknown(query)] == []
    assert len(queries()) >= 25
    assert unknown('sum by (node) (topcoat_missing{x="y"})') == ["topcoat_missing", "node", "x"]


def test_the_operators_metrics_are_those_of_the_table() -> None:
    found = metrics.Metrics("1")
    found.watch(list, lambda: 0, Counter({("GET", "Pod", 200): 1}))
    families = {family.name: family for family in found.registry.collect()}
    shown = {(name if family.type != "counter" else f"{name}_total"): family.type for name, family in families.items()}
    assert shown == {metric.name: metric.kind for metric in METRICS}
    labels = {metric.name: metric.labels for metric in METRICS}
    counted = (found.runs, found.run_seconds, found.queue_wait_seconds, found.promotions, found.failures)
    for series in (*counted, found.reconcile_seconds):
        (family,) = series.describe()
        assert series._labelnames == labels.get(family.name, labels.get(f"{family.name}_total"))


def told(job: finetunejob.FineTuneJob) -> set[tuple[str, tuple[str, ...], float]]:
    """Name, values of the labels in the table's order, and value, of what is said of one job."""
    found = metrics.Metrics("1")
    found.watch(lambda: [job], lambda: 0, Counter())
    order = {metric.name: metric.labels for metric in METRICS}
    samples = [sample for family in found.registry.collect() for sample in family.samples]
    mine = [sample for sample in samples if "finetunejob" in sample.labels]
    return {(one.name, tuple(one.labels[label] for label in order[one.name]), one.value) for one in mine}


def test_what_a_job_says_is_told_as_long_as_it_is_true() -> None:
    evaluation = {"base": "0.4", "candidate": "0.9", "verdict": "Promote"}
    said = {
        "phase": "Training",
        "progress": {"loss": "1.5", "tokensPerSecond": "820"},
        "evaluation": evaluation,
        "servedVersion": "v1",
        "versions": [
            {"version": "v1", "digest": DIGEST, "state": "Promoted"},
            {"version": "v2", "digest": DIGEST, "state": "Rejected"},
        ],
    }
    job = _job(said)
    who = ("team", "claims")
    standing = {
        ("topcoat_eval_score", (*who, "base"), 0.4),
        ("topcoat_eval_score", (*who, "candidate"), 0.9),
        ("topcoat_adapter_info", (*who, "v1", DIGEST), 1.0),
    }
    moving = {("topcoat_train_loss", who, 1.5), ("topcoat_train_tokens_per_second", who, 820.0)}
    assert told(job) == standing | moving
    assert told(_job({**said, "phase": "Ready"})) == standing
    assert told(_job({})) == set()


def _job(said: dict[str, Any]) -> finetunejob.FineTuneJob:
    body = {
        "apiVersion": "topcoat.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "claims", "namespace": "team"},
        "spec": {"baseModel": {"uri": "hf://a/b"}, "dataset": {"train": {"uri": "pvc://c/d.jsonl"}}},
    }
    return finetunejob.FineTuneJob.model_validate({**body, "status": said} if said else body)


def test_every_metric_is_shown_somewhere() -> None:
    text = "\n".join(queries())
    assert [metric.name for metric in METRICS if metric.name not in text] == []


def test_values_of_labels_in_queries_exist() -> None:
    text = "\n".join(queries())
    phases = set(re.findall(r'phase="(\w+)"', text))
    assert phases
    assert phases <= {phase.value for phase in conditions.Phase}
    meaning = next(metric.meaning for metric in METRICS if metric.name == "topcoat_promotions_total")
    assert set(re.findall(r"`(\w+)`", meaning)) == {verdict.value for verdict in promotion.Verdict}


def test_dashboards_are_whole() -> None:
    assert set(BOARDS) == {"operator.json", "tuning.json"}
    assert len({board["uid"] for board in BOARDS.values()}) == 2
    for board in BOARDS.values():
        places = [panel["gridPos"] for panel in board["panels"]]
        cells = [(x, place["y"]) for place in places for x in range(place["x"], place["x"] + place["w"])]
        assert len(cells) == len(set(cells))
        assert all(0 <= x < 24 for x, _ in cells)
        assert len({panel["id"] for panel in board["panels"]}) == len(places) >= 8
    (shipped,) = charts.of_kind(charts.variant("everything"), "ConfigMap")
    assert {name: json.loads(text) for name, text in shipped["data"].items()} == {
        f"topcoat-{name}": board for name, board in BOARDS.items()
    }


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_tells_what_to_do(alert: dict[str, str]) -> None:
    page = (charts.ROOT / "docs" / "how-to" / "answer-alerts.md").read_text()
    assert f"## {alert['alert']}\n" in page
    (rule,) = charts.of_kind(charts.variant("everything"), "PrometheusRule")
    spelled = {one["alert"]: one for one in rule["spec"]["groups"][0]["rules"]}[alert["alert"]]
    assert spelled["expr"] == alert["expr"]
    assert spelled["annotations"]["runbook_url"] == f"https://example.com/x#{alert['alert'].lower()}"


def test_no_section_speaks_of_an_alert_that_is_gone() -> None:
    page = (charts.ROOT / "docs" / "how-to" / "answer-alerts.md").read_text()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [alert["alert"] for alert in ALERTS]
