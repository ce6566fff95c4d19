"""What the volume holds of an attempt whose last word was lost: `python -m topcoat_trainer.inspect --run-file F`.

Reads only, and never imports torch. The run's own version is believed after every byte of it was read again; of the
others the list says what their manifests say.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import pydantic

from topcoat.api.report import EvaluationReport, Outcome, Termination, VersionNote
from topcoat.api.run import RunFile
from topcoat_trainer import entry, files, last_word, seal
from topcoat_trainer.errors import Corrupt, TrainerError

EVALUATION = "evaluation.json"
VERSION = re.compile(r"v[1-9][0-9]{0,8}")


def main(arguments: list[str] | None = None) -> int:
    """Says what is there. Exit code 0 also when the attempt had failed: it is the inspection that succeeded."""
    options = entry.parser("inspect", "Say what the volume holds of an attempt.").parse_args(arguments)
    return entry.carry_out(options, lambda run, _: inspected(run))


def inspected(run: RunFile) -> Termination:
    """The version that the attempt sealed, else what it said itself, else nothing; and all versions beside it."""
    found = _sealed_or_none(run) or _said_or_none(run) or Termination(outcome=Outcome.INSPECTED)
    listed = versions(Path(run.paths.versions))
    return found.model_copy(update={"outcome": Outcome.INSPECTED, "attempt": run.attempt, "versions": listed})


def _sealed_or_none(run: RunFile) -> Termination | None:
    folder = Path(run.paths.versions) / run.version
    if not folder.exists() and not folder.is_symlink():
        return None
    try:
        manifest = seal.verify(folder)
        report = EvaluationReport.model_validate(files.read_json(folder / EVALUATION))
    except TrainerError as error:
        return last_word.failed(error)
    except pydantic.ValidationError:
        return last_word.failed(Corrupt("the evaluation cannot be read", where=str(folder / EVALUATION)))
    word = last_word.sealed(run.version, seal.digest(folder), report)
    return word.model_copy(update={"input_hash": manifest.input_hash})


def _said_or_none(run: RunFile) -> Termination | None:
    """The attempt's own last word. One of an earlier attempt is none, nor is a seal that nothing shows."""
    try:
        word = Termination.model_validate(files.read_json(Path(run.paths.run) / last_word.NAME))
    except (OSError, TrainerError, pydantic.ValidationError):
        return None
    return word if word.attempt == run.attempt and word.outcome is Outcome.FAILED else None


def versions(folder: Path) -> list[VersionNote]:
    """The sealed versions, newest first. What has no readable manifest is none."""
    names = [path.name for path in folder.iterdir() if VERSION.fullmatch(path.name)] if folder.is_dir() else []
    found: list[VersionNote] = []
    for name in sorted(names, key=lambda name: -int(name[1:])):
        with contextlib.suppress(TrainerError, OSError):
            found.append(_note(folder / name))
    return found


def _note(folder: Path) -> VersionNote:
    if folder.is_symlink():
        raise Corrupt("the version is a link, not a folder", where=str(folder))
    digest = seal.digest(folder)
    manifest = seal.read(folder, digest)
    return VersionNote(version=folder.name, digest=digest, input_hash=manifest.input_hash, verdict=manifest.verdict)


if __name__ == "__main__":
    sys.exit(main())
