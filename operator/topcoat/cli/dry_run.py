"""`topcoat run --dry-run`: what would run, and what it would need. Prepares in a folder that goes; changes no job."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from topcoat.api import exits, finetunejob
from topcoat.api import report as reports
from topcoat.cli import act, observe, show, store, terminal, trainer_process
from topcoat.plan import estimate as estimates
from topcoat.plan import intent, observed, plan

WORDS = {"Created": "nothing was trained yet", "Requested": "retrain.requestedAt asks for it"}


def dry_run(place: store.Store, wanted: finetunejob.FineTuneJob, sources: Path) -> int:
    """Says it; 0 where something would run or nothing is to do, 1 where the manifest or its data is refused."""
    job = place.merged(wanted, datetime.now(UTC))
    seen = observe.seen(place, job, observe.Session())
    planned = plan.plan(job, replace(seen, prepared=None, recheck=True), datetime.now(UTC))
    start = next((action for action in planned.actions if isinstance(action, intent.StartPrepare)), None)
    if start is None:
        failure = planned.status.failure
        terminal.fail(failure.message if failure else "spec.suspend is true", hint=failure.hint if failure else "")
    report = _prepare(place, start.order, sources)
    answer = observed.Prepared(start.key, datetime.now(UTC), report)
    after = plan.plan(job, replace(seen, prepared=answer, recheck=False), datetime.now(UTC))
    if after.status.failure is not None:
        raise terminal.Failure(after.status.failure.message, hint=after.status.failure.hint)
    _say(job, report, after)
    return int(exits.CliExit.PROMOTED)


def _prepare(place: store.Store, order: intent.Order, sources: Path) -> reports.PrepareReport:
    """The prepare stage in a folder of its own; what it fetched and counted stays in the cache."""
    (place.root / "cache").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="topcoat-dry-run-") as made:
        folder = Path(made)
        file = act.run_file(place, order, act.Folders(folder, folder / "versions", sources), "prepare.json")
        done = subprocess.run(
            trainer_process.command("prepare", "--run-file", str(file)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=trainer_process.environment(online=act.online(order)),
            check=False,
        )
        word = observe.read_or_none(reports.Termination, folder / "termination.json")
        report = observe.read_or_none(reports.PrepareReport, folder / "prepared.json")
        if done.returncode or report is None:
            if word is not None and word.message:
                raise terminal.Failure(word.message, hint=word.hint)
            raise trainer_process.failure(done.returncode or 1, None, done.stderr.decode(errors="replace"))
        return report


def _choices(job: finetunejob.FineTuneJob, estimate: reports.Estimate) -> dict[str, str]:
    """What trials will choose among."""
    found = {}
    if estimate.layer_candidates:
        *few, most = estimate.layer_candidates
        found["Layers"] = f"trials will decide between the last {', '.join(map(str, few))} and {most}"
    sweep = job.spec.training.sweep
    if sweep is not None:
        found["Sweep"] = f"{sweep.trials} trials; the better half goes on each time, the best becomes the candidate"
    return found


def _say(job: finetunejob.FineTuneJob, report: reports.PrepareReport, after: intent.Plan) -> None:
    start = next((action for action in after.actions if isinstance(action, intent.StartTraining)), None)
    card, base, estimate = report.dataset, report.base_model, report.estimate
    words = estimates.shown_estimate(estimate)
    name = terminal.paint(job.metadata.name, "bold")
    if start is None:
        terminal.say(f"{name}: nothing would run; data, base model, method and training are as before")
    else:
        why = WORDS.get(start.order.trigger, start.order.trigger)
        terminal.say(f"{name}: would start run {start.run}, attempt {start.attempt}: {why}")
    share = estimate.trained_parameters / max(1, estimate.total_parameters)
    show.facts(
        {
            "Base model": f"{base.id}, {base.architecture}, {base.layers} layers, {base.parameters:,} parameters",
            "Trained": f"{job.spec.method.type}, layers {job.spec.method.layers}: "
            f"{estimate.trained_parameters:,} parameters ({share:.1%})",
            **_choices(job, estimate),
            "Data": f"{card.format}, {card.task}: {card.train_samples:,} rows to learn from, "
            f"{card.holdout_samples:,} held out ({card.split_rule})",
            "Tokens": f"{card.tokens:,} in the training rows, {card.longest_tokens:,} in the longest",
        }
        | show.needs(words)
    )
    for note in (*card.notes, *after.notes):
        terminal.say(f"  - {terminal.clean(note)}")
    terminal.next_step("topcoat run -f FILE --local" if start else f'topcoat ask {job.metadata.name} "…"')
