"""Whole runs by the product itself, `topcoat run --local`: what a retrain, a sweep and a single epoch cost beside what
they would cost otherwise. Processor seconds of the stages up to the trained tail, as the run's own diary tells them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STAGES = ("Loading", "Caching", "Training")
NAME = "bench"
LIMIT_SECONDS = 1800
MORE = 1.05
"""A retrain's rows, in those of the run before."""
RATES = ["0.0005", "0.001", "0.002", "0.004"]
RANKS = [8, 16]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ours` beside `other`, in processor seconds; `target`: what their ratio may be at most."""

    what: str
    ours: float
    other: float
    target: float

    @property
    def ratio(self) -> float:
        return self.ours / self.other


def compare(model: Path, rows: int, folder: Path) -> list[Comparison]:
    """All comparisons, in turn, on so many claims."""
    from topcoat_trainer.demo import claims

    claims.write(folder)
    lines = (folder / "claims-train.jsonl").read_text().splitlines(keepends=True)
    if int(rows * MORE) > len(lines):
        raise SystemExit(f"there are {len(lines)} claims: --rows may be {int(len(lines) / MORE)} at most")
    random.Random(0).shuffle(lines)
    place = _Place(model, folder)

    def costs(store: str, count: int, **training: Any) -> Mapping[str, float]:
        (folder / "train.jsonl").write_text("".join(lines[:count]))
        return place.costs(store, training)

    kept = {"activationCache": {"keep": True, "medium": "Volume"}}
    one = costs("single", rows, epochs=1)
    whole = costs("single", rows, epochs=1, activationCache={"mode": "Disabled"})
    cold = costs("kept", rows, epochs=2, **kept)
    again = costs("kept", int(rows * MORE), epochs=2, **kept)
    run = costs("run", rows, epochs=3)
    sweep = costs("sweep", rows, epochs=3, sweep={"learningRates": RATES, "ranks": RANKS})
    return [
        Comparison("one epoch / the same without a cache", sum(one.values()), sum(whole.values()), 1.03),
        Comparison(
            "caching for a retrain with 5 % more rows / for the first run", again["Caching"], cold["Caching"], 0.1
        ),
        Comparison("a sweep of eight trials / one run", sum(sweep.values()), sum(run.values()), 2.5),
    ]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the runs happen."""

    model: Path
    folder: Path

    def costs(self, store: str, training: Mapping[str, Any]) -> dict[str, float]:
        """Processor seconds of each stage of a run."""
        manifest = {
            "apiVersion": "topcoat.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": NAME},
            "spec": {
                "baseModel": {"uri": f"file://{self.model}"},
                "dataset": {
                    "train": {"uri": f"file://{self.folder}/train.jsonl"},
                    "evaluation": {"uri": f"file://{self.folder}/claims-heldout.jsonl"},
                },
                "method": {"type": "LoRA", "layers": 8, "lora": {"rank": 16}},
                "training": {
                    "effectiveBatchSize": 16, "maxSequenceLength": 128, **training,
                },
                "evaluation": {
                    "baselines": [], "metrics": [{"name": "Loss"}], "maxSamples": 10, "generation": {"maxTokens": 1},
                },
            },
        }  # fmt: skip
        path = self.folder / "job.json"
        path.write_text(json.dumps(manifest))
        before = self._diaries(store)
        command = [
            str(Path(sys.executable).with_name("topcoat")),
            "run",
            "-f",
            str(path),
            "--store",
            str(self.folder / store),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
        fresh = self._diaries(store) - before
        if len(fresh) != 1:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        stages = json.loads(fresh.pop().read_text())["stages"]
        found = {stage["stage"]: stage["cpuSeconds"] for stage in stages if stage["stage"] in STAGES}
        print(f"{store}: {found}", flush=True)
        return found

    def _diaries(self, store: str) -> set[Path]:
        return set((self.folder / store).rglob("diary.json"))


def table(found: list[Comparison]) -> str:
    lines = [
        f"{one.what:<64}{one.ours:>9.1f}{one.other:>9.1f}{one.ratio:>7.2f} (target {one.target:g})" for one in found
    ]
    return "\n".join([f"{'processor seconds':<64}{'ours':>9}{'other':>9}{'ratio':>7}", *lines])


def as_json(found: list[Comparison]) -> list[dict[str, Any]]:
    return [{**asdict(one), "ratio": one.ratio} for one in found]
