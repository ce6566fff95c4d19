"""`topcoat apply --dry-run`: what the cluster would make for a manifest. Reads; changes nothing.

The API server has checked the object already. Data and base model are read by the prepare pod, not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from topcoat.api import finetunejob, names, profile, promotion, serving
from topcoat.cli import cluster, refusal, show, terminal
from topcoat.manifests import claim, networkpolicy
from topcoat.plan import dataset, observed
from topcoat.plan import profile as profiles

Json = dict[str, Any]
PATHS = {
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims/{}",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies/{}",
}
PURPOSES = {
    claim.ADAPTERS: "keeps sealed versions; stays when the job goes",
    claim.MODELS: "keeps base models",
    "topcoat-train": "training pods reach each other and the operator's ear",
    "topcoat-server": "clients of this namespace reach the servers",
}
Row = tuple[str, str, str, str]


def say(here: cluster.Cluster, job: finetunejob.FineTuneJob, change: str) -> int:
    """Says it; fails where the profile forbids it."""
    found = _profile(here, job)
    wish = profiles.wish(job, observed.Seen(mode=observed.Mode.CLUSTER, profile=found or profile.LOCAL_PROFILE))
    if found is not None and wish.refusal is not None:
        terminal.fail(wish.refusal.message, hint="change the field that the message names")
    name = job.metadata.name
    terminal.say(f"finetunejob.topcoat.dev/{name} would be {change} in {here.describe()}\n")
    rows = [*_jobs(job, dataset.key(wish)), *_shared(here, found), *_serving(job, found)]
    show.table(["Kind", "Name", "Now", "For"], rows, indent="  ")
    terminal.say()
    show.facts(_needs(job, dataset.key(wish), found))
    terminal.note("Nothing was changed. Whether a run is needed is known once the prepare pod has read data and model.")
    terminal.next_step(f"topcoat apply -f FILE --watch{here.words}", "applies it and follows it")
    return 0


def _profile(here: cluster.Cluster, job: finetunejob.FineTuneJob) -> profile.FineTuneProfile | None:
    """The profile, or None where this person may not see it."""
    wanted = job.spec.profile
    try:
        body = here.api.get_or_none(f"/apis/topcoat.dev/v1alpha1/finetuneprofiles/{wanted}")
    except refusal.Refused as refused:
        if refused.status != 403:
            raise
        terminal.note(f"Note: you may not see FineTuneProfile {wanted!r}, so its limits are not checked here.")
        return None
    if body is None:
        hint = "name another in spec.profile, or ask the platform team for it"
        terminal.fail(f"there is no FineTuneProfile {wanted!r}", hint=hint)
    return profile.FineTuneProfile.read({key: body[key] for key in ("apiVersion", "kind", "metadata", "spec")})


def _jobs(job: finetunejob.FineTuneJob, key: str) -> Iterator[Row]:
    name, said = job.metadata.name, job.status
    prepare = names.child_name(name, f"prepare-{key[:8]}-1")
    known = said is not None and said.prepared is not None and said.prepared.key == key
    yield "Job", prepare, "done" if known else "new", "checks data set and base model"
    run = said.run.number + 1 if said and said.run else 1
    nodes = job.spec.trainer.nodes
    pods = f"{nodes} pods, " if nodes > 1 else ""
    yield "Job", names.child_name(name, f"{names.run_name(run)}-a1"), "if needed", f"{pods}trains and judges"


def _needs(job: finetunejob.FineTuneJob, key: str, found: profile.FineTuneProfile | None) -> dict[str, str]:
    """What a run would need, where the prepare pod has answered this very question; else what is not known yet."""
    said = job.status
    if said is not None and said.estimate is not None and said.prepared is not None and said.prepared.key == key:
        return show.needs(said.estimate)
    later = "unknown until the prepare pod has read data and model; then in status.estimate"
    gpus = int(profiles.gpu_count(profiles.sized(job.spec.trainer, found)))
    return {"Memory, disk and time": later} | ({"GPU hours": f"unknown; {gpus} GPUs are asked for"} if gpus else {})


def _shared(here: cluster.Cluster, found: profile.FineTuneProfile | None) -> Iterator[Row]:
    known = found or profile.LOCAL_PROFILE
    objects = [
        *claim.claims(here.namespace, known.spec.storage),
        *networkpolicy.policies(here.namespace, "topcoat-system", known),
    ]
    for body in objects:
        kind, name = body["kind"], body["metadata"]["name"]
        purpose = PURPOSES.get(name, "prepare pods reach what the profile allows")
        yield kind, name, _now(here, kind, name), purpose


def _now(here: cluster.Cluster, kind: str, name: str) -> str:
    try:
        there = here.api.get_or_none(PATHS[kind].format(here.namespace, name)) is not None
    except refusal.Refused as refused:
        if refused.status != 403:
            raise
        return "unknown"
    return "there" if there else "new"


def _serving(job: finetunejob.FineTuneJob, found: profile.FineTuneProfile | None) -> Iterator[Row]:
    wanted, said = job.spec.serving, job.status
    if wanted.mode is serving.Mode.NONE or job.spec.promotion.policy is promotion.Policy.NEVER:
        return
    when = "after promotion" if job.spec.promotion.policy is promotion.Policy.AUTOMATIC else "after approval"
    if wanted.mode is serving.Mode.DEDICATED:
        name = names.child_name(job.metadata.name, "model")
    elif said is not None and said.base_model is not None:
        engine = profiles.engine(job.spec, found).value
        name = names.server_name(said.base_model.id, said.base_model.digest, engine)
    else:
        name = "one per base model"
    yield "ModelServer", name, when, f"Deployment, Service, ConfigMap; answers as {job.alias}"
