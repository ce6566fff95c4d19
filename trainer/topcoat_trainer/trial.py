"""What all trials have in common: a fresh tail on the one base model, a folder of its own, shared activation caches.

Decides nothing: layer_trial.py and sweep.py do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from topcoat.api.method import Method
from topcoat_trainer import files, stage
from topcoat_trainer.adapter import Tail
from topcoat_trainer.batches import Batch
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import Corrupt
from topcoat_trainer.loop import course as courses
from topcoat_trainer.loop.course import Around, Course, Settings
from topcoat_trainer.stage import Cached, Material

if TYPE_CHECKING:
    from topcoat_trainer.run import Job


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial. `name`: its folder below the run's own."""

    name: str
    method: Method
    boundary: Boundary
    settings: Settings


def begun(job: Job, material: Material, trial: Trial) -> tuple[Tail, Course]:
    """The trial's tail, attached, and its course. Whoever began it detaches the tail."""
    tail = stage.attach(job, material, trial.method, trial.boundary)
    made = stage.course(job, tail, material)
    folder = job.folder / trial.name
    if job.ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
    identity = f"{made.identity}/{trial.name}"
    # A tail in parts cannot be taken off again on all ranks, so trials hold theirs whole.
    return tail, replace(made, settings=trial.settings, folder=folder, identity=identity, split="")


def caches_at(job: Job, material: Material, boundaries: Sequence[Boundary]) -> dict[Boundary, Cached]:
    """The states of the rows, and of the watched ones, at each boundary, from one pass through the frozen layers."""
    fewest = max(boundaries, key=lambda edge: edge.first_trained)
    tail = stage.attach(job, material, job.run.method, fewest)
    try:
        return stage.caches_at(job, stage.course(job, tail, material), material, boundaries)
    finally:
        tail.detach()


def among(around: Around, places: Sequence[int]) -> Around:
    """The same for rows that are only some of those in the cache; `places` says which."""
    if around is courses.nothing:
        return around

    def moved(batch: Batch) -> Any:
        segments = {segment: replace(segment, row=places[segment.row]) for segment in batch.segments}
        paths = {places[row]: tuple(segments[part] for part in path) for row, path in batch.paths.items()}
        return around(replace(batch, segments=tuple(segments.values()), paths=paths))

    return moved


def record(job: Job, name: str, identity: str) -> dict[str, Any]:
    """What was decided before, as the first rank reads it; empty where nothing was, or by another run."""
    found: Any = {}
    path = job.folder / name
    if job.ranks.first and path.exists():
        try:
            found = files.read_json(path)
        except Corrupt:
            found = {}
    known = isinstance(found, dict) and found.get("identity") == identity
    return dict(job.ranks.from_first(found if known else {}))


def keep(job: Job, name: str, identity: str, decided: dict[str, Any]) -> None:
    """Writes a decision for good: it is not made again."""
    if job.ranks.first:
        job.claim.demand()
        files.write_json(job.folder / name, {"identity": identity, **decided})


def forget(job: Job, name: str) -> None:
    """What trials that are decided no longer need."""
    if job.ranks.first:
        job.claim.demand()
        files.remove_tree(job.folder / name)
