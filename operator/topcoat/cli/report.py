"""`topcoat report`: why a version was promoted or not, in the terminal, and where the whole report lies."""

from __future__ import annotations

import contextlib
import json
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from topcoat.api import promotion
from topcoat.api import report as reports
from topcoat.cli import option, place, sealed, show, terminal
from topcoat.plan import shown

STYLES = {
    promotion.Verdict.PROMOTE: "green",
    promotion.Verdict.REJECT: "red",
    promotion.Verdict.INCONCLUSIVE: "yellow",
}


class Form(StrEnum):
    """Forms of a report."""

    TEXT = "text"
    PATH = "path"
    JSON = "json"


@place.given
def report(
    name: option.Job,
    version: option.Version = None,
    output: Annotated[
        Form, typer.Option("--output", "-o", help="Words, the path of the HTML page, or JSON.")
    ] = Form.TEXT,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write the HTML page to a file.", show_default=False)
    ] = None,
    *,
    here: place.Place,
) -> None:
    """Say why a version was promoted or not: the newest one, or --version vN. Rejected versions have a report, too.

    In a cluster the evidence is read through a pod of the job's model server; where there is none, what status has is
    said, and where the report lies.
    """
    found = sealed.latest(here, here.job(name), version)
    page = found.files.where(sealed.REPORT)
    if save is not None:
        _save(found, save)
        return
    if output is Form.PATH:
        with contextlib.suppress(sealed.OutOfReach):
            found.page()  # there, and as it was sealed
        terminal.say(page)
        return
    try:
        evidence = found.evaluation()
    except sealed.OutOfReach as why:
        if output is Form.JSON:
            raise
        _show_status(found, page, why)
        return
    if output is Form.JSON:
        terminal.say(json.dumps(evidence.as_json(), indent=2, ensure_ascii=False))
        return
    _show(found, evidence)
    terminal.say(f"Report  {page}")
    terminal.next_step(
        f"topcoat compare {name} --version {found.entry.version}{here.words}", "shows answers side by side"
    )


def _save(found: sealed.Sealed, target: Path) -> None:
    if target.exists():
        terminal.fail("it is there already", where=str(target), hint="name a file that is not there yet")
    target.write_bytes(found.page())
    terminal.say(f"The report of {found.entry.version} is in {target}.")


def _show_status(found: sealed.Sealed, page: str, why: sealed.OutOfReach) -> None:
    """What status has, where nobody here can read the volume."""
    name, version = found.job.metadata.name, found.entry.version
    said = found.job.status.evaluation if found.job.status else None
    terminal.say(f"{terminal.paint(f'{name} {version}', 'bold')}  {found.entry.verdict}, now {found.entry.state}")
    newest = found.job.status.versions[-1].version if found.job.status else ""
    if said is not None and version == newest:
        terminal.say(f"  {said.metric}: base {said.base}, candidate {said.candidate}, {said.samples:,} held-out rows")
        terminal.say(f"  better by {said.delta}; the lower bound is {said.lower_bound}")
        for reason in said.reasons:
            terminal.say(f"  - {terminal.clean(reason)}")
    elif found.entry.score:
        terminal.say(f"  score {found.entry.score}")
    terminal.say(f"Report  {page}")
    terminal.note(f"It was not read: {why.message}. {why.hint}.")


def _show(found: sealed.Sealed, evidence: reports.EvaluationReport) -> None:
    title = f"{found.job.metadata.name} {found.entry.version}"
    verdict = terminal.paint(evidence.verdict, STYLES[evidence.verdict])
    terminal.say(f"{terminal.paint(title, 'bold')}  {verdict}, now {found.entry.state}")
    for reason in evidence.reasons:
        terminal.say(f"  - {terminal.clean(reason)}")
    rule = textwrap.fill(terminal.clean(evidence.rule), terminal.width() - 8, subsequent_indent=" " * 8)
    terminal.say(f"  {terminal.paint('Rule', 'dim')}  {rule}\n")
    scores(evidence.scores, evidence.metric)
    terminal.say()
    estimates(evidence.estimate_checks)
    _trials(evidence)
    notes = [*evidence.dataset.notes, *evidence.lineage.notes]
    for note in notes:
        terminal.say(f"  - {terminal.clean(note)}")
    if notes:
        terminal.say()


def _trials(evidence: reports.EvaluationReport) -> None:
    """What was chosen by trials, and among what."""
    layers = [
        [
            _marked(str(row.layers), row.chosen),
            str(row.steps),
            _loss(row.loss),
            f"{row.gain_share:.0%}",
            f"{row.relative_cost:.2g} x",
            terminal.clean(row.note),
        ]
        for row in evidence.layer_trials
    ]
    values = [
        [
            _marked(f"{row.learning_rate:g}", row.chosen),
            "" if row.rank is None else str(row.rank),
            str(row.steps),
            _loss(row.loss),
            terminal.clean(row.note),
        ]
        for row in evidence.sweep_trials
    ]
    for heads, cells in (
        (["Layers tried", "Steps", "Loss", "Of the best gain", "Cost", "Note"], layers),
        (["Learning rate tried", "Rank", "Steps", "Loss", "Note"], values),
    ):
        if cells:
            show.table(heads, cells, indent="  ")
            terminal.say()


def _marked(text: str, chosen: bool) -> str:
    return f"{text} chosen" if chosen else text


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.3f}"


def scores(rows: list[reports.Score], first_metric: str) -> None:
    """The score table: the first measure of every subject, then the other measures of base, serving and candidate."""
    judged = {"base", "base constrained", "serving", "candidate"}
    kept = [row for row in rows if row.metric == first_metric or row.subject in judged]
    kept.sort(key=lambda row: row.metric != first_metric)
    cells = [
        [
            row.subject,
            row.metric,
            f"{row.value:.3f}",
            f"{row.lower:.3f} to {row.upper:.3f}",
            str(row.samples),
            f"{row.prompt_tokens:.0f}" if row.prompt_tokens is not None else "",
            f"{row.seconds_per_answer:.3f}" if row.seconds_per_answer is not None else "",
        ]
        for row in kept
    ]
    show.table(["Subject", "Measure", "Score", "95 % interval", "Rows", "Tokens", "Seconds"], cells, indent="  ")


def estimates(checks: list[reports.EstimateCheck]) -> None:
    """What was estimated before the run, beside what was measured in it."""
    if not checks:
        return
    cells = [
        [
            check.part,
            _amount(check.unit, check.estimated, "unknown"),
            _amount(check.unit, check.measured, ""),
            "" if check.ratio is None else f"{check.ratio:.2f}",
        ]
        for check in checks
    ]
    show.table(["Need", "Estimated", "Measured", "Ratio"], cells, indent="  ")
    terminal.say()


def _amount(unit: reports.Unit, value: float | None, missing: str) -> str:
    if value is None:
        return missing
    if unit is reports.Unit.BYTES:
        return shown.size(shown.whole(value))
    return f"{value:.1f} s" if unit is reports.Unit.SECONDS else f"{value:.3f} h"
