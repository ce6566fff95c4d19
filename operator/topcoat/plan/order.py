"""What a trainer process is told, made from the wish: resolved model, budget, and the version that serves."""

from __future__ import annotations

from topcoat.api import base_model as base_models
from topcoat.api import finetunejob, lifecycle, status
from topcoat.api import run as runs
from topcoat.manifests import job
from topcoat.plan import observed
from topcoat.plan import profile as profiles
from topcoat.plan.case import Case, Wish
from topcoat.plan.intent import Order


def order(case: Case, wish: Wish, run: status.RunStatus | None, memory_ran_out: int = 0) -> Order:
    """The order for one attempt at a run (None: for the prepare stage)."""
    metadata, trainer = case.job.metadata, profiles.sized(wish.spec.trainer, case.seen.profile)
    local = case.seen.mode is observed.Mode.LOCAL
    return Order(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        run=run.number if run else 0,
        attempt=run.attempt if run else 1,
        trigger=run.trigger if run else "Prepare",
        input_hash=run.input_hash if run else "",
        spec=_smaller(wish.spec, memory_ran_out),
        base_model=_pinned(case, wish) if run else wish.base_model,
        budget=wish.budget,
        serving=_serving(case),
        max_dataset_bytes=case.seen.profile.spec.limits.max_dataset_bytes if case.seen.profile else None,
        processes=1 if local else job.processes(trainer) * trainer.nodes,
        gpus=None if local else int(profiles.gpu_count(trainer)),
    )


def _pinned(case: Case, wish: Wish) -> base_models.BaseModel:
    """The base model; where the manifest pins no revision of a hub's model, the one that was found and checked."""
    model, prepared = wish.base_model, case.seen.prepared
    if model.revision or not (model.uri or "").startswith("hf://") or prepared is None or prepared.report is None:
        return model
    return model.model_copy(update={"revision": prepared.report.base_model.revision[:253] or None})


def _serving(case: Case) -> runs.ServingVersion | None:
    """The version that the candidate is compared with: the one that serves, or the promoted one where none does."""
    alias = case.seen.alias
    name = alias.version if alias and alias.job == case.job.metadata.name else case.before.promoted_version
    found = case.usable_or_none(name)
    if found is None:
        return None
    # In files of the trainer a digest is bare hex; in the API it says its kind.
    digest = found.digest.removeprefix("sha256:")
    return runs.ServingVersion(version=found.version, path=found.path, digest=digest)


def _smaller(spec: finetunejob.FineTuneJobSpec, memory_ran_out: int) -> finetunejob.FineTuneJobSpec:
    """The micro-batch halved for each time that memory ran out; the effective batch stays."""
    if not memory_ran_out or spec.lifecycle.on_out_of_memory is lifecycle.OnOutOfMemory.FAIL:
        return spec
    training = spec.training
    size = max(1, (training.micro_batch_size or training.effective_batch_size) >> memory_ran_out)
    return spec.model_copy(update={"training": training.model_copy(update={"micro_batch_size": size})})
