"""Checkpoints: a folder per step, whole or absent, of safetensors and JSON; a manifest with digests, written last.

`newest` trusts only what it has read again. An old checkpoint goes only after a newer one is on the disk. A process
prunes what it made and what it found at its start, never what another one, its replacement say, makes beside it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from topcoat_trainer import files, writer
from topcoat_trainer.errors import Corrupt

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
NAME = re.compile(r"step-\d{8}(-.+)?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


class Store:
    """The checkpoints of one run. `identity` is the hash of the run's inputs: another run's are not its own."""

    def __init__(self, directory: Path, *, identity: str, keep: int, writer_name: str = "") -> None:
        self.directory = directory
        self.identity = identity
        self.keep = keep
        self.writer = writer_name or writer.name()
        self._known = sorted((path for path in directory.glob("step-*") if NAME.fullmatch(path.name)), key=_step)

    def steps(self) -> list[int]:
        """Steps that have a folder, valid or not, oldest first."""
        return sorted({_step(path) for path in self._known})

    def folder(self, step: int) -> Path:
        """Where a step lies; this process's own, if there are several."""
        own = self._own(step)
        return own if own in self._known else next((path for path in self._known if _step(path) == step), own)

    def _own(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}-{self.writer}"

    def sweep(self) -> None:
        """Removes what killed processes left half written. Only at the start, under the run's lock."""
        files.sweep(self.directory)

    def save(self, checkpoint: Checkpoint, pinned: Iterable[int] = ()) -> None:
        """Writes a checkpoint beside the others and publishes it by one rename; only then prunes old ones.

        A step is saved once: a second time is FileExistsError, never a moment without either.
        """
        final = self._own(checkpoint.step)
        temporary = files.temporary_directory(self.directory)
        try:
            with files.storing(final):
                save_file(dict(checkpoint.weights), temporary / "weights.safetensors")
                save_file(dict(checkpoint.optimizer), temporary / "optimizer.safetensors")
                files.write_json(temporary / "state.json", dict(checkpoint.state))
            files.write_json(temporary / MANIFEST, self._manifest(temporary, checkpoint.step))
            files.publish(temporary, final)
        except BaseException:
            files.remove_tree(temporary)
            raise
        self._know(final)
        self._prune({checkpoint.step, *pinned})

    def _know(self, path: Path) -> None:
        self._known = sorted({*self._known, path}, key=_step)

    def _manifest(self, folder: Path, step: int) -> dict[str, Any]:
        digests = {name: files.sha256(folder / name) for name in files.listing(folder)}
        return {"formatVersion": FORMAT_VERSION, "identity": self.identity, "step": step, "files": digests}

    def _prune(self, pinned: set[int]) -> None:
        gone = {*self.steps()[: -self.keep]} - pinned
        for path in [path for path in self._known if _step(path) in gone]:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        files.remove_tree(path)
        self._known = [known for known in self._known if known != path]

    def check(self, step: int) -> None:
        """Reads a checkpoint's files again; Corrupt names the first that differs."""
        self._check(self.folder(step), step)

    def _check(self, folder: Path, step: int) -> None:
        if not (folder / MANIFEST).is_file():
            raise Corrupt("the checkpoint has no manifest", where=str(folder))
        manifest = files.read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("formatVersion") != FORMAT_VERSION:
            raise Corrupt("the checkpoint's manifest has another format", where=str(folder / MANIFEST))
        if manifest.get("identity") != self.identity or manifest.get("step") != step:
            raise Corrupt("the checkpoint belongs to another run", where=str(folder))
        recorded = manifest.get("files")
        if not isinstance(recorded, dict):
            raise Corrupt("the checkpoint's manifest names no files", where=str(folder / MANIFEST))
        found = {name: files.sha256(folder / name) for name in files.listing(folder) if name != MANIFEST}
        for name in sorted(found.keys() | recorded.keys()):
            if found.get(name) != recorded.get(name):
                raise Corrupt(
                    f"its sha256 is {found.get(name)}, recorded is {recorded.get(name)}", where=str(folder / name)
                )

    def load(self, step: int) -> Checkpoint:
        return self._load(self.folder(step))

    def _load(self, folder: Path) -> Checkpoint:
        step = _step(folder)
        self._check(folder, step)
        return Checkpoint(
            step=step,
            weights=load_file(folder / "weights.safetensors"),
            optimizer=load_file(folder / "optimizer.safetensors"),
            state=files.read_json(folder / "state.json"),
        )

    def newest(self) -> Checkpoint | None:
        """The newest valid checkpoint. Damaged ones are named in the log and removed: their step will come again."""
        for path in reversed(list(self._known)):
            try:
                return self._load(self._adopted(path))
            except (Corrupt, FileNotFoundError) as error:
                reason = error.message if isinstance(error, Corrupt) else "it is gone"
                logger.warning("checkpoint of step %d is not used: %s", _step(path), reason)
                self._remove(path)
                self._remove(self._own(_step(path)))
        return None

    def adopt(self, step: int) -> None:
        """Makes a step this process's own: whoever made it may live on, and prune it."""
        if step in self.steps():
            self._adopted(self.folder(step))

    def _adopted(self, path: Path) -> Path:
        """The same files in a folder of this process's own."""
        own = self._own(_step(path))
        if own in self._known:
            return own
        temporary = files.temporary_directory(self.directory)
        try:
            with files.storing(own):
                for name in files.listing(path):
                    _link(path / name, temporary / name)
            files.publish(temporary, own)
        except BaseException:
            files.remove_tree(temporary)
            raise
        self._know(own)
        return own


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _link(source: Path, target: Path) -> None:
    """The file under a second name; a copy where the volume knows no such thing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
