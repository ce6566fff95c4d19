"""What a run learns: first how many layers (`layers: Auto`), then with which values (`training.sweep`), then it trains.

Without either it simply trains. All processes of a run take the same path.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from topcoat_trainer import layer_trial, stage, sweep
from topcoat_trainer.stage import Learnt, Material

if TYPE_CHECKING:
    from topcoat_trainer.run import Job


def learn(job: Job, material: Material) -> Learnt:
    """The trained tail, still attached, and how it came to be."""
    choice = layer_trial.choose(job, material)
    if job.run.training.sweep is not None:
        learnt = sweep.train(job, material, choice.boundary, choice.cached)
    else:
        tail = stage.attach(job, material, job.run.method, choice.boundary)
        learnt = stage.train(job, tail, material, choice.cached)
    notes = (choice.note, *learnt.notes) if choice.note else learnt.notes
    return replace(learnt, notes=notes, layer_trials=choice.trials)
