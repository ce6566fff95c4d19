"""What a local model server is told of the store's aliases, and told again whenever one moves.

Reads the store and never changes it. What is wrong with a version is the server's to find; here only bases are told
apart, by the manifests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from topcoat.api import finetunejob, prepared, report, server
from topcoat.cli import observe, store, terminal

Stamp = tuple[tuple[str, tuple[int, int] | None], ...]


@dataclass(frozen=True, slots=True)
class Pointer:
    """An alias of the store: whose it is, the version that answers, and what it may go to next."""

    alias: str
    job: str
    target: server.WantedVersion
    others: tuple[server.WantedVersion, ...] = ()

    @property
    def folder(self) -> Path:
        return Path(self.target.path)

    def base_or_none(self) -> prepared.BaseModelCard | None:
        """The base model of the version that answers; None where its manifest cannot be read."""
        found = observe.read_or_none(report.VersionManifest, self.folder / observe.MANIFEST)
        return found.base_model if found else None


def pointers(here: store.Store) -> list[Pointer]:
    """All aliases of the store, by name."""
    known = set(here.names())
    try:
        return [
            _pointer(here, alias, entry, here.job(entry["job"]) if entry["job"] in known else None)
            for alias, entry in sorted(here.aliases().items())
        ]
    except (KeyError, TypeError, AttributeError, pydantic.ValidationError):
        terminal.fail("the aliases cannot be read", str(here.root / "aliases.json"), "restore the file from a back-up")


def _pointer(here: store.Store, alias: str, entry: dict[str, str], job: finetunejob.FineTuneJob | None) -> Pointer:
    folder = (here.root / entry["path"]).resolve()
    target = server.WantedVersion(version=entry["version"], path=str(folder), digest=entry["digest"])
    others = tuple(_others(here, job, target.version)) if job else ()
    return Pointer(alias, entry["job"], target, others)


def _others(here: store.Store, job: finetunejob.FineTuneJob, target: str) -> Iterator[server.WantedVersion]:
    """The promoted version and the one before it: where the alias goes next, it is loaded already."""
    status = job.status
    wanted = {status.promoted_version, status.previous_version} - {target} if status else set()
    for entry in status.versions if status else ():
        folder = here.version_folder(job, entry.version).resolve()
        if entry.version in wanted and folder.is_dir():
            yield server.WantedVersion(version=entry.version, path=str(folder), digest=entry.digest)


@dataclass(slots=True)
class Keeper:
    """Alias files for the versions of one base model. An alias that was served once stays its business."""

    here: store.Store
    base_digest: str
    token_file: Path | None = None
    files: dict[str, server.AliasFile] = field(default_factory=dict)
    """What was said last."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Alias -> job, where another base model is needed."""
    _stamp: Stamp | None = None

    def changed(self) -> list[server.AliasFile]:
        """Files that say something new since the last call."""
        stamp = self._look()
        if stamp == self._stamp:
            return []
        found = pointers(self.here)
        mine = {one.alias: one for one in found if one.alias in self.files or self._on_base(one)}
        self.elsewhere = {one.alias: one.job for one in found if one.alias not in mine}
        wanted = [self._file(one) for one in mine.values()]
        # Nobody answers to an alias that is gone; its file stays, and with it the token that opens the base model.
        gone = [self.files[alias] for alias in sorted(self.files.keys() - mine.keys())]
        wanted += [file.model_copy(update={"generation": 1, "versions": (), "targets": ()}) for file in gone]
        self._stamp = stamp
        return [news for file in wanted if (news := self._news_or_none(file)) is not None]

    def _look(self) -> Stamp:
        paths = [self.here.root / "aliases.json", *sorted(self.here.objects.glob("*.json"))]
        return tuple((path.name, observe.stamp(path)) for path in paths)

    def _on_base(self, pointer: Pointer) -> bool:
        base = pointer.base_or_none()
        return base is not None and base.digest == self.base_digest

    def _file(self, pointer: Pointer) -> server.AliasFile:
        return server.AliasFile(
            alias=pointer.alias,
            job=pointer.job,
            generation=1,
            versions=(pointer.target, *pointer.others),
            targets=(server.Target(version=pointer.target.version),),
            token_file=str(self.token_file) if self.token_file else None,
        )

    def _news_or_none(self, file: server.AliasFile) -> server.AliasFile | None:
        """The file with its number, unless it says what was said last."""
        known = self.files.get(file.alias)
        if known is not None and known.model_copy(update={"generation": file.generation}) == file:
            return None
        generation = known.generation + 1 if known else 1
        self.files[file.alias] = file.model_copy(update={"generation": generation})
        return self.files[file.alias]
