"""The inputs of a run, hashed part by part: whether they are other ones, and which change is the trigger.

Besides the parts that are hashed, a run remembers where its sources stood in the manifest (`manifest`) and how many
rows it had (`samples`), so that a change in the manifest can be told from a change behind it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from topcoat.api import input_hash, status
from topcoat.api import report as reports
from topcoat.plan.case import Wish

TRIGGERS = {
    "baseModel": "BaseModelChanged",
    "dataset": "DatasetChanged",
    "method": "MethodChanged",
    "training": "TrainingChanged",
    "requestedAt": "Requested",
}
CREATED = "Created"
REVERTED = "Reverted"
MANIFEST, SAMPLES = "manifest", "samples"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Resolved inputs: one hash, its parts, and what is remembered beside them."""

    hash: str
    parts: dict[str, str]


def of(wish: Wish, report: reports.PrepareReport) -> Inputs:
    """The inputs that a run started now would have."""
    parts = input_hash.input_parts(wish.spec, report.dataset.digest, report.base_model.digest)
    sources = {"baseModel": wish.spec.base_model.as_json(), "dataset": wish.spec.dataset.as_json()}
    written = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:32]
    total = report.dataset.train_samples + report.dataset.holdout_samples
    shortened = {name: part[:128] for name, part in parts.items()}
    return Inputs(input_hash.input_hash(parts), {**shortened, MANIFEST: written, SAMPLES: str(total)})


def run_status(wanted: Inputs, number: int, trigger: str) -> status.RunStatus:
    return status.RunStatus(number=number, trigger=trigger, input_hash=wanted.hash, input_parts=wanted.parts)


def changed(run: status.RunStatus, wanted: Inputs) -> list[str]:
    """Hashed parts that differ."""
    return [name for name in TRIGGERS if run.input_parts.get(name) != wanted.parts[name]]


def differ(run: status.RunStatus, wanted: Inputs | None, wish: Wish) -> bool:
    """Whether the wanted inputs ask for another run."""
    if wanted is None or run.input_hash == wanted.hash or _other_format(run, wanted):
        return False
    return not run.input_parts or any(_counts(name, run, wanted, wish) for name in changed(run, wanted))


def _other_format(run: status.RunStatus, wanted: Inputs) -> bool:
    return bool(run.input_hash) and run.input_hash.split(":")[0] != wanted.parts["format"]


def _counts(name: str, run: status.RunStatus, wanted: Inputs, wish: Wish) -> bool:
    """Changes in the manifest count always; changes behind it as `retrain` says."""
    if name in ("method", "training"):
        return True
    rules = wish.spec.retrain
    if name == "requestedAt":
        return bool(wanted.parts[name]) and not rules.suspend
    if run.input_parts.get(MANIFEST) != wanted.parts[MANIFEST]:
        return True
    if rules.suspend:
        return False
    if name == "baseModel":
        return wish.spec.base_model.name is None or rules.on_base_model_change
    needed = rules.on_data_change.min_new_samples if rules.on_data_change else 0
    return abs(int(wanted.parts[SAMPLES]) - _count(run)) >= needed


def _count(run: status.RunStatus) -> int:
    text = run.input_parts.get(SAMPLES, "")
    return int(text) if text.isdecimal() else 0


def trigger(run: status.RunStatus | None, wanted: Inputs, wish: Wish) -> str:
    """Why a run starts: the first part that changed."""
    if run is None:
        return CREATED
    named = [TRIGGERS[name] for name in changed(run, wanted) if _counts(name, run, wanted, wish)]
    return named[0] if named else TRIGGERS["training"]


def renewed(run: status.RunStatus, wanted: Inputs | None) -> status.RunStatus:
    """The run; its hash written anew where only the hash's format has changed."""
    if wanted is None or run.input_hash == wanted.hash or not _other_format(run, wanted):
        return run
    return run.model_copy(update={"input_hash": wanted.hash, "input_parts": wanted.parts})
