"""Writes README.md of a version: the model card that model hubs read. Facts only; never a row's text, never a promise.

What the model is for is the owner's to say: the card leaves room for it.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Literal

import jinja2

from topcoat.api.promotion import Verdict
from topcoat.api.report import EvaluationReport
from topcoat_trainer import files
from topcoat_trainer.report import html, page, wording

Kind = Literal["lora", "tail"]
WEAK_LABELS_AT_MOST = 3
LABEL_CHARACTERS_AT_MOST = 60
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def write(report: EvaluationReport, kind: Kind, target: Path) -> None:
    """Write the card to `target`, atomically. `kind` is the version's: `lora` or `tail`."""
    files.write_bytes(target, render(report, kind).encode())


def render(report: EvaluationReport, kind: Kind) -> str:
    """The card as text. The same report gives the same card."""
    text = (
        _environment()
        .get_template("card.md.j2")
        .render(
            report=report,
            kind=kind,
            headline=page.headline(report),
            meaning=page.meaning(report),
            rows=page.score_rows(report),
            others=page.other_scores(report),
            limitations=limitations(report),
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def limitations(report: EvaluationReport) -> list[str]:
    """What was measured and speaks against the model, in sentences."""
    data, wrong = report.dataset, len(report.losses)
    found = [
        (report.verdict is not Verdict.PROMOTE, f"The gate's verdict is {report.verdict.value}: it is not served."),
        (report.samples < 200, f"Judged on {report.samples} held-out rows only: the intervals are wide."),
        (report.holdout_uses > 1, f"The held-out rows have judged {report.holdout_uses} candidates so far."),
        (wrong > 0, f"On some held-out rows it is worse than the base model: {wrong} of them are in report.html."),
        (data.near_duplicates > 0, f"{data.near_duplicates} held-out rows are very like a training row."),
        (data.truncated > 0, f"{data.truncated} rows were cut because they were too long."),
        (data.dropped > 0, f"{data.dropped} rows were left out because they were too long."),
        (data.invalid > 0, f"{data.invalid} rows were left out because they could not be used."),
    ]
    sentences = [sentence for holds, sentence in found if holds]
    return sentences + _weak_labels(report) + [guard.sentence for guard in report.guards]


def _weak_labels(report: EvaluationReport) -> list[str]:
    """The labels that it gets right least often."""
    if report.confusion is None:
        return []
    counted = [
        (row[index] / sum(row), label, sum(row))
        for index, (label, row) in enumerate(zip(report.confusion.labels, report.confusion.counts, strict=True))
        if sum(row)
    ]
    weakest = sorted(counted)[:WEAK_LABELS_AT_MOST]
    words = [
        f"{label[:LABEL_CHARACTERS_AT_MOST]} ({wording.share(right, 1)} of {rows})"
        for right, label, rows in weakest
        if right < 1
    ]
    return [f"Least often right: {', '.join(words)}."] if words else []


def _plain(value: object) -> object:
    """Untrusted text as one line of Markdown without meaning of its own."""
    if not isinstance(value, str):
        return value
    line = " ".join(str(wording.visible(value)).split())
    return _MARKDOWN.sub(r"\\\1", line)


def _quoted(value: str) -> str:
    """A string as YAML and Python both read it."""
    return json.dumps(str(wording.visible(value)))


def _code(value: str) -> str:
    """One line between backticks."""
    return "`" + " ".join(str(wording.visible(value)).replace("`", "'").split()) + "`"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(  # noqa: S701 (Markdown: `_plain` and its kin make untrusted text harmless)
        loader=jinja2.FileSystemLoader(html.TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=_plain, quoted=_quoted, code=_code, **html.NUMBER_FILTERS)
    return environment
