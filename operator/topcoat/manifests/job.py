"""The Jobs of a FineTuneJob: prepare, train, inspect, discard. Each is created once and never applied again.

One Job is one attempt: the planner decides what follows a failure. Only a pod that the cluster took away (eviction,
preemption, a lost node) is replaced by the Job itself, so that a run goes on while the operator is away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from topcoat.api import dataset, lifecycle, names, profile
from topcoat.api import run as runs
from topcoat.manifests import claim, metadata, pod
from topcoat.manifests.metadata import Role

Json = dict[str, Any]

GRACE_SECONDS = {Role.TRAIN: 120, Role.PREPARE: 30, Role.INSPECT: 10, Role.DISCARD: 10}
MODULES = {
    Role.PREPARE: "topcoat_trainer.prepare",
    Role.TRAIN: "topcoat_trainer.run",
    Role.INSPECT: "topcoat_trainer.inspect",
    Role.DISCARD: "topcoat_trainer.discard",
}
MASTER_PORT = 29500
SMALL = lifecycle.Resources(requests={"cpu": "250m", "memory": "512Mi"})


@dataclass(frozen=True, slots=True)
class Child:
    """One Job: whose it is, what for, and what its trainer is told."""

    owner: metadata.Owner
    role: Role
    suffix: str
    run_file: runs.RunFile
    profile: profile.FineTuneProfile
    output: lifecycle.Output
    trainer: lifecycle.Trainer
    queue_name: str | None = None
    key: str = ""
    """What a prepare Job was asked; comes back with its answer."""
    arguments: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        return self.trainer.nodes if self.role is Role.TRAIN else 1


def paths(role: Role, run: int) -> runs.RunPaths:
    """The folders of a run, as its pods see them."""
    folder = pod.JOB_FOLDER if role is Role.PREPARE else f"{pod.JOB_FOLDER}/runs/{names.run_name(run)}"
    return runs.RunPaths(
        run=folder, versions=f"{pod.JOB_FOLDER}/versions", cache=pod.CACHE_FOLDER, volumes=pod.VOLUMES_FOLDER
    )


def job(platform: pod.Platform, child: Child) -> Json:
    """The Job."""
    labels = {metadata.ROLE: child.role.value, metadata.PROFILE: names.label(child.profile.metadata.name)}
    if child.run_file.run:
        labels |= {metadata.RUN: str(child.run_file.run), metadata.ATTEMPT: str(child.run_file.attempt)}
    meta = metadata.child(child.owner, child.suffix, labels)
    if child.queue_name and child.role is Role.TRAIN:
        meta["labels"] = {**meta["labels"], metadata.QUEUE: child.queue_name}
    # What comes back with its answer, whatever manifest and status say by then.
    meta["annotations"] = {
        metadata.KEY: child.key,
        metadata.TRIGGER: child.run_file.trigger,
        metadata.VERSIONS: claim.versions_address(child.output, child.owner),
    }
    pod_labels = {name: value for name, value in meta["labels"].items() if name != metadata.QUEUE}
    annotations = {metadata.RUN_FILE: pod.compact(child.run_file.as_json())}
    template = {"metadata": {"labels": pod_labels, "annotations": annotations}, "spec": _pod(platform, child, meta)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {**_shape(child), "template": template}}


def _shape(child: Child) -> Json:
    taken_away = {"type": "DisruptionTarget", "status": "True"}
    made: Json = {
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [taken_away]}]},
    }
    if child.nodes > 1:
        made |= {"completionMode": "Indexed", "completions": child.nodes, "parallelism": child.nodes}
        # The first pod alone judges and seals; when it is done, all is done.
        made["successPolicy"] = {"rules": [{"succeededIndexes": "0"}]}
    return made


def _pod(platform: pod.Platform, child: Child, meta: Json) -> Json:
    shape = child.profile.spec.trainer
    training = child.role is Role.TRAIN
    images = child.profile.spec.images
    container = pod.Container(
        name=child.role.value,
        image=(images.trainer if training else images.prepare) or platform.image,
        command=_command(child),
        resources=_resources(child),
        env=_environment(platform, child, meta["name"]),
        mounts=_mounts(platform, child),
    )
    more: Json = {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECONDS[child.role]}
    if child.nodes > 1:
        more["subdomain"] = meta["name"]
    # Only training wants the GPU nodes' shape; the other pods run wherever there is room.
    return pod.spec(platform, shape if training else _plain(shape), container, more)


def _plain(shape: profile.PodShape) -> profile.PodShape:
    return profile.PodShape(env=shape.env, priority_class_name=shape.priority_class_name)


def _command(child: Child) -> list[str]:
    module = MODULES[child.role]
    if child.role is Role.TRAIN and processes(child.trainer) * child.nodes > 1:
        module = "topcoat_trainer.launch"
    return ["python", "-m", module, "--run-file", pod.RUN_FILE, "--last-word", pod.LAST_WORD, *child.arguments]


def processes(trainer: lifecycle.Trainer) -> int:
    """Processes in one pod: as asked, or one per GPU, or one."""
    if trainer.processes_per_node != "Auto":
        return int(trainer.processes_per_node)
    asked = {**trainer.resources.requests, **trainer.resources.limits}
    gpus = [int(float(count)) for name, count in asked.items() if name.endswith("/gpu") and count.isdecimal()]
    return max([1, *gpus])


def _resources(child: Child) -> Json:
    if child.role is Role.TRAIN:
        return pod.resources(child.trainer.resources, child.profile.spec.trainer.resources)
    return pod.resources(lifecycle.Resources(), SMALL if child.role is not Role.PREPARE else lifecycle.Resources())


def _environment(platform: pod.Platform, child: Child, name: str) -> list[Json]:
    made = pod.environment(child.profile.spec.trainer, offline=child.role is not Role.PREPARE)
    if child.role is Role.PREPARE:
        made += _hub_token(child.run_file)
    if child.role is Role.TRAIN:
        made += pod.progress_environment(platform) if platform.progress_url else []
        made += _ranks(child, name)
    return made


def _hub_token(run: runs.RunFile) -> list[Json]:
    """The hub's token, in the only pod that speaks to the hub."""
    named = [run.base_model.secret_ref, *(source.secret_ref for source in sources(run.dataset))]
    secret = next((reference.name for reference in named if reference), None)
    if secret is None:
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}}]


def _ranks(child: Child, name: str) -> list[Json]:
    """Variables of torchrun."""
    count = processes(child.trainer)
    if count * child.nodes == 1:
        return []
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    several: list[Json] = [
        {"name": "PET_NODE_RANK", "valueFrom": index},
        {"name": "PET_MASTER_ADDR", "value": f"{name}-0.{name}"},
        {"name": "PET_MASTER_PORT", "value": str(MASTER_PORT)},
    ]
    made: list[Json] = [
        {"name": "PET_NNODES", "value": str(child.nodes)},
        {"name": "PET_NPROC_PER_NODE", "value": str(count)},
    ]
    return made + (several if child.nodes > 1 else [])


def _mounts(platform: pod.Platform, child: Child) -> tuple[pod.Mount, ...]:
    output = claim.output_claim(child.output)
    folder = claim.job_folder(child.output, child.owner.name, child.owner.uid)
    made = [
        pod.run_file(),
        pod.claim("output", output, pod.JOB_FOLDER, sub_path=folder, read_only=False),
        pod.claim("models", claim.MODELS, pod.CACHE_FOLDER, read_only=False),
    ]
    if child.role in (Role.PREPARE, Role.TRAIN):
        made += _source_mounts(child.run_file)
    if child.role is Role.TRAIN and platform.progress_url:
        made.append(pod.progress_token(platform))
    return tuple(made)


def sources(data: dataset.Dataset) -> list[dataset.DataSource]:
    """All sources of a data set."""
    evaluation = [data.evaluation] if data.evaluation else []
    return [data.train, *evaluation, *(guard.source for guard in data.guards)]


def claims_of(uris: Iterable[str | None]) -> list[str]:
    """Claims that `pvc://claim/path` addresses name, each once."""
    found = (uri.removeprefix("pvc://").split("/")[0] for uri in uris if uri and uri.startswith("pvc://"))
    return list(dict.fromkeys(found))


def _source_mounts(run: runs.RunFile) -> list[pod.Mount]:
    """What the manifest names: claims whole and read-only, keys of ConfigMaps as plain files."""
    wanted = sources(run.dataset)
    claims = claims_of([run.base_model.uri, *(source.uri for source in wanted)])
    made = [pod.claim(f"source-{place}", name, f"{pod.VOLUMES_FOLDER}/{name}") for place, name in enumerate(claims)]
    keys = dict.fromkeys((source.config_map.name, source.config_map.key) for source in wanted if source.config_map)
    for place, (name, key) in enumerate(keys):
        source = {"configMap": {"name": name, "items": [{"key": key, "path": key}]}}
        made.append(pod.Mount(f"config-{place}", source, f"{pod.VOLUMES_FOLDER}/configmaps/{name}/{key}", key))
    return made


def headless_service(child: Child) -> Json:
    """How the pods of one training find each other; it goes with its FineTuneJob."""
    meta = metadata.child(child.owner, child.suffix, {metadata.ROLE: child.role.value})
    selector = {"batch.kubernetes.io/job-name": meta["name"]}
    # Pods must find each other before any of them is ready.
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
