"""`make bench-serving`: answers of many versions from one process, at concurrency 16. Tokens per second, time to the
first token and memory; our engine, PEFT's `generate` for several adapters, transformers' continuous batching for the
base, and a real vLLM on the CPU, where its environment can be made. Subjects live side by side, rounds go in turn,
medians are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serving import table
from benchmarks.serving.figures import Figures, median
from benchmarks.serving.load import LOADS

if TYPE_CHECKING:
    from benchmarks.serving.subject import Guest

NOTES = """Tokens per second count tokens made, not read. Tokens of a prompt, of its version's own system prompt in it,
and of an answer: claims 62, 52, 3; office 100, 72, 8 to 56; even 100, 0, 32. PEFT computes fixed batches of 16 up to
their longest answer; ours and transformers' take the next request when one ends.
Memory is the process's own, all versions loaded, keys and values included. No HTTP but before vLLM, which is asked as
our pods start it, in fp32 and eager; its memory is that of all its processes, with 16 versions loaded and 1 GiB for
keys and values."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a base model; without, the demo's is made")
    parser.add_argument("--requests", type=int, default=64, help="in each round of each subject")
    parser.add_argument("--rounds", type=int, default=3, help="each subject so often, in turn; medians are shown")
    parser.add_argument("--versions", type=int, action="append", help="so many versions (1, 4, 16; 0: the base)")
    parser.add_argument("--last-layers", type=int, default=8, help="that a version changes")
    parser.add_argument("--load", choices=LOADS, action="append", help="this load; may be said again")
    parser.add_argument("--only", choices=sorted(subjects()), action="append", help="this subject; may be said again")
    parser.add_argument("--threads", type=int, default=2, help="of each subject, on a CPU")
    parser.add_argument("--vllm", action=argparse.BooleanOptionalAction, default=True, help="measure it, too (6 GB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def subjects() -> Mapping[str, tuple[int, ...]]:
    """Subjects, and for how many versions each is measured (0: the base alone)."""
    return {"topcoat": (0, 1, 4, 16), "peft": (1, 4, 16), "transformers": (0,), "vllm": (0, 1, 4, 16)}


def measure(asked: argparse.Namespace, folder: Path) -> list[Figures]:
    """Medians, in the order of subjects."""
    # Torch takes seconds to import, and reads the number of threads when it is.
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    from benchmarks.serving import beside, continuous, ours, peft_generate, subject, versions
    from topcoat_trainer import model
    from topcoat_trainer.demo import model as demo_model

    path = asked.model or demo_model.make(folder / "model").path
    base = model.load(path)
    most = max(asked.versions or [max(counts) for counts in subjects().values()])
    made = versions.make(base, folder / "versions", most, asked.last_layers)
    del base
    house = beside.House(subject.Order(path, tuple(made), asked.threads), folder)
    kinds: Mapping[str, Callable[[int], Callable[[subject.Order], subject.Subject]]] = {
        "topcoat": lambda _: ours.Ours, "peft": lambda _: peft_generate.Peft,
        "transformers": lambda _: continuous.Continuous, "vllm": house.kind,
    }  # fmt: skip
    try:
        guests = [
            subject.Guest(name, kinds[name](count), subject.Order(path, tuple(made[:count]), asked.threads))
            for name, count in chosen(asked)
        ]
        return rounds(asked, guests)
    finally:
        house.close()


def chosen(asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Who is measured, and for how many versions."""
    for name, counts in subjects().items():
        if (asked.only and name not in asked.only) or (name == "vllm" and not with_vllm(asked)):
            continue
        for count in counts:
            if not asked.versions or count in asked.versions:
                yield name, count


def with_vllm(asked: argparse.Namespace) -> bool:
    from tests.support import vllm

    try:
        return bool(asked.vllm and vllm.environment())
    except vllm.Missing as missing:
        print(f"without vLLM: {missing}", flush=True)
        return False


def rounds(asked: argparse.Namespace, guests: Sequence[Guest]) -> list[Figures]:
    taken: dict[tuple[str, int], list[Figures]] = defaultdict(list)
    for number in range(asked.rounds):
        for load in asked.load or LOADS:
            for place, guest in enumerate(guests):
                found = guest.round(load, asked.requests, number)
                taken[load, place].append(found)
                print(f"round {number + 1}: {asdict(found)}", flush=True)
    for guest in guests:
        guest.close()
    return [median(found) for found in taken.values()]


def main() -> int:
    asked = options()
    with tempfile.TemporaryDirectory() as folder:
        medians = measure(asked, Path(folder))
    print(f"\n{table.table(medians)}\n\n{NOTES}")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(found) for found in medians], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
