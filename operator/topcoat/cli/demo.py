"""`topcoat demo`: the whole way in minutes. Makes the demo's folder, runs its manifest, shows what came of it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from topcoat.api import exits, finetunejob
from topcoat.cli import durable, local_place, manifest, option, run, sealed, store, terminal, trainer_process

DEFAULT_FOLDER = Path("topcoat-demo")
MANIFEST = "claims-triage.yaml"
QUESTION = "fell off a ladder and broke a wrist"
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for model, data and manifests.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there, too.", show_default=False)
]


def demo(
    out: OutOption = DEFAULT_FOLDER, figures: JsonOption = None, store_folder: option.Store = option.DEFAULT_STORE
) -> int:
    """Fail at sorting insurance claims, tune the last layers of a real small model, and see whether it helped."""
    started = time.monotonic()
    terminal.say("A 135-million-parameter model is to sort insurance claims into 12 queues.")
    _make(out)
    path = out / MANIFEST
    here = store.Store(store_folder)
    job, trained = run.carry_on(here, manifest.load(path), out.resolve())
    run.conclude(here, job, path, trained=True)
    if figures is not None and job.status is not None:
        durable.write_json(figures, _figures(here, job, time.monotonic() - started, trained=trained))
        terminal.say(f"Figures: {figures}")
    if run.code_of(job) == exits.CliExit.PROMOTED:
        _try(path, job.metadata.name)
    else:
        run.next_step(job, path)
    return run.code_of(job)


def _make(out: Path) -> None:
    """Model, data and manifests; what is there already stays."""
    trainer_process.check_installed()
    command = trainer_process.command("demo", "--out", str(out))
    environment = trainer_process.environment()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise trainer_process.failure(done.returncode, None, done.stderr)
    for line in done.stdout.splitlines():
        if not line.startswith("Next"):
            terminal.say(line)
    terminal.say()


def _figures(here: store.Store, job: finetunejob.FineTuneJob, seconds: float, *, trained: bool) -> dict[str, Any]:
    """What the terminal showed, for programs."""
    evidence = sealed.latest(local_place.LocalPlace(here.root), job).evaluation()
    status = job.as_json()["status"]
    keys = ("promotedVersion", "servedVersion", "versions", "evaluation", "dataset", "run")
    return {
        "seconds": round(seconds, 1),
        "trained": trained,
        "status": {key: status.get(key) for key in keys},
        "scores": [score.as_json() for score in evidence.scores],
        "costs": [cost.as_json() for cost in evidence.costs],
        "verdict": evidence.verdict.value,
        "reasons": evidence.reasons,
    }


def _try(path: Path, name: str) -> None:
    terminal.say("")
    terminal.say("Try next:")
    commands = {
        f'topcoat ask {name} "{QUESTION}" --base': "the base model's answer",
        f"topcoat compare {name}": "wins and losses on held-out claims",
        f"topcoat run -f {path}": "nothing to do; then change the manifest and run it again",
    }
    wide = max(len(command) for command in commands)
    for command, why in commands.items():
        terminal.say(f"  {terminal.paint(command.ljust(wide), 'cyan')}   {terminal.paint(why, 'dim')}")
    terminal.next_step(f'topcoat ask {name} "{QUESTION}"')
