"""How far a run is, as people see it: a live view with a loss curve on a terminal, plain lines elsewhere.

Reads the trainer's files, or what status tells; changes nothing. Plain lines: one per event, stage and ten per cent.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from topcoat.api import finetunejob, names
from topcoat.api import report as reports
from topcoat.api import status as statuses
from topcoat.cli import durable, observe, terminal
from topcoat.plan import intent, shown

if TYPE_CHECKING:
    import rich.console
    import rich.live

CURVE_POINTS = 200
CURVE_ROWS = 8
BAR_COLUMNS = 30
EVERY_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses by step."""

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    held_out: tuple[tuple[int, float], ...] = ()


def curve(path: Path) -> Curve:
    """The curve so far, thinned; lines that are not whole yet are left out."""
    lines = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    found = [(int(line["step"]), float(line["loss"])) for line in lines if line.get("loss") is not None]
    stride = max(1, -(-len(found) // CURVE_POINTS))
    thin = found[::stride] if not found else [*found[:-1:stride], found[-1]]
    held = tuple((int(line["step"]), float(line["holdoutLoss"])) for line in lines if "holdoutLoss" in line)
    return Curve(tuple(step for step, _ in thin), tuple(loss for _, loss in thin), held)


class Source(Protocol):
    """Where the progress of a job's current run is told."""

    def progress_or_none(self, status: statuses.FineTuneJobStatus) -> reports.Progress | None:
        """What was reported last."""

    def curve(self, status: statuses.FineTuneJobStatus) -> Curve:
        """The losses so far."""


@dataclass(frozen=True, slots=True)
class Files:
    """The trainer's files, on this machine."""

    places: observe.Places

    def progress_or_none(self, status: statuses.FineTuneJobStatus) -> reports.Progress | None:
        return reported_or_none(self.places, status.run.number) if status.run else None

    def curve(self, status: statuses.FineTuneJobStatus) -> Curve:
        return curve(self.places.run(status.run.number) / "metrics.jsonl") if status.run else Curve()


@dataclass(slots=True)
class Told:
    """What status tells, seen from a cluster. The curve has the steps that were told while somebody watched."""

    run: tuple[int, int] = (0, 0)
    points: dict[int, float] = field(default_factory=dict)

    def progress_or_none(self, status: statuses.FineTuneJobStatus) -> reports.Progress | None:
        said = status.progress
        if said is None or not said.stage:
            return None
        speed = said.tokens_per_second or ""
        return reports.Progress(
            stage=said.stage,
            progress_percentage=said.progress_percentage or 0,
            estimated_remaining_seconds=said.estimated_remaining_seconds or 0,
            current_step=said.current_step or 0,
            total_steps=said.total_steps or 0,
            tokens_per_second=float(speed) if speed.replace(".", "", 1).isdecimal() else 0.0,
            metrics=[reports.ProgressMetric(name="loss", value=said.loss)] if said.loss else [],
        )

    def curve(self, status: statuses.FineTuneJobStatus) -> Curve:
        run, said = status.run, status.progress
        if run is None or said is None:
            return Curve()
        if self.run != (run.number, run.attempt):
            self.run, self.points = (run.number, run.attempt), {}
        if said.loss and said.current_step:
            with contextlib.suppress(ValueError):
                self.points[said.current_step] = float(said.loss)
        steps = sorted(self.points)
        return Curve(tuple(steps), tuple(self.points[step] for step in steps))


def drawn(found: Curve, columns: int, total_steps: int = 0) -> str:
    """The curve in letters, with room for the steps to come; empty while there is none."""
    if len(found.steps) < 2:
        return ""
    import plotille

    figure = plotille.Figure()
    figure.width, figure.height, figure.with_colors = max(20, columns - 24), CURVE_ROWS, False
    figure.x_label, figure.y_label = "step", "loss"
    figure.register_label_formatter(float, _label)
    figure.register_label_formatter(int, _label)
    figure.set_x_limits(min_=found.steps[0], max_=max(found.steps[-1], total_steps))
    figure.plot(found.steps, found.losses, label="training")
    return "\n".join(line.rstrip() for line in str(figure.show(legend=False)).splitlines())


def _label(value: Any, chars: int, delta: Any, left: bool = False) -> str:
    text = f"{value:.0f}" if isinstance(value, int) or abs(delta) >= CURVE_ROWS else f"{value:.3f}"
    return text.ljust(chars) if left else text.rjust(chars)


@dataclass(slots=True)
class Lines:
    """Plain lines: what CI logs keep."""

    stream: TextIO
    name: str
    source: Source
    said: tuple[str, int] = ("", -1)
    waits_for: str = ""

    def hear(self, job: finetunejob.FineTuneJob, planned: intent.Plan) -> None:
        for event in planned.events:
            self._say(terminal.clean(event.message))
        status = planned.status
        doing = next((one for one in status.conditions if one.type == "Reconciling"), None)
        if doing is None:
            return
        if doing.reason == "Retrying" and doing.message != self.waits_for:
            self.waits_for = doing.message
            self._say(terminal.clean(doing.message))
        if doing.reason in ("Training", "Evaluating") and status.run:
            self._progress(status)

    def _progress(self, status: statuses.FineTuneJobStatus) -> None:
        found = self.source.progress_or_none(status)
        if found is None or not found.stage:
            return
        tenth = found.progress_percentage // EVERY_PERCENT
        if (found.stage, tenth) != self.said:
            self.said = (found.stage, tenth)
            self._say(f"  {sentence(found)}")

    def _say(self, text: str) -> None:
        self.stream.write(f"{self.name}: {text}\n")
        self.stream.flush()


def reported_or_none(places: observe.Places, run: int) -> reports.Progress | None:
    """What the trainer reported last."""
    body = durable.read_json_or_none(places.run(run) / "progress.json")
    try:
        return reports.Progress.model_validate(body) if isinstance(body, dict) else None
    except ValueError:
        return None


def sentence(found: reports.Progress) -> str:
    """One line of progress."""
    loss = next((_rounded(metric.value) for metric in found.metrics if metric.name == "loss"), "")
    left = found.estimated_remaining_seconds
    parts = (
        f"{found.progress_percentage:>3} %",
        found.stage.lower(),
        f"step {found.current_step} of {found.total_steps}" if found.stage == "Training" and found.total_steps else "",
        f"loss {loss}" if found.stage == "Training" and loss else "",
        f"{found.tokens_per_second:,.0f} tokens/s" if found.stage == "Training" and found.tokens_per_second else "",
        f"{shown.duration(left)} to go" if left else "",
    )
    return ", ".join(part for part in parts if part)


def _rounded(number: str) -> str:
    try:
        return f"{float(number):.4g}"
    except ValueError:
        return terminal.clean(number)[:CURVE_ROWS]


@dataclass(slots=True)
class View:
    """The live view: events above, then one line of progress, a bar and the loss curve."""

    console: rich.console.Console
    name: str
    source: Source
    live: rich.live.Live | None = None
    last: tuple[Any, ...] = field(default=())

    def hear(self, job: finetunejob.FineTuneJob, planned: intent.Plan) -> None:
        import rich.text

        for event in planned.events:
            style = "yellow" if event.type == "Warning" else ""
            self.console.print(rich.text.Text(f"{self.name}: {terminal.clean(event.message)}", style))
        self.draw(planned.status)

    def draw(self, status: statuses.FineTuneJobStatus) -> None:
        """The state of things below the events."""
        import rich.text

        text = self.picture(status)
        if self.live is not None:
            picture = rich.text.Text.from_ansi(text, no_wrap=True, overflow="ellipsis")
            self.live.update(picture, refresh=True)

    def picture(self, status: statuses.FineTuneJobStatus) -> str:
        ready = next((one for one in status.conditions if one.type == "Ready"), None)
        head = f"{terminal.paint(self.name, 'bold')}  {terminal.paint(status.phase, 'cyan')}"
        run = status.run
        if run is None or run.completion_time:
            return f"{head}  {terminal.clean(ready.message) if ready else ''}"
        found = self.source.progress_or_none(status)
        if found is None or not found.stage:
            return f"{head}  {names.run_name(run.number)}, attempt {run.attempt}: starting"
        picture = drawn(self.source.curve(status), self.console.width, found.total_steps)
        return "\n".join(
            part for part in (head, f"{_bar(found.progress_percentage)} {sentence(found)}", picture) if part
        )


def _bar(percentage: int) -> str:
    full = BAR_COLUMNS * max(0, min(100, percentage)) // 100
    return terminal.paint("█" * full, "green") + terminal.paint("░" * (BAR_COLUMNS - full), "dim")


@contextlib.contextmanager
def audience(name: str, source: Source, stream: TextIO) -> Iterator[Lines | View]:
    """Whoever suits the stream: a live view on a terminal, plain lines elsewhere."""
    if not terminal.is_terminal(stream) or not terminal.colours(stream):
        yield Lines(stream, name, source)
        return
    import rich.live

    console = terminal.console()
    with rich.live.Live(console=console, auto_refresh=False, transient=True) as live:
        yield View(console, name, source, live)
