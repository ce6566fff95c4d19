"""`topcoat report`: why a version was promoted or not, in the terminal, and where the whole report lies."""

from __future__ import annotations

import json
import textwrap
from enum import StrEnum
from typing import Annotated

import typer

from topcoat.api import promotion
from topcoat.api import report as reports
from topcoat.cli import option, sealed, show, store, terminal

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


def report(
    name: option.Job,
    version: option.Version = None,
    output: Annotated[
        Form, typer.Option("--output", "-o", help="Words, the path of the HTML page, or JSON.")
    ] = Form.TEXT,
    store_folder: option.Store = option.DEFAULT_STORE,
) -> None:
    """Say why a version was promoted or not: the newest one, or --version vN. Rejected versions have a report, too."""
    here = store.Store(store_folder)
    found = sealed.latest(here, here.job(name), version)
    page = found.folder / sealed.REPORT
    if output is Form.PATH:
        if not page.is_file():
            terminal.fail("the page is missing from a sealed version", where=str(page), hint=sealed.HINT)
        terminal.say(str(page.resolve()))
        return
    evidence = found.evaluation()
    if output is Form.JSON:
        terminal.say(json.dumps(evidence.as_json(), indent=2, ensure_ascii=False))
        return
    _show(found, evidence)
    terminal.say(f"Report  {page.resolve()}")
    terminal.next_step(
        f"topcoat compare {name} --version {found.entry.version}{option.at(store_folder)}", "shows answers side by side"
    )


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
    notes = [*evidence.dataset.notes, *evidence.lineage.notes]
    for note in notes:
        terminal.say(f"  - {terminal.clean(note)}")
    if notes:
        terminal.say()


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
