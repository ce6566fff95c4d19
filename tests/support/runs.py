"""Whole runs on a tiny model, each in a child of its own, as a planner would start them. For tests only."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import sealing, tiny_models
from topcoat.api.run import RunFile
from topcoat_trainer import candidate, files, run, stage
from topcoat_trainer.report import html

WORDS = ("roof", "hail", "water", "pipe", "fire", "smoke", "theft", "lock", "storm", "glass")
LABELS = ("property", "vehicle")
# Imported here once, so that no child has to: torch alone takes seconds.
PRELOADED = (candidate, stage)
CANARY = "zebra-canary-7731"


def rows(count: int, seed: int = 0, canary: str = "") -> list[dict[str, Any]]:
    """Chat rows with one of two labels; the label follows from the words."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        words = [chance.choice(WORDS) for _ in range(4)]
        label = LABELS[words[0] < "n"]
        text = f"{number} {' '.join(words)} {canary}".strip()
        made.append({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]})
    return made


def write_rows(path: Path, written: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return path


def run_file(root: Path, model: Path, cache: Path | None = None, **changes: Any) -> Path:
    """A run file in root for the data in root/data.jsonl; `changes` are whole parts (training=..., method=...)."""
    if not (root / "data.jsonl").exists():
        write_rows(root / "data.jsonl", rows(48, canary=CANARY))
    number = changes.get("run", 1)
    told: dict[str, Any] = {
        "name": "claims",
        "uid": "0f0f0f0f-0000",
        "run": number,
        "inputHash": "sha256:" + "e" * 64,
        "baseModel": {"uri": f"file://{model}"},
        "dataset": {"train": {"uri": "file://data.jsonl"}, "holdout": {"minSamples": 10, "maxSamples": 12}},
        "method": {"layers": 2, "lora": {"rank": 8}},
        "training": {"epochs": 2, "effectiveBatchSize": 8, "learningRate": "0.005", "maxSequenceLength": 128},
        "lifecycle": {"checkpoint": {"intervalSteps": 3, "keep": 2}},
        "evaluation": {"generation": {"maxTokens": 4}, "baselines": ["Classifier"]},
        "allowLocalFiles": True,
        "paths": {
            "run": str(root / f"runs/r{number}"),
            "versions": str(root / "versions"),
            "cache": str(cache or root / "cache"),
            "sources": str(root),
        },
        **changes,
    }
    path = root / f"run{number}.json"
    files.write_json(path, RunFile.model_validate(told).as_json())
    return path


def folder(root: Path, number: int = 1) -> Path:
    return root / f"runs/r{number}"


def termination(root: Path, number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder(root, number) / "termination.json").read_text())
    return found


def carry_out(path: Path, before: Callable[[], object] = lambda: None) -> int:
    """The run in a forked child, after `before`; its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(begun(path, before), 0)[1])


def begun(path: Path, before: Callable[[], object] = lambda: None) -> int:
    """The run in a forked child, after `before`; the child's process id."""

    def work() -> None:
        # The charts' engine keeps threads, which a fork loses. The report room tests the page; here it is slow.
        html.write = lambda report, target: files.write_bytes(target, report.verdict.encode())
        before()
        os._exit(run.main(["--run-file", str(path)]))

    return sealing.forked(work)


def killed_after(path: Path, seconds: float) -> int:
    """The run in a forked child that is killed after so many seconds; its exit code, or -9."""
    child = begun(path)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def started(path: Path) -> subprocess.Popen[str]:
    """The run as a planner starts it: a process of its own."""
    command = [sys.executable, "-m", "topcoat_trainer.run", "--run-file", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def adapter(root: Path, number: int = 1) -> bytes:
    return (root / f"versions/v{number}/adapter_model.safetensors").read_bytes()


def steps(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the seconds, which no two runs share."""
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def tiny(path: Path, family: str = "llama") -> Path:
    return tiny_models.make(family, path)
