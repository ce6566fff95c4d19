"""`make bench-trainer`: fine-tuning of the last layers on a CPU. Part `peers`: ours, Hugging Face's Trainer with PEFT
on all layers and on the same last ones, and TRL's SFTTrainer; the same rows, tokens, masks, schedule, precision and
threads; subjects live side by side, epochs go in turn. Part `runs`: a retrain, a sweep, a single epoch, as whole runs.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.trainer import random_model, runs, table
from benchmarks.trainer.figures import Course

if TYPE_CHECKING:
    from benchmarks.trainer.rows import Rows

NOTES = """Seconds of processor time, but for the clock's; on a GPU all are the clock's. once: before the first epoch
(reading weights is left out); epoch: the median of all but the first; 1, 3 and 10: whole runs from these. to loss:
until every subject had that held-out loss. One step learns from 16 rows. TRL computes logits at labels only; "flat"
joins a step's rows, the other fills them up."""
SETS = ("claims", "headlines", "packed")
PARTS = ("peers", "runs")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.trainer", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a base model; without, the demo's is made")
    parser.add_argument("--part", dest="parts", choices=PARTS, action="append", help="this part; may be said again")
    parser.add_argument("--set", dest="sets", choices=SETS, action="append", help="these rows; may be said again")
    parser.add_argument("--last-layers", type=int, action="append", help="that are trained (8, 15; headlines 4, 8, 15)")
    parser.add_argument("--rows", type=int, default=240, help="learnt from in an epoch")
    parser.add_argument("--heldout", type=int, default=64, help="rows that the loss is taken on")
    parser.add_argument("--epochs", type=int, default=4, help="of each subject, in turn")
    parser.add_argument("--only", choices=sorted(subjects()), action="append", help="this subject; may be said again")
    parser.add_argument("--gpu", action="store_true", help="on a GPU, in BF16, beside TRL with Liger, and Unsloth")
    parser.add_argument("--shape", choices=random_model.SHAPES, help="random weights in the shapes of such a model")
    parser.add_argument("--threads", type=int, default=2, help="of each subject")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def subjects() -> Mapping[str, tuple[str, bool]]:
    """Module and function; whether it trains the last layers only."""
    return {
        "topcoat": ("ours.cached", True), "topcoat-uncached": ("ours.uncached", True),
        "trainer-all": ("hugging_face.trainer", False), "trainer-tail": ("hugging_face.trainer", True),
        "trl": ("hugging_face.sft_padded", True), "trl-flat": ("hugging_face.sft", True),
        "trl-liger": ("hugging_face.sft_liger", True), "unsloth": ("hugging_face.unsloth", True),
    }  # fmt: skip


ON_A_GPU = {"trl-liger": "liger_kernel", "unsloth": "unsloth"}
"""Who needs one, and the package that must be installed, which this project's own environment does not have."""


def missing(name: str, *, gpu: bool) -> str:
    """Why a subject cannot take part."""
    package = ON_A_GPU.get(name)
    if package is None:
        return ""
    return "" if gpu and importlib.util.find_spec(package) else f"{name} needs a GPU (--gpu) and the package {package}"


def base_model(asked: argparse.Namespace, folder: Path) -> Path:
    from topcoat_trainer.demo import model as demo_model

    path: Path = asked.model or demo_model.make(folder / "model").path
    if not asked.shape:
        return path
    return random_model.make(folder / "random", asked.shape, path, gpu=asked.gpu)


def peers(asked: argparse.Namespace, path: Path) -> list[Course]:
    from benchmarks.trainer import rows

    found = []
    for name in asked.sets or SETS:
        data = rows.read(name, path, asked.rows, asked.heldout)
        for place, layers in enumerate(asked.last_layers or ([4, 8, 15] if name == "headlines" else [8, 15])):
            found += side_by_side(asked, path, data, layers, with_all=place == 0)
    return found


def side_by_side(asked: argparse.Namespace, path: Path, data: Rows, layers: int, *, with_all: bool) -> list[Course]:
    """One epoch of each in turn. Whoever trains all layers is measured once for all depths."""
    from benchmarks.trainer.subject import Guest, Order

    guests = []
    try:
        for name, (place, tail) in subjects().items():
            if (asked.only and name not in asked.only) or not (tail or with_all):
                continue
            if why := missing(name, gpu=asked.gpu):
                print(f"left out: {why}", flush=True)
                continue
            module, function = place.split(".")
            kind = getattr(importlib.import_module(f"benchmarks.trainer.{module}"), function)
            order = Order(path, data, layers if tail else 0, asked.epochs, asked.threads, gpu=asked.gpu)
            guests.append(Guest(name, kind, order))
        for number in range(asked.epochs):
            for guest in guests:
                guest.epoch()
                print(f"epoch {number + 1}: {guest.name} {asdict(guest.course.epochs[-1])}", flush=True)
    finally:
        for guest in guests:
            guest.close()
    return [guest.course for guest in guests]


def main() -> int:
    asked = options()
    # Torch reads the number of threads when it is imported, here and in every subject.
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, parts = Path(name), asked.parts or PARTS
        path = base_model(asked, folder)
        if "peers" in parts:
            courses = peers(asked, path)
            print(f"\n{table.table(courses, aims=not (asked.shape or asked.model))}\n\n{NOTES}\n", flush=True)
            found["peers"] = [asdict(course) for course in courses]
        if "runs" in parts:
            compared = runs.compare(path.resolve(), asked.rows, folder)
            print(f"\n{runs.table(compared)}")
            found["runs"] = runs.as_json(compared)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
