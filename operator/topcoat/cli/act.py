"""Carries out what was planned on this machine: processes for the trainer, files for aliases. Decides nothing.

Each intent may be carried out twice: what is started or done already is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from topcoat.api import exits, finetunejob
from topcoat.api import run as runs
from topcoat.cli import durable, observe, store, terminal, trainer_process
from topcoat.plan import intent, shown


@dataclass(slots=True)
class Child:
    """A process that this session started: the prepare stage (run 0), or an attempt."""

    process: subprocess.Popen[bytes]
    run: int
    attempt: int
    key: str = ""


@dataclass(slots=True)
class Hands:
    """One session at work on one job. `sources`: where relative file:// addresses start."""

    here: store.Store
    name: str
    sources: Path
    session: observe.Session
    child: Child | None = None
    asked_to_stop: set[tuple[int, int]] = field(default_factory=set)

    def carry_out(self, job: finetunejob.FineTuneJob, action: intent.Action) -> bool:  # noqa: PLR0911 - a table
        """Does it; true where that changed anything."""
        places = observe.Places(self.here.job_folder(job))
        match action:
            case intent.StartPrepare():
                return self._prepare(places, action)
            case intent.StartTraining():
                return self._train(places, action)
            case intent.StopTraining():
                return self._stop(places, action)
            case intent.PointAlias():
                return self._point(places, action)
            case intent.DropAlias():
                self.here.drop(action.alias)
                return True
            case intent.DeleteVersion():
                return _delete(places.versions / action.version)
            case intent.Inspect() | intent.Expire() | intent.WriteAlias():
                return False  # a cluster's: no plan for one machine has them

    def _prepare(self, places: observe.Places, action: intent.StartPrepare) -> bool:
        if self.child is not None or self.session.stopping:
            return False
        (places.job / "termination.json").unlink(missing_ok=True)
        folders = Folders(places.job, places.versions, self.sources)
        file = run_file(self.here, action.order, folders, "prepare.json")
        process = _start("prepare", file, places.job / "prepare.log", online=online(action.order))
        self.child = Child(process, 0, 1, action.key)
        self.session.preparing = True
        return True

    def _train(self, places: observe.Places, action: intent.StartTraining) -> bool:
        """Starts an attempt. Its lock goes with it: it is held for as long as the trainer lives, whoever else dies."""
        folder = places.run(action.run)
        if self.child is not None or self.session.stopping:
            return False
        trainer_process.check_installed()
        lock = durable.take_or_none(places.attempt_lock(action.run))
        if lock is None:
            return False
        try:
            for stale in ("termination.json", "progress.json"):
                (folder / stale).unlink(missing_ok=True)
            shutil.copyfile(places.job / "prepared.json", folder / "prepared.json")
            folders = Folders(folder, places.versions, self.sources)
            file = run_file(self.here, action.order, folders, "run.json")
            self._record(places, action)
            process = _start("run", file, folder / "run.log", keep=lock)
        finally:
            os.close(lock)
        self._note(places, action.run, {"pid": process.pid})
        self.child = Child(process, action.run, action.attempt)
        self.session.running = action.run
        self.session.asked = False
        self.session.first_attempts.setdefault(action.run, action.attempt)
        return True

    def _record(self, places: observe.Places, action: intent.StartTraining) -> None:
        """The attempt, written down before it starts."""
        path = places.attempts(action.run)
        known = durable.read_json_or_none(path)
        earlier = known["attempts"] if isinstance(known, dict) else []
        entry = {"number": action.attempt, "startedAt": _now()}
        order = action.order
        durable.write_json(
            path, {"inputHash": order.input_hash, "trigger": order.trigger, "attempts": [*earlier, entry]}
        )

    def _note(self, places: observe.Places, run: int, facts: dict[str, Any]) -> None:
        """Adds facts to the newest attempt."""
        known = durable.read_json_or_none(places.attempts(run))
        known["attempts"][-1].update(facts)
        durable.write_json(places.attempts(run), known)

    def _stop(self, places: observe.Places, action: intent.StopTraining) -> bool:
        """SIGTERM, once: the trainer saves a checkpoint and ends."""
        if (action.run, action.attempt) in self.asked_to_stop:
            return False
        self.asked_to_stop.add((action.run, action.attempt))
        self._signal(places, action.run, signal.SIGTERM)
        return True

    def _signal(self, places: observe.Places, run: int, number: signal.Signals) -> None:
        record = durable.read_json_or_none(places.attempts(run))
        pid = self.child.process.pid if self.child else (record or {}).get("attempts", [{}])[-1].get("pid")
        if pid and (self.child or durable.is_taken(places.attempt_lock(run))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def interrupt(self, *, hard: bool) -> None:
        """The person at the terminal wants out: prepare ends at once; an attempt by `hard` only."""
        if self.child is not None and (hard or self.child.run == 0):
            with contextlib.suppress(ProcessLookupError):
                self.child.process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)

    def _point(self, places: observe.Places, action: intent.PointAlias) -> bool:
        """Points the alias, after every byte of the version was read again."""
        folder = places.versions / action.version
        problem = observe.full_problem(folder)
        if problem:
            self.session.spoilt[action.version] = problem
            return True
        entry = {"job": self.name, "version": action.version, "digest": action.digest, "path": action.path}
        self.here.point(action.alias, entry)
        return True

    def reap(self, job: finetunejob.FineTuneJob) -> bool:
        """Takes note of a child that ended; true where one did."""
        if self.child is None or (code := self.child.process.poll()) is None:
            return False
        child, self.child = self.child, None
        places = observe.Places(self.here.job_folder(job))
        if child.run:
            self.session.running = 0
            self._note(places, child.run, {"endedAt": _now(), "exitCode": code})
            return True
        self.session.preparing = False
        if self.session.stopping:
            return True
        self.session.recheck = False
        self.session.prepare_failures = 0 if code == exits.Exit.DONE else self.session.prepare_failures + 1
        durable.write_json(places.prepared_record, {"key": child.key, "finishedAt": _now(), "exitCode": code})
        return True


@dataclass(frozen=True, slots=True)
class Folders:
    """A trainer process's own folder, where versions appear, and where relative addresses start."""

    run: Path
    versions: Path
    sources: Path


def run_file(here: store.Store, order: intent.Order, folders: Folders, name: str) -> Path:
    """Writes what a trainer process is told."""
    root = here.root.resolve()
    for made in (folders.run, folders.versions, root / "cache"):
        made.mkdir(parents=True, exist_ok=True)
    paths = runs.RunPaths(
        run=str(folders.run.resolve()),
        versions=str(folders.versions.resolve()),
        cache=str(root / "cache"),
        sources=str(folders.sources.resolve()),
        volumes=str(root / "volumes"),
    )
    durable.write_json(folders.run / name, order.run_file(paths, allow_local_files=True).as_json())
    return folders.run / name


def _start(
    module: str, file: Path, log: Path, *, online: bool = False, keep: int | None = None
) -> subprocess.Popen[bytes]:
    """A trainer process in a session of its own, so that Ctrl-C reaches it only through us."""
    with log.open("ab") as output:
        return subprocess.Popen(
            trainer_process.command(module, "--run-file", str(file.resolve())),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=trainer_process.environment(online=online),
            start_new_session=True,
            pass_fds=() if keep is None else (keep,),
        )


def online(order: intent.Order) -> bool:
    """Whether prepare may ask a model hub: only where the manifest names one."""
    spec = order.spec.dataset
    sources = [spec.train, *([spec.evaluation] if spec.evaluation else []), *(guard.source for guard in spec.guards)]
    return any((uri or "").startswith("hf://") for uri in (order.base_model.uri, *(one.uri for one in sources)))


def _delete(folder: Path) -> bool:
    """Away with a version: first its name, then its files, so that no half version is ever seen."""
    if not folder.exists():
        return False
    gone = folder.with_name(f".gone-{secrets.token_hex(4)}-{folder.name}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _now() -> str:
    return shown.time(datetime.now(UTC))


def listening(hands: Hands) -> contextlib.AbstractContextManager[None]:
    """Inside it SIGINT, SIGTERM and SIGHUP stop the run at a checkpoint; a second one kills the trainer."""

    def hear() -> None:
        hands.interrupt(hard=hands.session.stopping)
        if not hands.session.stopping:
            terminal.note("Stopping at a checkpoint. Once more kills the trainer; it resumes from the last one.")
        hands.session.stopping = True

    return terminal.hearing(hear)
