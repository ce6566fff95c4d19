"""What local mode sees of the world: the store's folders as the planner's `Seen`. Changes nothing, decides nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from topcoat.api import finetunejob, names, section
from topcoat.api import report as reports
from topcoat.cli import durable, store
from topcoat.plan import observed, shown

MANIFEST = "manifest.json"
EVALUATION = "evaluation.json"
Part = TypeVar("Part", bound=section.Section)
WORLD_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Session:
    """What one `topcoat run` knows beyond the store: what it was asked for, and what it started."""

    recheck: bool = True
    """The sources are to be looked at; false once this session has."""
    asked: bool = True
    """A failed run is to be tried again; false once something was started."""
    preparing: bool = False
    stopping: bool = False
    prepare_failures: int = 0
    running: int = 0
    """Run of our own trainer process, until its end was noted."""
    first_attempts: dict[int, int] = field(default_factory=dict)
    """By run: the first attempt that this session started."""
    spoilt: dict[str, str] = field(default_factory=dict)
    """Versions that were read in full and found changed: why."""
    known: dict[Path, tuple[Any, observed.SealedVersion | None]] = field(default_factory=dict)
    """Versions already read, with what tells whether they changed since."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a job's files lie."""

    job: Path

    @property
    def versions(self) -> Path:
        return self.job / "versions"

    def run(self, number: int) -> Path:
        return self.job / "runs" / names.run_name(number)

    def runs(self) -> list[int]:
        """Numbers of all runs that left a folder."""
        found = (path.name[1:] for path in (self.job / "runs").glob("r*") if path.is_dir())
        return sorted(int(number) for number in found if number.isdecimal())

    @property
    def prepared_record(self) -> Path:
        return self.job / "prepare-answer.json"

    def attempts(self, run: int) -> Path:
        return self.run(run) / "attempts.json"

    def attempt_lock(self, run: int) -> Path:
        return self.run(run) / "attempt.lock"


def seen(here: store.Store, job: finetunejob.FineTuneJob, session: Session) -> observed.Seen:
    """All that can be seen of a job now."""
    places = Places(here.job_folder(job))
    runs = places.runs()
    found = tuple(_versions(places, session))
    alias = here.aliases().get(job.alias)
    return observed.Seen(
        mode=observed.Mode.LOCAL,
        profile=here.profile_or_none(job.spec.profile),
        prepared=_prepared_or_none(places, session),
        preparing=session.preparing,
        recheck=session.recheck,
        attempt=_attempt_or_none(places, runs, session),
        versions=found,
        highest_run=max([0, *runs, *(names.run_of(version.version) for version in found)]),
        alias=observed.Alias(alias["job"], alias["version"], alias["digest"]) if alias else None,
        asked=session.asked,
        stopping=session.stopping,
    )


def _prepared_or_none(places: Places, session: Session) -> observed.Prepared | None:
    record = durable.read_json_or_none(places.prepared_record)
    if not isinstance(record, dict):
        return None
    code = int(record.get("exitCode", 1))
    report = read_or_none(reports.PrepareReport, places.job / "prepared.json") if code == 0 else None
    return observed.Prepared(
        key=str(record.get("key", "")),
        finished_at=shown.moment(record.get("finishedAt")) or WORLD_AGO,
        report=report,
        exit_code=code if report or code else 1,
        termination=read_or_none(reports.Termination, places.job / "termination.json"),
        failures=session.prepare_failures,
    )


def read_or_none(model: type[Part], path: Path) -> Part | None:
    """A file of the trainer's, or None where it is missing or not what it should be."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError):
        return None


def _attempt_or_none(places: Places, runs: list[int], session: Session) -> observed.Attempt | None:
    """The newest attempt. It runs for as long as somebody has its lock."""
    run = next((number for number in reversed(runs) if places.attempts(number).exists()), None)
    record = durable.read_json_or_none(places.attempts(run)) if run else None
    if run is None or not isinstance(record, dict) or not record.get("attempts"):
        return None
    *earlier, last = record["attempts"]
    folder = places.run(run)
    running = session.running == run or durable.is_taken(places.attempt_lock(run))
    ended = None if running else shown.moment(last.get("endedAt")) or _last_sign(folder)
    word = None if running else read_or_none(reports.Termination, folder / "termination.json")
    first = session.first_attempts.get(run)
    ours = [entry for entry in [*earlier, *([] if running else [last])] if first and entry["number"] >= first]
    return observed.Attempt(
        run=run,
        number=int(last["number"]),
        state=observed.AttemptState.RUNNING if running else observed.AttemptState.ENDED,
        started_at=shown.moment(last.get("startedAt")) or WORLD_AGO,
        ended_at=ended,
        input_hash=str(record.get("inputHash", "")),
        trigger=str(record.get("trigger", "")),
        progress=read_or_none(reports.Progress, folder / "progress.json"),
        exit_code=None if running else last.get("exitCode"),
        termination=word,
        exits=tuple(entry.get("exitCode") for entry in ours),
        earlier_seconds=sum(_seconds(entry) for entry in earlier),
    )


def _seconds(entry: dict[str, Any]) -> float:
    start, end = shown.moment(entry.get("startedAt")), shown.moment(entry.get("endedAt"))
    return max(0.0, (end - start).total_seconds()) if start and end else 0.0


def _last_sign(folder: Path) -> datetime:
    """When a process that nobody waited for was last alive, by its files."""
    signs = [path.stat().st_mtime for path in folder.iterdir() if path.is_file()]
    return datetime.fromtimestamp(max(signs, default=0.0), UTC)


def _versions(places: Places, session: Session) -> list[observed.SealedVersion]:
    folders = [path for path in places.versions.glob("v*") if path.name[1:].isdecimal() and path.name[1] != "0"]
    found = []
    for folder in sorted(folders, key=lambda path: int(path.name[1:])):
        seen_as = tuple(stamp(folder / name) for name in (MANIFEST, EVALUATION))
        if session.known.get(folder, (None, None))[0] != seen_as:
            session.known[folder] = (seen_as, version_or_none(folder))
        version = session.known[folder][1]
        if version is not None:
            spoilt = session.spoilt.get(folder.name)
            found.append(replace(version, valid=False, problem=spoilt) if spoilt else version)
    return found


def stamp(path: Path) -> tuple[int, int] | None:
    """What tells whether a file changed since; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def version_or_none(folder: Path) -> observed.SealedVersion | None:
    """A version as its manifest tells it; None where it was never sealed. Only small files are read."""
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError:
        return None
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    broken = observed.SealedVersion(folder.name, _shown(folder), digest, valid=False)
    try:
        manifest = reports.VersionManifest.model_validate_json(data)
    except pydantic.ValidationError:
        return replace(broken, problem=f"{folder / MANIFEST} cannot be read")
    problem = _quick_problem(folder, manifest)
    if problem:
        return replace(broken, problem=problem)
    summary = read_or_none(reports.EvaluationSummary, folder / EVALUATION)
    return replace(broken, valid=True, input_hash=manifest.input_hash, verdict=manifest.verdict, evaluation=summary)


def _shown(folder: Path) -> str:
    """The folder from the store on: jobs/<job>/versions/<version>."""
    return "/".join(folder.parts[-4:])


def _quick_problem(folder: Path, manifest: reports.VersionManifest) -> str:
    """What is wrong at a glance: another name, a missing file, another size, other scores."""
    if manifest.version != folder.name:
        return f"its manifest is that of {manifest.version}"
    for name, seal in sorted(manifest.files.items()):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != seal.bytes:
            return f"{name} has {path.stat().st_size:,} bytes, sealed were {seal.bytes:,}"
    return _other_digest(folder, manifest, EVALUATION) if EVALUATION in manifest.files else ""


def full_problem(folder: Path) -> str:
    """What is wrong when every byte is read again; empty when nothing is. Names the file and both digests."""
    try:
        manifest = reports.VersionManifest.model_validate_json((folder / MANIFEST).read_bytes())
        found = (_other_digest(folder, manifest, name) for name in sorted(manifest.files))
        return next((problem for problem in found if problem), "")
    except (OSError, pydantic.ValidationError) as error:
        return f"its files cannot be read ({type(error).__name__})"


def _other_digest(folder: Path, manifest: reports.VersionManifest, name: str) -> str:
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    sealed = manifest.files[name].sha256
    return "" if digest == sealed else f"{name} has sha256 {digest}, sealed was {sealed}"
