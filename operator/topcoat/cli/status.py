"""`topcoat status`: what is known of a job, in words, and the command that follows from it."""

from __future__ import annotations

from topcoat.api import finetunejob, names
from topcoat.api import status as statuses
from topcoat.cli import option, place, show, terminal

STATES = {"Promoted": "green", "Rejected": "yellow"}


@place.given
def status(
    name: option.Job,
    output: option.Output = option.Form.TABLE,
    *,
    here: place.Place,
) -> None:
    """Say what is known of a job: phase, run, data, versions, the last verdict and its reasons."""
    job = here.job(name)
    found = job.status or statuses.FineTuneJobStatus()
    if output not in (option.Form.TABLE, option.Form.WIDE):
        body = found.as_json()
        show.objects([job.as_json()], output, one=True) if output is option.Form.NAME else show.data(body, output)
        return
    _headline(job, found)
    _work(found)
    evidence(found)
    _versions(found)
    if output is option.Form.WIDE:
        _conditions(found)
    command, why = _next(job, found) or here.runner
    terminal.next_step(f"{command}{here.words}", why)


def _headline(job: finetunejob.FineTuneJob, found: statuses.FineTuneJobStatus) -> None:
    style = show.PHASE_STYLES.get(found.phase, "bold")
    ready = next((condition for condition in found.conditions if condition.type == "Ready"), None)
    terminal.say(f"{terminal.paint(job.metadata.name, 'bold')}  {terminal.paint(found.phase, style)}")
    if ready is not None and ready.message:
        terminal.say(f"  {terminal.clean(ready.message)}")
    if found.failure is not None:
        terminal.say(f"  {terminal.paint(found.failure.category, 'red')}: {terminal.clean(found.failure.message)}")
        terminal.say(f"  {terminal.paint('To fix it', 'bold')}: {terminal.clean(found.failure.hint)}")
    terminal.say()


def _work(found: statuses.FineTuneJobStatus) -> None:
    run, data, progress = found.run, found.dataset, found.progress
    model = found.endpoint.model_name if found.endpoint else ""
    show.facts(
        {
            "Serves": f"{found.served_version or 'nothing yet'}{f', as {model}' if model else ''}",
            "Run": f"{names.run_name(run.number)}, attempt {run.attempt}: {run.trigger}" if run else "",
            "Started": run.start_time or "" if run else "",
            "Ended": run.completion_time or "" if run else "",
            "Resumed": f"from step {run.resumed_from_step}" if run and run.resumed_from_step else "",
            "Progress": _progress(progress) if progress and not (run and run.completion_time) else "",
            **_estimate(found),
            "Data": f"{data.samples:,} rows to learn from, {data.holdout_samples:,} held out" if data else "",
            "Left out": f"{data.invalid:,} rows that cannot be used" if data and data.invalid else "",
        }
    )
    terminal.say()


def _estimate(found: statuses.FineTuneJobStatus) -> dict[str, str]:
    """What was estimated of a run that has not ended, and what its own steps say so far."""
    said, progress = found.estimate, found.progress
    if said is None or (found.run and found.run.completion_time):
        return {}
    needs = show.needs(said)
    step = f"{progress.seconds_per_step} s per step" if progress and progress.seconds_per_step else ""
    memory = f"{progress.peak_memory} of memory" if progress and progress.peak_memory else ""
    kept = {name: needs[name] for name in ("Memory", "GPU memory", "Disk", "Time", "GPU hours")}
    return kept | {"Measured": ", ".join(part for part in (step, memory) if part)}


def _progress(progress: statuses.ProgressStatus) -> str:
    step = f"step {progress.current_step} of {progress.total_steps}" if progress.total_steps else ""
    loss = f"loss {progress.loss}" if progress.loss else ""
    eta = f"{progress.eta} to go" if progress.eta else ""
    return ", ".join(part for part in (progress.percent, step, eta, loss) if part)


def evidence(found: statuses.FineTuneJobStatus) -> None:
    """The last verdict and its numbers."""
    said = found.evaluation
    if said is None:
        return
    serving = f", serving {said.serving}" if said.serving is not None else ""
    terminal.say(f"{terminal.paint('Verdict', 'bold')}  {said.verdict} on {said.samples:,} held-out rows")
    terminal.say(f"  {said.metric}: base {said.base}{serving}, candidate {said.candidate}")
    terminal.say(f"  better by {said.delta}; the lower bound is {said.lower_bound}")
    for reason in said.reasons:
        terminal.say(f"  - {terminal.clean(reason)}")
    terminal.say()


def _versions(found: statuses.FineTuneJobStatus) -> None:
    if not found.versions:
        return
    rows = [
        [
            version.version,
            version.state,
            version.score,
            version.verdict or "",
            "serves" if version.version == found.served_version else "",
        ]
        for version in found.versions
    ]
    show.table(["Version", "State", "Score", "Verdict", ""], rows, indent="  ")
    terminal.say()


def _conditions(found: statuses.FineTuneJobStatus) -> None:
    rows = [
        [
            condition.type,
            condition.status,
            condition.reason,
            show.age(condition.last_transition_time),
            condition.message,
        ]
        for condition in found.conditions
    ]
    if rows:
        show.table(["Condition", "Status", "Reason", "Age", "Message"], rows, indent="  ")
        terminal.say()


def _next(job: finetunejob.FineTuneJob, found: statuses.FineTuneJobStatus) -> tuple[str, str] | None:
    name = job.metadata.name
    working = {"Preparing", "Queued", "Training", "Evaluating", "RollingOut"}
    if found.phase in working:
        return f"topcoat watch {name}", "follows the run"
    if found.phase == "AwaitingApproval" and found.versions:
        return f"topcoat promote {name} {found.versions[-1].version}", "serves the winner"
    if found.served_version is None and found.versions:
        return f"topcoat report {name}", "says why it was not promoted"
    if found.served_version is not None:
        return f'topcoat ask {name} "…"', f"asks {found.served_version}"
    return None
