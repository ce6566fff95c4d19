"""A sealed version's evidence, read for people: which version is meant, and evaluation.json checked against its seal.

Weights are the trainer's business (`ask` and `export` check every byte); here only what is shown is checked.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydantic

from topcoat.api import finetunejob, report, section, status
from topcoat.cli import store, terminal

EVALUATION = "evaluation.json"
ANSWERS = "answers.jsonl"
MANIFEST = "manifest.json"
REPORT = "report.html"
HINT = "restore the file from a back-up, or look at another version with --version"
Kind = TypeVar("Kind", bound=section.Section)


@dataclass(frozen=True, slots=True)
class Sealed:
    """One version of one job: its entry in status and its folder."""

    job: finetunejob.FineTuneJob
    entry: status.VersionStatus
    folder: Path

    @property
    def digest(self) -> str:
        """SHA-256 of its manifest.json, hex, as status has it."""
        return self.entry.digest.removeprefix("sha256:")

    def evaluation(self) -> report.EvaluationReport:
        """The evidence. Fails when it, or the manifest that vouches for it, is not what was sealed."""
        return self._parsed(report.EvaluationReport, EVALUATION, self._checked(EVALUATION))

    def answers(self) -> Path:
        """What it answered to every held-out row, checked in the same way."""
        self._checked(ANSWERS)
        return self.folder / ANSWERS

    def _checked(self, name: str) -> bytes:
        manifest = self._parsed(report.VersionManifest, MANIFEST, self._read(MANIFEST, self.digest))
        if name not in manifest.files:
            terminal.fail("this version was sealed without it", where=str(self.folder / name), hint=HINT)
        return self._read(name, manifest.files[name].sha256)

    def _read(self, name: str, digest: str) -> bytes:
        path = self.folder / name
        if not path.is_file():
            terminal.fail("the file is missing from a sealed version", where=str(path), hint=HINT)
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            terminal.fail(f"its sha256 is {found}, recorded is {digest}", where=str(path), hint=HINT)
        return data

    def _parsed(self, kind: type[Kind], name: str, data: bytes) -> Kind:
        try:
            return kind.model_validate_json(data)
        except pydantic.ValidationError as error:
            field = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
            terminal.fail(f"the field {field} cannot be read", where=str(self.folder / name), hint=HINT)


def served(here: store.Store, job: finetunejob.FineTuneJob, wished: str | None = None) -> Sealed:
    """The version that was asked for, or the one that the alias points to."""
    if wished is not None:
        return version(here, job, wished)
    alias = here.aliases().get(job.alias, {})
    if alias.get("job") == job.metadata.name and alias.get("version"):
        return version(here, job, alias["version"])
    name = job.metadata.name
    hint = f"`topcoat report {name}` says why; --base asks the base model, --version vN a version that does not serve"
    if not _entries(job):
        hint = "`topcoat run -f job.yaml --local` makes a version; --base asks the base model"
    return terminal.fail(f"no version of {name!r} serves yet", hint=hint)


def latest(here: store.Store, job: finetunejob.FineTuneJob, wished: str | None = None) -> Sealed:
    """The version that was asked for, or the newest, served or not."""
    if wished is not None:
        return version(here, job, wished)
    entries = _entries(job)
    if not entries:
        name = job.metadata.name
        terminal.fail(f"{name!r} has no version yet", hint=f"`topcoat status {name}` says how far it is")
    return version(here, job, entries[-1].version)


def version(here: store.Store, job: finetunejob.FineTuneJob, wished: str) -> Sealed:
    """One version by name. Fails with those that are there."""
    entries = {entry.version: entry for entry in _entries(job)}
    if wished not in entries:
        near = difflib.get_close_matches(wished, entries, 1, cutoff=0.5)
        known = f"it has {', '.join(entries)}" if entries else "it has none yet"
        meant = f"; did you mean {near[0]!r}?" if near else ""
        terminal.fail(f"{job.metadata.name!r} has no version {wished!r}{meant}", hint=known)
    return Sealed(job, entries[wished], here.version_folder(job, wished))


def _entries(job: finetunejob.FineTuneJob) -> tuple[status.VersionStatus, ...]:
    return job.status.versions if job.status else ()
