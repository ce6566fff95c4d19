"""Whole runs on a tiny model, in process or in a child, as a planner would start them. For tests only."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.support import tiny_models
from topcoat.api.run import RunFile
from topcoat_trainer import files

WORDS = ("roof", "hail", "water", "pipe", "fire", "smoke", "theft", "lock", "storm", "glass")
LABELS = ("property", "vehicle")
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


def run_file(root: Path, model: Path, **changes: Any) -> Path:
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
            "cache": str(root / "cache"),
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


def tiny(path: Path, family: str = "llama") -> Path:
    return tiny_models.make(family, path)
