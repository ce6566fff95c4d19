"""`make bench-operator`: 1,000 jobs at once on a real control plane, a restart with 5,000 finished ones, and a time of
nothing; for us, for Kubeflow Trainer's manager and for a bare client. No node: pods stay pending. Rounds go in turn,
medians are shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.operator import bare, burst, figures, kubeflow, load, ours, restart, subject, table, target
from tests.support.kube import leftover

SUBJECTS: Mapping[str, Callable[[], subject.Subject]] = {
    "topcoat": ours.Topcoat,
    "kubeflow": kubeflow.Kubeflow,
    "kubeflow-unlimited": lambda: kubeflow.Kubeflow(limited=False),
    "bare": bare.Bare,
}
FINISHING: Mapping[str, Callable[[], subject.Finishing]] = {"topcoat": ours.Topcoat, "kubeflow": kubeflow.Kubeflow}
PARTS = ("burst", "restart")
SHORT_SECONDS, LONG_SECONDS = 30.0, 600.0
NOTES = """Counted: the Jobs that the operator or the bare client made; for Kubeflow JobSets, one for each TrainJob.
A TrainJob also brings a ConfigMap, the snapshot of its runtime. JobSet's own controller, which would make the Jobs,
does not run: nothing of its cost is in the figures, and no later news comes from Jobs. Finished jobs have no children
left. Kubeflow's manager does not give its Lease back when it stops, so its first look after a restart waits for the
old Lease to run out."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.operator", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="how many at once")
    parser.add_argument("--finished", type=int, default=5000, help="how many are finished at a restart")
    parser.add_argument("--idle-seconds", type=float, help="how long nothing happens (30; with --all 600; 0: left out)")
    parser.add_argument("--all", action="store_true", help="ten minutes of nothing, not half a minute")
    parser.add_argument("--rounds", type=int, default=1, help="each subject so often, in turn; medians are shown")
    parser.add_argument("--only", choices=SUBJECTS, action="append", help="this subject; may be said again")
    parser.add_argument("--part", choices=PARTS, action="append", help="this part; the idle time follows our burst")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    found = parser.parse_args()
    if found.idle_seconds is None:
        found.idle_seconds = LONG_SECONDS if found.all else SHORT_SECONDS
    return found


class Rounds:
    """All that was measured: part -> subject -> one record a round."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))

    def take(self, part: str, record: figures.Burst | figures.Restart | figures.Idle) -> None:
        self._taken[part][record.subject].append(record)
        print(f"{part}: {asdict(record)}", flush=True)

    def medians(self) -> dict[str, dict[str, Any]]:
        return {
            part: {name: figures.median(records) for name, records in found.items()}
            for part, found in self._taken.items()
        }

    def as_json(self) -> dict[str, Any]:
        return {
            part: {name: [asdict(record) for record in records] for name, records in found.items()}
            for part, found in self._taken.items()
        }


def measure(wanted: argparse.Namespace) -> Rounds:
    """All rounds. The long idle time comes once, in the last."""
    # Ours first, in whatever order they were named: the tables compare it with the others.
    rounds, names = Rounds(), [name for name in SUBJECTS if name in (wanted.only or SUBJECTS)]
    parts = wanted.part or PARTS
    for number in range(wanted.rounds):
        for name in names if "burst" in parts else ():
            last = name == "topcoat" and number == wanted.rounds - 1
            made, idle = burst.measure(SUBJECTS[name](), wanted.jobs, wanted.idle_seconds if last else 0)
            rounds.take("burst", made)
            if idle:
                rounds.take("idle", idle)
        for name in names if "restart" in parts else ():
            if name in FINISHING:
                rounds.take("restart", restart.measure(FINISHING[name](), wanted.finished))
    return rounds


def text(wanted: argparse.Namespace, found: Mapping[str, Mapping[str, Any]]) -> str:
    heads = {
        "burst": f"{wanted.jobs:,} jobs at once, {load.IN_FLIGHT} creations in flight, {wanted.rounds} round(s)",
        "restart": f"Restart with {wanted.finished:,} finished jobs",
        "idle": f"{wanted.idle_seconds:.0f} seconds of nothing, {wanted.jobs:,} jobs waiting",
    }
    shown: Mapping[str, Callable[[Any], str]] = {"burst": table.burst, "restart": table.restart, "idle": table.idle}
    blocks = [f"{heads[part]}\n{shown[part](found[part])}" for part in heads if part in found]
    aims = "\n".join(f"  {line}" for line in target.lines(found))
    return "\n\n".join([*blocks, NOTES, f"Targets for Topcoat\n{aims}"])


def main() -> int:
    wanted = options()
    leftover.clean()
    rounds = measure(wanted)
    medians = rounds.medians()
    print("\n" + text(wanted, medians))
    if wanted.json:
        shown = {part: {name: asdict(one) for name, one in found.items()} for part, found in medians.items()}
        told = {"medians": shown, "rounds": rounds.as_json(), "targets": target.lines(medians)}
        wanted.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
