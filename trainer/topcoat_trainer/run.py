"""One run, start to end: `python -m topcoat_trainer.run --run-file F`. Read `work` first: it is the table of contents.

Every stage may be killed and done again; a second process on the same run is refused; the last word is always
written; exit 0 alone proves nothing, a sealed version does. torch comes late: signals must be heard before.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from topcoat.api.report import EvaluationReport, Outcome, PrepareReport, Termination
from topcoat.api.run import RunFile
from topcoat_trainer import entry, files, last_word, post, prepare, pulse, seal
from topcoat_trainer import ranks as ranks_room
from topcoat_trainer.cache.home import home
from topcoat_trainer.diary import Diary
from topcoat_trainer.errors import Corrupt, PeerLost, TrainerError
from topcoat_trainer.loop.stop import Stop
from topcoat_trainer.progress import Reporter, Sink
from topcoat_trainer.ranks import Ranks
from topcoat_trainer.writer import Claim

logger = logging.getLogger(__name__)

LOCK = ".lock"


@dataclass(slots=True)
class Job:
    """What every stage needs: what is asked for, where, and whom to tell."""

    run: RunFile
    folder: Path
    stop: Stop
    reporter: Reporter
    diary: Diary
    claim: Claim
    ranks: Ranks
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What is to be closed when the training has ended."""

    @property
    def version_folder(self) -> Path:
        return Path(self.run.paths.versions) / self.run.version

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage: announced, timed, and left at once when somebody asks to stop."""
        self.stop.check()
        self.reporter.stage(name)
        logger.info("%s", name)
        with self.diary.stage(name):
            yield


def work(job: Job) -> Termination:
    """The whole run. Each line may be killed and comes to the same end when it is run again."""
    if job.version_folder.exists():
        return _sealed_before(job)
    with job.stage("Loading"):
        prepared = prepare.prepare(job.run)
        _check_inputs(job, prepared)
        job.reporter.expect(prepared.estimate)
        job.ranks.say("prepared", prepared.model_dump_json(by_alias=True))
        from topcoat_trainer import candidate, learn, stage

        material = stage.load(job, prepared)
    learnt = learn.learn(job, material)
    job.closing.close()
    job.ranks.part()
    with job.stage("Evaluating"):
        exported = candidate.export(job, material, learnt)
        report = candidate.judge(job, exported, material, learnt)
    with job.stage("Sealing"):
        report = candidate.describe(exported, candidate.checked(job, material, report))
        try:
            digest = candidate.seal_version(job, exported, material, report)
        except FileExistsError:
            # Somebody else's process on this run, given up but alive, was first. A sealed version is a sealed version.
            return _sealed_before(job)
    _tidy(job)
    job.reporter.stage("Sealed")
    return last_word.sealed(job.run.version, digest, report, learnt.trained.resumed_from_step)


def _sealed_before(job: Job) -> Termination:
    """An attempt before this one was killed after the seal: believe the files, not the memory of it."""
    folder = job.version_folder
    manifest = seal.verify(folder)
    if manifest.input_hash != job.run.input_hash or manifest.lineage.job != job.run.name:
        raise Corrupt(
            "a version of other inputs stands under this run's number",
            where=str(folder),
            hint="move it away, or give the run a number of its own",
        )
    _tidy(job)
    job.reporter.stage("Sealed")
    report = EvaluationReport.model_validate(files.read_json(folder / "evaluation.json"))
    return last_word.sealed(job.run.version, seal.digest(folder), report)


def _check_inputs(job: Job, found: PrepareReport) -> None:
    """What was prepared is what is there now."""
    path = job.folder / prepare.PREPARED
    if not path.exists():
        return
    before = PrepareReport.model_validate(files.read_json(path))
    pairs = {
        "base model": (before.base_model.digest, found.base_model.digest),
        "data": (before.dataset.digest, found.dataset.digest),
    }
    for what, (expected, digest) in pairs.items():
        if expected != digest:
            raise Corrupt(
                f"the {what} changed since the run was prepared: its digest is {digest}, prepared was {expected}",
                where=str(path),
                hint="apply the job again: changed inputs are a new run",
            )


def _tidy(job: Job) -> None:
    """What a sealed run no longer needs."""
    names = ("checkpoints", "trials", "layers", f"candidate-{job.claim.writer}")
    for path in [*(job.folder / name for name in names), *job.folder.glob("fill-*.bin")]:
        files.remove_tree(path)
    if not job.run.training.activation_cache.keep:
        files.remove_tree(home(job.run))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one process works in a run's folder; the lock dies with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise TrainerError(
            "another process works on this run", where=str(folder), hint="wait for it, or end it first"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def posting() -> Iterator[Sink | None]:
    """Where progress is posted to, if anywhere."""
    address = post.address_or_none()
    posted = post.Post(address) if address else None
    try:
        yield posted
    finally:
        if posted is not None:
            posted.close()


def attempt(run: RunFile, stop: Stop, told: Path | None = None) -> Termination:
    """Does the work, and turns whatever happens into a last word. Raises only when another process has the run."""
    folder, claim = Path(run.paths.run), Claim(Path(run.paths.run))

    def final(word: Termination) -> Termination:
        """The word as it is left in the run's folder."""
        if not claim.holds() and word.outcome is Outcome.FAILED:
            word = last_word.failed(claim.lost())  # whatever it was: the replacement may have swept it away
        word = word.model_copy(update={"attempt": run.attempt})
        if claim.holds():
            entry.keep(folder, word)
        return word

    def all_of_it() -> Termination:
        last_word.reserve(folder)
        claim.take()
        _sweep(folder)
        with posting() as sink, gathered(stop, lambda word: _bail(final(word), told)) as ranks:
            job = Job(run, folder, stop, Reporter(folder / "progress.json", sink), Diary(folder), claim, ranks)
            return ranks.concluded(entry.said(lambda: work(job), stop))

    if int(os.environ.get("RANK", "0")):
        return entry.said(lambda: _following(run, stop, told), stop)
    with alone(folder):
        return final(entry.said(all_of_it, stop))


def _following(run: RunFile, stop: Stop, told: Path | None) -> Termination:
    folder = Path(run.paths.run)
    with gathered(stop, lambda word: _bail(word, told)) as ranks:
        job = Job(run, folder, stop, Reporter(None), Diary(None), Claim(folder), ranks)
        return ranks.concluded(entry.said(lambda: follow(job), stop))


def follow(job: Job) -> Termination:
    """What every process of a run but the first does: the same training, writing nothing. Then it waits for the end."""
    prepared = PrepareReport.model_validate_json(job.ranks.hear("prepared"))
    from topcoat_trainer import learn, stage

    with job.stage("Loading"):
        material = stage.load(job, prepared)
    try:
        learn.learn(job, material)
    except TrainerError:
        if not job.ranks.agreed:
            raise
    return job.ranks.wait_for_end()


@contextlib.contextmanager
def gathered(stop: Stop, bail: Callable[[Termination], None]) -> Iterator[Ranks]:
    """The processes of this run, found and watched: one that hangs when the others have ended is ended by `bail`."""
    with ranks_room.gathered(stop.check) as found:
        if not found.alone:
            lost = PeerLost("another process of this run was lost")
            pulse.Watch(found, bail, lambda: last_word.failed(lost)).start()
        yield found


def _bail(word: Termination, told: Path | None) -> None:
    """Ends a process that cannot end itself: it waits in a GPU's queue for somebody who is gone."""
    if told is not None:
        last_word.tell(told, word)
    os._exit(word.exit_code)


def _sweep(folder: Path) -> None:
    """What killed processes left. Only at the start: later it would be a replacement's."""
    files.sweep(folder)
    for stale in folder.glob("candidate-*"):
        files.remove_tree(stale)


def main(arguments: list[str] | None = None) -> int:
    """Carries out one run; the exit code is one of topcoat.api.exits."""
    options = entry.parser("run", "Train, judge and seal one version.").parse_args(arguments)
    if int(os.environ.get("LOCAL_RANK", "0")):
        options.last_word, options.quiet = None, True  # one process of each pod speaks for it
    who = f" rank {os.environ['RANK']}:" if int(os.environ.get("RANK", "0")) else ""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s{who} %(message)s", force=True)
    return entry.carry_out(options, lambda run, stop: attempt(run, stop, options.last_word))


if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # NCCL's threads may wait for a rank that is gone, and would not let the process end.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
