"""The verdict and its score table, as `run` and `demo` print them. Reads sealed evidence only."""

from __future__ import annotations

from collections.abc import Sequence

from topcoat.api import report as reports
from topcoat.cli import sealed, show, terminal

SUBJECTS = {
    "base": "base model",
    "prompt": "prompting with examples",
    "retrieval": "retrieving similar examples",
    "classifier": "TF-IDF classifier",
    "serving": "serving",
    "candidate": "tuned",
}
NOTE_LETTERS = 60
STYLES = {"Promote": "green", "Reject": "red", "Inconclusive": "yellow"}


def say(found: sealed.Sealed, evidence: reports.EvaluationReport) -> None:
    """Verdict, score table, reasons, and where the report is."""
    name, version = found.job.metadata.name, found.entry.version
    painted = terminal.paint(evidence.verdict, STYLES.get(evidence.verdict, "bold"))
    terminal.say(f"\n{terminal.paint(f'{name} {version}', 'bold')}  verdict: {painted}\n")
    table(evidence.scores, evidence.metric)
    for reason in evidence.reasons:
        terminal.say(f"  - {terminal.clean(reason)}")
    terminal.say(f"\nReport: {found.folder / sealed.REPORT}")


def table(scores: Sequence[reports.Score], metric: str) -> None:
    """The subjects in one measure, with n, interval and cost per answer."""
    rows = [_row(score) for score in scores if score.metric == metric]
    if not rows:
        return
    show.table([metric, "score", "95 %", "n", "prompt tokens", "s/answer", ""], rows, indent="  ")
    terminal.say()


def _row(score: reports.Score) -> list[str]:
    return [
        subject(score.subject),
        f"{score.value:.3f}",
        f"{score.lower:.3f}–{score.upper:.3f}",
        f"{score.samples:,}",
        "" if score.prompt_tokens is None else f"{score.prompt_tokens:.0f}",
        "" if score.seconds_per_answer is None else f"{score.seconds_per_answer:.3f}",
        terminal.clean(score.note.partition(";")[0])[:NOTE_LETTERS],
    ]


def subject(name: str) -> str:
    """A subject's name for people: `base constrained` is the base model, constrained."""
    first, _, rest = name.partition(" ")
    return " ".join(part for part in (SUBJECTS.get(first, first), rest) if part)
