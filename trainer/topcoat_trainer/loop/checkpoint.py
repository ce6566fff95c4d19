"""Checkpoints: a folder per step, whole or absent, of safetensors and JSON; a manifest with digests, written last.

`newest` trusts only what it has read again. An old checkpoint goes only after a newer one is on the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from topcoat_trainer import files
from topcoat_trainer.errors import Corrupt

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


class Store:
    """The checkpoints of one run. `identity` is the hash of the run's inputs: another run's are not its own."""

    def __init__(self, directory: Path, *, identity: str, keep: int) -> None:
        self.directory = directory
        self.identity = identity
        self.keep = keep

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a folder, valid or not, oldest first."""
        names = (path.name.removeprefix("step-") for path in self.directory.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, checkpoint: Checkpoint, pinned: Iterable[int] = ()) -> None:
        """Writes a checkpoint beside the others and publishes it by one rename; only then prunes old ones.

        A step is saved once: a second time is FileExistsError, never a moment without either.
        """
        final = self._path(checkpoint.step)
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
        self._prune({checkpoint.step, *pinned})

    def _manifest(self, folder: Path, step: int) -> dict[str, Any]:
        digests = {name: files.sha256(folder / name) for name in files.listing(folder)}
        return {"formatVersion": FORMAT_VERSION, "identity": self.identity, "step": step, "files": digests}

    def _prune(self, pinned: set[int]) -> None:
        for step in self.steps()[: -self.keep]:
            if step not in pinned:
                files.remove_tree(self._path(step))

    def check(self, step: int) -> None:
        """Reads a checkpoint's files again; Corrupt names the first that differs."""
        folder = self._path(step)
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
        self.check(step)
        folder = self._path(step)
        return Checkpoint(
            step=step,
            weights=load_file(folder / "weights.safetensors"),
            optimizer=load_file(folder / "optimizer.safetensors"),
            state=files.read_json(folder / "state.json"),
        )

    def newest(self) -> Checkpoint | None:
        """The newest valid checkpoint. Damaged ones are named in the log and removed: their step will come again."""
        files.sweep(self.directory)
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except Corrupt as error:
                logger.warning("checkpoint of step %d is not used: %s", step, error.message)
                files.remove_tree(self._path(step))
        return None
