"""Candidates to seal, and a child process killed at each of its file operations in turn. For tests only."""

from __future__ import annotations

import builtins
import io
import os
import pathlib
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from topcoat.api.promotion import Verdict
from topcoat.api.report import BaseModelCard, Lineage, Probe, TaskKind, VersionManifest
from topcoat_trainer import files

OPERATIONS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "open")


def candidate(folder: Path, scale: float = 1.0) -> Path:
    """A folder with a tiny adapter, not sealed yet. scale 0: an adapter that changes nothing."""
    folder.mkdir(parents=True)
    a = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    safetensors.numpy.save_file(
        {"l.lora_A.weight": a, "l.lora_B.weight": a * scale}, folder / "adapter_model.safetensors"
    )
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "README.md").write_text("# A version\n")
    return folder


def base_model_card() -> BaseModelCard:
    return BaseModelCard(
        id="org/base",
        uri="file:base",
        path="base",
        revision="r",
        digest="b" * 64,
        config_digest="c" * 64,
        architecture="LlamaForCausalLM",
        layers=5,
        hidden_size=32,
        parameters=1000,
        bytes=4000,
    )


def facts(steps: int = 4) -> VersionManifest:
    """All of a manifest but its files, for a run of four steps."""
    lineage = Lineage(
        job="claims",
        namespace="default",
        run=1,
        version="v1",
        trigger="Manual",
        method="LoRA",
        first_trained_layer=3,
        total_layers=5,
        rank=8,
        trained_parameters=10,
        total_parameters=1000,
        steps=steps,
        target_steps=4,
        epochs=1.0,
        seed=0,
        precision="FP32",
        device="cpu",
        code_version="0",
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:00:00Z",
    )
    return VersionManifest(
        version="v1",
        files={},
        kind="lora",
        base_model=base_model_card(),
        dataset_digest="d" * 64,
        input_hash="e" * 64,
        task=TaskKind.GENERATION,
        lineage=lineage,
        verdict=Verdict.PROMOTE,
        tensors=0,
        probes=[Probe(prompt_ids=[1], token_ids=[2], log_probabilities=[-0.5])],
    )


class KillAt:
    """Counts file operations of this process and kills it, as power loss would, right before number `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seen = 0

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.seen += 1
            if self.seen == self.limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    def install(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self.counted(getattr(os, name)))
        opened = self.counted(io.open)
        io.open = opened
        builtins.open = opened
        if hasattr(pathlib, "io"):
            pathlib.io.open = opened


def forked(work: Callable[[], object]) -> int:
    """Starts work in a forked child and gives back its process id. A fork starts in milliseconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads: the child uses one only
        child = os.fork()
    if child == 0:
        status = 70
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def in_child(work: Callable[[], object]) -> int:
    """Runs work in a forked child; the wait status: 0 done, 9 killed."""
    return os.waitpid(forked(work), 0)[1]


def killed_at_every_file_operation(
    work: Callable[[Path], object], root: Path, limit: int = 500
) -> Iterator[tuple[Path, bool]]:
    """Runs work in new folders, killed before its 1st, 2nd, 3rd ... file operation, until it ends unharmed."""
    for number in range(1, limit):
        folder = root / f"k{number}"
        folder.mkdir()

        def one(folder: Path = folder, number: int = number) -> None:
            KillAt(number).install()
            work(folder)

        result = in_child(one)
        assert result in (0, 9), f"the child ended with status {result} when killed at {number}"
        yield folder, result == 0
        if result == 0:
            return
    raise AssertionError(f"the work did not end within {limit} file operations; is {files.__name__} looping?")
