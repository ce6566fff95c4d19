"""Writes report.html: one file, no script, no request, a content-security policy that forbids both.

Model text is untrusted: autoescape is on, every value passes `wording.visible`, and missing names are errors.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from topcoat.api.report import EvaluationReport
from topcoat_trainer import files
from topcoat_trainer.report import chart, page, wording

TEMPLATES = Path(__file__).parent / "templates"
NUMBER_FILTERS: dict[str, Callable[..., object]] = {
    function.__name__: function
    for function in (
        wording.score,
        wording.difference,
        wording.interval,
        wording.count,
        wording.share,
        wording.seconds,
        wording.size,
        wording.moment,
        wording.elapsed,
        wording.measure,
        wording.plural,
        wording.sentence,
    )
}
"""Filters that the page and the model card share."""


def write(report: EvaluationReport, target: Path) -> None:
    """Write the report's page to `target`, atomically."""
    files.write_bytes(target, render(report).encode())


def render(report: EvaluationReport) -> str:
    """The page as text. The same report gives the same page."""
    rows = page.score_rows(report)
    points = page.curve_points(report)
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            tone=page.TONES[report.verdict],
            meaning=page.meaning(report),
            headline=page.headline(report),
            labels_given=page.labels_given(report),
            worth_it=page.worth_it(report, rows),
            rows=rows,
            others=page.other_scores(report),
            score_picture=_markup(page.score_chart(report, rows)) if rows else None,
            curve_picture=_markup(chart.loss_curve(points)) if points else None,
            matrix=page.matrix(report.confusion) if report.confusion else None,
            held_out=[point for point in points if point.series == "Held-out"],
            labels=page.label_counts(report.dataset.labels),
            labelled=sum(report.dataset.labels.values()),
            checks=page.check_rows(report.estimate_checks),
            total=page.cost_total(report.costs),
            longest=max((cost.seconds for cost in report.costs), default=0.0),
            style=Markup(style),  # noqa: S704 (our own file)
            style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )


def _markup(picture: chart.Picture) -> dict[str, Markup]:
    """The drawing as markup: Vega has escaped every text in it."""
    return {"wide": Markup(picture.wide), "narrow": Markup(picture.narrow)}  # noqa: S704


def _bar(part: float, whole: float) -> Markup:
    """A bar as wide as its share; attributes only, since the policy allows no inline style."""
    percent = 100 * part / whole if whole > 0 else 0.0
    return Markup('<svg class="bar" width="100%" height="8"><rect width="{:.1f}%" height="8" rx="2"/></svg>').format(
        percent
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=wording.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["bar"] = _bar
    environment.filters.update(
        NUMBER_FILTERS | {f.__name__: f for f in (wording.cut, page.says, page.outcome_in_short)}
    )
    return environment
