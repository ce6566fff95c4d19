"""A sealed version's evidence, read for people: which version is meant, and evaluation.json checked against its seal.

Weights are the trainer's business (`ask` and `export` check every byte); here only what is shown is checked.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import pydantic

from topcoat.api import finetunejob, report, section, status
from topcoat.cli import place, terminal

EVALUATION = "evaluation.json"
ANSWERS = "answers.jsonl"
MANIFEST = "manifest.json"
REPORT = "report.html"
HINT = "restore the file from a back-up, or look at another version with --version"
Kind = TypeVar("Kind", bound=section.Section)


class OutOfReach(terminal.Failure):
    """Nobody here can read the files of a version."""


class Files(Protocol):
    """The files of a version, wherever they lie."""

    def where(self, name: str) -> str:
        """A file's place, for people."""

    def read_or_none(self, name: str) -> bytes | None:
        """A file's bytes, or None where it is missing."""

    def folder(self) -> Path:
        """The folder on this machine. Fails where it is elsewhere."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A version's folder on this machine."""

    path: Path

    def where(self, name: str) -> str:
        return str(self.path / name)

    def read_or_none(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def folder(self) -> Path:
        return self.path


@dataclass(frozen=True, slots=True)
class Sealed:
    """One version of one job: its entry in status and its files."""

    job: finetunejob.FineTuneJob
    entry: status.VersionStatus
    files: Files

    @property
    def folder(self) -> Path:
        """Where it lies on this machine."""
        return self.files.folder()

    @property
    def digest(self) -> str:
        """SHA-256 of its manifest.json, hex, as status has it."""
        return self.entry.digest.removeprefix("sha256:")

    def evaluation(self) -> report.EvaluationReport:
        """The evidence. Fails when it, or the manifest that vouches for it, is not what was sealed."""
        return self._parsed(report.EvaluationReport, EVALUATION, self._checked(EVALUATION))

    def page(self) -> bytes:
        """The HTML report."""
        return self._checked(REPORT)

    def answers(self) -> Path:
        """What it answered to every held-out row, checked in the same way."""
        folder = self.folder
        self._checked(ANSWERS)
        return folder / ANSWERS

    def _checked(self, name: str) -> bytes:
        manifest = self._parsed(report.VersionManifest, MANIFEST, self._read(MANIFEST, self.digest))
        if name not in manifest.files:
            terminal.fail("this version was sealed without it", where=self.files.where(name), hint=HINT)
        return self._read(name, manifest.files[name].sha256)

    def _read(self, name: str, digest: str) -> bytes:
        data = self.files.read_or_none(name)
        if data is None:
            terminal.fail("the file is missing from a sealed version", where=self.files.where(name), hint=HINT)
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            terminal.fail(f"its sha256 is {found}, recorded is {digest}", where=self.files.where(name), hint=HINT)
        return data

    def _parsed(self, kind: type[Kind], name: str, data: bytes) -> Kind:
        try:
            return kind.model_validate_json(data)
        except pydantic.ValidationError as error:
            field = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
            terminal.fail(f"the field {field} cannot be read", where=self.files.where(name), hint=HINT)


def served(here: place.Place, job: finetunejob.FineTuneJob, wished: str | None = None) -> Sealed:
    """The version that was asked for, or the one that the alias points to."""
    if wished is not None:
        return version(here, job, wished)
    serves = here.served(job)
    if serves is not None:
        return version(here, job, serves)
    name = job.metadata.name
    hint = f"`topcoat report {name}` says why; --base asks the base model, --version vN a version that does not serve"
    if not _entries(job):
        hint = f"`{here.runner[0]}` makes a version; --base asks the base model"
    return terminal.fail(f"no version of {name!r} serves yet", hint=hint)


def latest(here: place.Place, job: finetunejob.FineTuneJob, wished: str | None = None) -> Sealed:
    """The version that was asked for, or the newest, served or not."""
    if wished is not None:
        return version(here, job, wished)
    entries = _entries(job)
    if not entries:
        name = job.metadata.name
        terminal.fail(f"{name!r} has no version yet", hint=f"`topcoat status {name}` says how far it is")
    return version(here, job, entries[-1].version)


def version(here: place.Place, job: finetunejob.FineTuneJob, wished: str) -> Sealed:
    """One version by name. Fails with those that are there."""
    entries = {entry.version: entry for entry in _entries(job)}
    if wished not in entries:
        near = difflib.get_close_matches(wished, entries, 1, cutoff=0.5)
        known = f"it has {', '.join(entries)}" if entries else "it has none yet"
        meant = f"; did you mean {near[0]!r}?" if near else ""
        terminal.fail(f"{job.metadata.name!r} has no version {wished!r}{meant}", hint=known)
    return Sealed(job, entries[wished], here.files(job, entries[wished]))


def _entries(job: finetunejob.FineTuneJob) -> tuple[status.VersionStatus, ...]:
    return job.status.versions if job.status else ()
