"""`profile`: what the platform allows, and what this mode can do. Says which limit and who can raise it.

Applies the profile's defaults first; a refusal starts nothing and stops nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pydantic

from topcoat.api import base_model as base_models
from topcoat.api import dataset, finetunejob, lifecycle
from topcoat.api import method as methods
from topcoat.api import profile as profiles
from topcoat.api import serving as servings
from topcoat.plan import observed, schedule
from topcoat.plan.case import Refusal, Wish

FORBIDS = "ProfileForbids"
HERE = "UnsupportedHere"
SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
            "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}  # fmt: skip


def wish(job: finetunejob.FineTuneJob, seen: observed.Seen) -> Wish:
    """The manifest with the profile applied; `refusal` says why nothing may be started, if so."""
    found = seen.profile
    if found is None:
        remedy = "name another in spec.profile, or ask the platform team for it"
        message = f"there is no FineTuneProfile {job.spec.profile!r}; {remedy}"
        return Wish(job.spec, job.spec.base_model, refusal=Refusal("ProfileMissing", message))
    try:
        spec = with_defaults(job.spec, found.spec.defaults)
    except pydantic.ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        remedy = "set the field, or ask the platform team to mend the profile"
        message = f"the defaults of profile {found.metadata.name!r} do not fit at {field or 'spec'}; {remedy}"
        return Wish(job.spec, job.spec.base_model, refusal=Refusal(FORBIDS, message))
    model, digest = resolved(spec.base_model, found)
    wrong = schedule.problem(spec.retrain)
    refusals = (
        *([Refusal("ScheduleInvalid", wrong)] if wrong else []),
        *_unsupported(spec, model, seen.mode),
        *_forbidden(spec, model, found),
        *_engine(spec, seen.mode, found),
    )
    return Wish(
        spec=spec,
        base_model=model,
        base_digest=digest,
        budget=spec.budget or _default_budget(found),
        refusal=next(iter(refusals), None),
        notes=tuple(_left_out(spec, seen.mode)),
    )


def with_defaults(spec: finetunejob.FineTuneJobSpec, defaults: dict[str, Any]) -> finetunejob.FineTuneJobSpec:
    """The spec; fields that nobody wrote come from the profile."""
    if not defaults:
        return spec
    written = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return finetunejob.FineTuneJobSpec.model_validate(_merged(defaults, written))


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    nested = [name for name in above if isinstance(below.get(name), dict) and isinstance(above[name], dict)]
    return both | {name: _merged(below[name], above[name]) for name in nested}


def resolved(model: base_models.BaseModel, found: profiles.FineTuneProfile) -> tuple[base_models.BaseModel, str | None]:
    entry = next((entry for entry in found.spec.models if entry.name == model.name), None)
    if entry is None:
        return model, None
    revision = model.revision or entry.revision
    return base_models.BaseModel(uri=entry.uri, revision=revision, secret_ref=model.secret_ref), entry.digest


def _default_budget(found: profiles.FineTuneProfile) -> lifecycle.Budget | None:
    hours = found.spec.limits.max_gpu_hours
    return lifecycle.Budget(max_gpu_hours=hours) if hours is not None and float(hours) > 0 else None


def _forbidden(
    spec: finetunejob.FineTuneJobSpec, model: base_models.BaseModel, found: profiles.FineTuneProfile
) -> Iterator[Refusal]:
    name, limits = found.metadata.name, found.spec.limits
    raise_it = f"the platform team can change it in FineTuneProfile {name!r}"
    if model.uri is None:
        known = ", ".join(entry.name for entry in found.spec.models) or "none"
        yield Refusal(FORBIDS, f"baseModel.name {model.name!r} is not in the catalogue (it has: {known}); {raise_it}")
    elif spec.base_model.name is None and not _allowed(model.uri, found):
        patterns = ", ".join(found.spec.allowed_model_uris) or "none"
        yield Refusal(FORBIDS, f"baseModel.uri {model.uri!r} fits no allowedModelURIs ({patterns}); {raise_it}")
    if limits.allowed_methods and spec.method.type not in limits.allowed_methods:
        allowed = ", ".join(limits.allowed_methods)
        text = f"method.type {spec.method.type} is not in limits.allowedMethods ({allowed}); {raise_it}"
        yield Refusal(FORBIDS, text)
    for field, wanted, limit, limit_name in _numbers(spec, limits):
        if limit is not None and wanted > limit:
            yield Refusal(FORBIDS, f"{field} {wanted:f} is above limits.{limit_name} {limit:f}; {raise_it}")
    for resource, wanted_text, limit_text in _resources(spec, found):
        if quantity(wanted_text) > quantity(limit_text):
            message = (
                f"trainer.resources asks for {resource} {wanted_text}, above maxResources {limit_text}; {raise_it}"
            )
            yield Refusal(FORBIDS, message)


def _engine(
    spec: finetunejob.FineTuneJobSpec, mode: observed.Mode, found: profiles.FineTuneProfile
) -> Iterator[Refusal]:
    """What vLLM needs, and what it cannot serve beside what the API's own rules say."""
    if mode is not observed.Mode.CLUSTER or spec.serving.engine is not servings.Engine.VLLM:
        return
    if found.spec.images.vllm is None:
        yield Refusal(FORBIDS, f"{no_vllm(found)}, or set serving.engine to Transformers")
    if spec.method.type is methods.MethodType.FULL and spec.serving.mode is not servings.Mode.NONE:
        remedy = "set serving.engine to Transformers or method.type to LoRA"
        yield Refusal(HERE, f"serving.engine VLLM serves LoRA versions only, and method.type is Full; {remedy}")


def engine(spec: finetunejob.FineTuneJobSpec, found: profiles.FineTuneProfile | None) -> servings.Engine:
    """What answers for a job. Auto, in job and profile: our own engine, which serves every kind of version."""
    wanted = spec.serving.engine
    if wanted is servings.Engine.AUTO and found is not None:
        wanted = servings.Engine((found.spec.defaults.get("serving") or {}).get("engine", wanted))
    return servings.Engine.TRANSFORMERS if wanted is servings.Engine.AUTO else wanted


def no_vllm(found: profiles.FineTuneProfile) -> str:
    """Why a profile's servers cannot be vLLM, and who can change it."""
    name = found.metadata.name
    return f"engine VLLM needs an image, and FineTuneProfile {name!r} names none; the platform team can set images.vllm"


def _allowed(uri: str, found: profiles.FineTuneProfile) -> bool:
    return any(fnmatch.fnmatchcase(uri, pattern) for pattern in found.spec.allowed_model_uris)


def _numbers(
    spec: finetunejob.FineTuneJobSpec, limits: profiles.Limits
) -> Iterator[tuple[str, Decimal, Decimal | None, str]]:
    epochs, gpus, hours = limits.max_epochs, limits.max_gpus, limits.max_gpu_hours
    yield "training.epochs", Decimal(spec.training.epochs), None if epochs is None else Decimal(epochs), "maxEpochs"
    yield "GPUs of trainer", gpu_count(spec.trainer), None if gpus is None else Decimal(gpus), "maxGPUs"
    if spec.budget is not None:
        limit = None if hours is None else Decimal(hours)
        yield "budget.maxGPUHours", Decimal(spec.budget.max_gpu_hours), limit, "maxGPUHours"


def _resources(spec: finetunejob.FineTuneJobSpec, found: profiles.FineTuneProfile) -> Iterator[tuple[str, str, str]]:
    for asked in (spec.trainer.resources.requests, spec.trainer.resources.limits):
        for name, limit in found.spec.trainer.max_resources.items():
            if name in asked:
                yield name, asked[name], limit


def sized(trainer: lifecycle.Trainer, found: profiles.FineTuneProfile | None) -> lifecycle.Trainer:
    """The trainer with what its pods really ask for: the manifest's resources, else the profile's."""
    if found is None:
        return trainer
    usual, asked = found.spec.trainer.resources, trainer.resources
    both = lifecycle.Resources(requests={**usual.requests, **asked.requests}, limits={**usual.limits, **asked.limits})
    return trainer.model_copy(update={"resources": both})


def gpu_count(trainer: lifecycle.Trainer) -> Decimal:
    """GPUs of a run, over all nodes."""
    asked = {**trainer.resources.requests, **trainer.resources.limits}
    return trainer.nodes * sum((quantity(text) for name, text in asked.items() if name.endswith("/gpu")), Decimal(0))


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity as a number."""
    number = text.rstrip("mkKMGTPi")
    suffix = text[len(number) :]
    return Decimal(number) / 1000 if suffix == "m" else Decimal(number) * SUFFIXES.get(suffix, 1)


def _sources(spec: finetunejob.FineTuneJobSpec) -> Iterator[tuple[str, dataset.DataSource]]:
    yield "dataset.train", spec.dataset.train
    if spec.dataset.evaluation is not None:
        yield "dataset.evaluation", spec.dataset.evaluation
    for guard in spec.dataset.guards:
        yield f"dataset.guards[{guard.name}].source", guard.source


def _unsupported(
    spec: finetunejob.FineTuneJobSpec, model: base_models.BaseModel, mode: observed.Mode
) -> Iterator[Refusal]:
    uris = [("baseModel.uri", model.uri or "")]
    uris += [(f"{field}.uri", source.uri or "") for field, source in _sources(spec)]
    yield from _not_in_cluster(spec, uris) if mode is observed.Mode.CLUSTER else _not_here(spec, uris)


def _not_in_cluster(spec: finetunejob.FineTuneJobSpec, uris: list[tuple[str, str]]) -> Iterator[Refusal]:
    """What a cluster cannot do, or cannot do yet: said, rather than left undone in silence."""
    for field, uri in uris:
        if uri.startswith("file://"):
            yield Refusal(HERE, f"{field} {uri!r} is a file of one machine; in a cluster use pvc:// or hf://")
        if uri.startswith("s3://"):
            yield Refusal(HERE, f"{field} {uri!r}: s3:// is not read yet; copy the files to a claim and use pvc://")
    if spec.tracking:
        remedy = "leave it out (metrics.jsonl beside a version has it)"
        yield Refusal(HERE, f"tracking: no tracker is connected yet; {remedy}")


def _not_here(spec: finetunejob.FineTuneJobSpec, uris: list[tuple[str, str]]) -> Iterator[Refusal]:
    """What one machine cannot do."""
    for field, uri in uris:
        if uri.startswith("s3://"):
            yield Refusal(HERE, f"{field} {uri!r}: local mode does not read s3://; copy the files here and use file://")
    for field, source in _sources(spec):
        if source.config_map is not None:
            yield Refusal(HERE, f"{field}.configMap: there are no ConfigMaps on one machine; use a file:// uri")
    if spec.trainer.nodes > 1:
        yield Refusal(HERE, f"trainer.nodes is {spec.trainer.nodes}, but local mode is one machine; set it to 1")
    if spec.tracking:
        yield Refusal(
            HERE,
            "tracking: no tracker is connected in local mode; leave it out (metrics.jsonl beside a version has it)",
        )


def _left_out(spec: finetunejob.FineTuneJobSpec, mode: observed.Mode) -> Iterator[str]:
    if mode is observed.Mode.CLUSTER:
        return
    if spec.retrain.schedule is not None:
        yield "retrain.schedule is left out: local mode has no clock of its own; call `topcoat run` from cron"
    if spec.queue_name is not None:
        yield "queueName is left out: there is no queue on one machine"
    if spec.serving.engine is servings.Engine.VLLM:
        yield "serving.engine VLLM is left out: on one machine our own engine answers"
    if spec.serving.rollout.steps:
        yield "serving.rollout is left out: the alias moves at once"
    named = [spec.base_model.secret_ref, *(source.secret_ref for _, source in _sources(spec))]
    if any(named):
        yield "secretRef is left out: local mode takes tokens from the environment (HF_TOKEN)"
