"""Spells the two Grafana dashboards of the chart. Their queries use only what tools/metric.py lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
GRID = 24
HEIGHT = 8
_INTERVAL = "$__rate_interval"
_REQUESTS = "topcoat_api_requests_total"
_JOBS = '{namespace=~"$namespace", finetunejob=~"$finetunejob"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: queries with their legends."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12


def _percentiles(metric: str, *labels: str) -> tuple[tuple[str, str], ...]:
    by = ", ".join(("le", *labels))
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return tuple(
        (f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket[$__rate_interval])))", f"{name} {legend}")
        for share, name in (("0.5", "half"), ("0.99", "99 %"))
    )


OPERATOR = (
    Panel("Version", (("max by (version) (topcoat_build_info)", "{{version}}"),), kind="stat", width=6),
    Panel("Waiting in the queue", (("sum(topcoat_queue_depth)", "objects"),), kind="stat", width=6),
    Panel(
        "Requests that failed",
        (
            (
                f'sum(rate({_REQUESTS}{{code=~"5..|429"}}[{_INTERVAL}])) / sum(rate({_REQUESTS}[{_INTERVAL}]))',
                "share",
            ),
        ),
        "percentunit",
        "stat",
        6,
    ),
    Panel("Jobs that failed", (('sum(topcoat_finetunejobs{phase="Failed"})', "jobs"),), kind="stat", width=6),
    Panel("FineTuneJobs by phase", (("sum by (phase) (topcoat_finetunejobs)", "{{phase}}"),)),
    Panel("Queue", (("sum(topcoat_queue_depth)", "objects"),)),
    Panel("Time to look at one object", _percentiles("topcoat_reconcile_duration_seconds"), "s"),
    Panel(
        "Objects looked at",
        (("sum(rate(topcoat_reconcile_duration_seconds_count[$__rate_interval]))", "a second"),),
        "reqps",
    ),
    Panel(
        "Looks that failed",
        ((f"sum by (kind) (increase(topcoat_reconcile_failures_total[{_INTERVAL}]))", "{{kind}}"),),
    ),
    Panel(
        "Requests to the API server",
        (("sum by (verb, resource) (rate(topcoat_api_requests_total[$__rate_interval]))", "{{verb}} {{resource}}"),),
        "reqps",
    ),
    Panel(
        "Requests by code",
        (("sum by (code) (rate(topcoat_api_requests_total[$__rate_interval]))", "{{code}}"),),
        "reqps",
    ),
)

TUNING = (
    Panel("Loss of runs that train now", ((f"topcoat_train_loss{_JOBS}", "{{namespace}}/{{finetunejob}}"),)),
    Panel(
        "Tokens trained a second",
        ((f"topcoat_train_tokens_per_second{_JOBS}", "{{namespace}}/{{finetunejob}}"),),
    ),
    Panel(
        "Score: base model, what serves, candidate",
        ((f"topcoat_eval_score{_JOBS}", "{{namespace}}/{{finetunejob}} {{subject}}"),),
        width=24,
    ),
    Panel("Verdicts", (("sum by (verdict) (increase(topcoat_promotions_total[$__range]))", "{{verdict}}"),)),
    Panel("Runs that ended", (("sum by (result) (increase(topcoat_runs_total[$__range]))", "{{result}}"),)),
    Panel("Time of a run", _percentiles("topcoat_run_duration_seconds", "result"), "s"),
    Panel("Time waited for a pod", _percentiles("topcoat_queue_wait_seconds"), "s"),
    Panel("Versions that serve", ((f"topcoat_adapter_info{_JOBS}", ""),), kind="table", width=24),
)


def files() -> dict[str, str]:
    """File name -> JSON."""
    boards = {
        "operator.json": _board("topcoat-operator", "Topcoat: operator", OPERATOR, ()),
        "tuning.json": _board("topcoat-tuning", "Topcoat: tuned models", TUNING, ("namespace", "finetunejob")),
    }
    return {name: json.dumps(board, indent=1, ensure_ascii=False) + "\n" for name, board in boards.items()}


def _board(uid: str, title: str, panels: tuple[Panel, ...], variables: tuple[str, ...]) -> Json:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    return {
        "uid": uid,
        "title": title,
        "tags": ["topcoat"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source, *(_variable(name) for name in variables)]},
        "panels": _placed(panels),
    }


def _variable(label: str) -> Json:
    return {
        "name": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": f"label_values(topcoat_eval_score, {label})",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "allValue": ".*",
    }


def _placed(panels: tuple[Panel, ...]) -> list[Json]:
    """Panels from left to right, a new row where one does not fit."""
    placed: list[Json] = []
    across = down = 0
    for number, panel in enumerate(panels, start=1):
        if across + panel.width > GRID:
            across, down = 0, down + HEIGHT
        place = {"x": across, "y": down, "w": panel.width, "h": HEIGHT}
        placed.append(_panel(panel, number, place))
        across += panel.width
    return placed


def _panel(panel: Panel, number: int, place: dict[str, int]) -> Json:
    instant = panel.kind == "table"
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "gridPos": place,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"textMode": "name"} if panel.title == "Version" else {},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
            | ({"instant": True, "format": "table"} if instant else {})
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }
