"""`topcoat doctor`: what is wrong with a data file, row by row, or with a cluster, check by check. Needs no model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from topcoat.api import dataset, exits
from topcoat.cli import cluster as clusters
from topcoat.cli import option, place, show, terminal, trainer_process

Report = dict[str, Any]
LISTED_PROBLEMS = 20
LISTED_LABELS = 12
VERDICT_STYLES = {"ok": "green", "blocks": "red", "mind": "yellow", "unknown": "dim"}

doctor = typer.Typer(add_completion=False, rich_markup_mode=None)


@doctor.callback()
def _doctor() -> None:
    """Check data, or a cluster, before anything is trained."""


DataFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="JSONL, JSON, CSV, TSV or Parquet; text files also .gz.", show_default=False),
]
ColumnPairs = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="FIELD=NAME", help="Column of a field; may be given again.", show_default=False),
]
GroupBy = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column that ties rows together.", show_default=False)
]


@doctor.command("data", short_help="Check a data file row by row")
def data(  # noqa: PLR0913 - each is an option that a person gives
    file: DataFile,
    *,
    shape: Annotated[dataset.Format, typer.Option("--format", help="Shape of the rows.")] = dataset.Format.AUTO,
    columns: ColumnPairs = None,
    group_by: GroupBy = None,
    show_rows: Annotated[bool, typer.Option("--show-rows", help="Print bad rows; they may be confidential.")] = False,
    output: option.Answer = option.Plain.TEXT,
) -> int:
    """Check a data file row by row. Exit code 1 if a row cannot be used."""
    arguments = [f"--format={shape.value}", *(f"--columns={pair}" for pair in columns or [])]
    arguments += [f"--group-by={group_by}"] if group_by else []
    report = examine(file, [*arguments, *(["--show-rows"] if show_rows else [])])
    code = 1 if report["exitCode"] else 0
    if output is option.Plain.JSON:
        terminal.say(json.dumps(report, indent=2, ensure_ascii=False))
    elif "rows" not in report:
        raise trainer_process.failure(report["exitCode"], report, "")
    else:
        _show(file, report)
    return code


@doctor.command("cluster", short_help="Check whether a cluster can tune and serve")
@place.given_cluster
def cluster(output: option.Answer = option.Plain.TEXT, *, here: clusters.Cluster) -> int:
    """Check whether a cluster can tune and serve, and what you may do there. Exit code 1 if something blocks."""
    from topcoat.cli import examination

    found = list(examination.findings(here.api))
    blocked = any(one.verdict == "blocks" for one in found)
    if output is option.Plain.JSON:
        terminal.say(examination.as_json(found))
        return int(blocked)
    terminal.say(f"{terminal.paint(terminal.clean(here.describe()), 'bold')}\n")
    wide = max(len(one.check) for one in found)
    for one in found:
        verdict = terminal.paint(one.verdict.ljust(7), VERDICT_STYLES[one.verdict])
        terminal.say(f"  {verdict}  {one.check.ljust(wide)}  {terminal.clean(one.message)}")
        if one.hint:
            word = "to fix it" if one.verdict == "blocks" else "note"
            terminal.say(f"{' ' * (wide + 13)}{terminal.paint(word, 'dim')}: {one.hint}")
    terminal.say()
    if blocked:
        terminal.next_step(f"topcoat doctor cluster{here.words}", "again, when what blocks is mended")
    else:
        terminal.next_step(f"topcoat apply -f job.yaml --watch{here.words}", "tunes, judges and serves")
    return int(blocked)


def examine(file: Path, arguments: list[str]) -> Report:
    """The doctor's report. Bad rows are part of it; only a doctor who could not look at all fails here."""
    if not file.is_file():
        near = "it is a folder" if file.is_dir() else "there is no such file"
        terminal.fail(near, where=str(file), hint="name a JSONL, JSON, CSV, TSV or Parquet file")
    code, report, said = trainer_process.collect("data.doctor", [*arguments, "--", str(file)])
    if not isinstance(report, dict) or "exitCode" not in report:
        raise trainer_process.failure(code or exits.Exit.UNEXPECTED, report, said)
    return report


def _show(file: Path, report: Report) -> None:
    bad = report["invalid"]
    sound = terminal.paint("every row can be used", "green")
    verdict = terminal.paint(f"{bad:,} cannot be used", "red") if bad else sound
    terminal.say(f"{terminal.paint(terminal.clean(report['file']), 'bold')}  {report['rows']:,} rows, {verdict}\n")
    labels = report.get("labels") or {}
    show.facts(
        {
            "Shape": report["format"],
            "Task": report.get("task", ""),
            "Labels": _labels(labels) if labels else "",
            "Duplicates": f"{report['duplicates']:,}" if report["duplicates"] else "none",
            "Longest row": f"{report['longestCharacters']:,} characters" if "longestCharacters" in report else "",
            "Rows tied by": report.get("dataset", {}).get("holdout", {}).get("groupBy", ""),
        }
    )
    for said in report.get("notes", []):
        terminal.say(f"  - {terminal.clean(said)}")
    _show_problems(report)
    terminal.say()
    if bad:
        terminal.next_step(
            f"topcoat doctor data {shlex.quote(str(file))} --show-rows", "prints the bad rows; mend them in the file"
        )
    else:
        terminal.next_step(f"topcoat init {shlex.quote(str(file))}", "writes a FineTuneJob for it")


def _labels(labels: dict[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in sorted(labels.items(), key=lambda row: -row[1])[:LISTED_LABELS]]
    more = len(labels) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])


def _show_problems(report: Report) -> None:
    problems = report["problems"]
    if not problems:
        return
    terminal.say()
    for problem in problems[:LISTED_PROBLEMS]:
        terminal.say(f"  row {problem['row']}: {terminal.clean(problem['reason'])}")
        if "text" in problem:
            terminal.say(f"    {terminal.paint(terminal.clean(problem['text'])[:400], 'dim')}")
        terminal.say(f"    {terminal.paint('to fix it', 'dim')}: {terminal.clean(problem['fix'])}")
    more = report["invalid"] - min(len(problems), LISTED_PROBLEMS)
    if more:
        terminal.say(f"  and {more:,} more; `-o json` lists up to {max(len(problems), 1000):,}")
