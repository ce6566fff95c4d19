"""A sealed version on its way in: copied to a private folder, every byte compared with its seal, every tensor judged.

Works beside the engine, on a model without weights. What passes may be loaded; whether it answers as it was sealed,
the probes tell afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from topcoat.api.report import TaskKind, VersionManifest
from topcoat.api.server import WantedVersion
from topcoat_trainer import adapter_file, files, seal
from topcoat_trainer.errors import Corrupt, TrainerError, UserInputError
from topcoat_trainer.model import BaseModel


@dataclass(frozen=True, slots=True)
class Taken:
    """A version that was found whole and fitting. The folder is private, and goes with `close`.

    `raw`: it learnt prompts as they stand, without a chat template.
    """

    folder: Path
    manifest: VersionManifest
    raw: bool

    def close(self) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)


class Intake:
    """Takes versions for one base model."""

    def __init__(self, base: BaseModel, max_rank: int) -> None:
        self._skeleton = _skeleton(base)
        self._max_rank = max_rank

    def take(self, wanted: WantedVersion) -> Taken:
        """The version, or a TrainerError that names the file and what is wrong with it."""
        source = Path(wanted.path)
        room = Path(tempfile.mkdtemp(prefix="topcoat-version-"))
        try:
            folder = room / wanted.version
            with _named(folder, source):
                _copy(source, folder)
                manifest = self._verified(folder, wanted)
                raw = manifest.task is TaskKind.TEXT or seal.learnt_raw_prompts(folder)
                return Taken(folder, manifest, raw)
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise

    def _verified(self, folder: Path, wanted: WantedVersion) -> VersionManifest:
        digest = wanted.digest.removeprefix("sha256:")
        manifest = seal.verify(folder, expected_digest=digest, base_digest=self._skeleton.digest)
        where = str(folder / seal.MANIFEST)
        if manifest.version != wanted.version:
            raise Corrupt(f"the manifest is of {manifest.version}, wanted is {wanted.version}", where=where)
        if not manifest.probes:
            raise Corrupt("the manifest has no golden probes, so nothing could prove the version", where=where)
        facts = adapter_file.check(folder, self._skeleton)
        if facts.rank > self._max_rank:
            raise UserInputError(
                f"the adapter has rank {facts.rank}, this server accepts {self._max_rank}",
                where=str(folder / facts.kind.config),
                hint="raise maxRank of the ModelServer, or train with a lower method.lora.rank",
            )
        return manifest


def _skeleton(base: BaseModel) -> BaseModel:
    """The same model with shapes and no numbers, which nobody else uses: for checks beside the engine's thread."""
    factory: Any = transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(base.model.config)
    return replace(base, model=model)


def _copy(source: Path, folder: Path) -> None:
    """Plain files only; a link is refused, and none is followed."""
    if source.is_symlink() or not source.is_dir():
        raise Corrupt("there is no such folder", where=str(source), hint="check the claim and its mount")
    names = files.listing(source)
    if seal.MANIFEST not in names:
        seal.digest(source)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.open_beneath(source, name) as reading, files.storing(target), target.open("xb") as writing:
            shutil.copyfileobj(reading, writing, files.BLOCK_BYTES)


@contextlib.contextmanager
def _named(folder: Path, source: Path) -> Iterator[None]:
    """Inside it errors name the version's own place: nobody finds the private copy."""
    try:
        yield
    except TrainerError as error:
        error.where = error.where.replace(str(folder), str(source))
        raise
    except OSError as error:
        place = str(error.filename or source).replace(str(folder), str(source))
        raise Corrupt(f"the file cannot be read ({os.strerror(error.errno or 0)})", where=place) from error
