"""Which model server answers for a job, and what its pods have proved. From memory alone.

An alias counts as moved, and a version as proved, only when every ready pod says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from topcoat.api import finetunejob, names, server, serving
from topcoat.cluster import memory, traffic
from topcoat.cluster.record import PodRecord
from topcoat.manifests import metadata, service
from topcoat.plan import modelserver as plans
from topcoat.plan import observed
from topcoat.plan import profile as profiles


def server_name_or_none(known: memory.Memory, job: finetunejob.FineTuneJob) -> str | None:
    """The server of a job: its own (Dedicated), one that the platform team made for its base, or the shared one."""
    said = job.status
    if said is None or said.base_model is None or job.spec.serving.mode is serving.Mode.NONE:
        return None
    if job.spec.serving.mode is serving.Mode.DEDICATED:
        return names.child_name(job.metadata.name, "model")
    namespace = job.metadata.namespace
    wanted = job.spec.base_model
    for (place, name), body in sorted(known.servers.items()):
        base = body["spec"].get("baseModel") or {}
        same = base.get("uri") == wanted.uri if wanted.uri else base.get("name") == wanted.name
        if place == namespace and same and not is_ours(body) and base.get("revision") == wanted.revision:
            return name
    return names.server_name(said.base_model.id, said.base_model.digest, engine(known, job).value)


def engine(known: memory.Memory, job: finetunejob.FineTuneJob) -> serving.Engine:
    """What the job's server computes with. Auto: what the profile's defaults say, else our own."""
    found = known.profiles.get(job.spec.profile)
    return profiles.engine(job.spec, found)


def is_ours(body: memory.Json) -> bool:
    """Whether the operator made this ModelServer: then it goes when its last alias goes."""
    return bool((body["metadata"].get("labels") or {}).get(metadata.MANAGED_BY) == metadata.MANAGER)


def ready_pods(known: memory.Memory, namespace: str, name: str) -> list[PodRecord]:
    return [pod for pod in known.pods_of(namespace, name) if pod.ready and not pod.deleting and pod.ip]


def alias_or_none(known: memory.Memory, job: finetunejob.FineTuneJob) -> observed.Alias | None:
    """Whose the alias is, and where its file points. An alias of another job counts only while it points somewhere."""
    name = server_name_or_none(known, job)
    if name is None:
        return None
    file = known.agents[job.metadata.namespace, name].aliases.get(job.alias)
    target = next(iter(file.targets), None) if file else None
    if file is None or target is None:
        return observed.Alias(file.job, "", "") if file and file.job != job.metadata.name else None
    held = next((version for version in file.versions if version.version == target.version), None)
    return observed.Alias(file.job, target.version, held.digest if held else "")


def server_or_none(known: memory.Memory, job: finetunejob.FineTuneJob) -> observed.Server | None:
    """The server of a job as its pods tell it."""
    name = server_name_or_none(known, job)
    if name is None or (job.metadata.namespace, name) not in known.servers:
        return None
    namespace = job.metadata.namespace
    memo = known.agents[namespace, name]
    file = memo.aliases.get(job.alias)
    pods = ready_pods(known, namespace, name)
    told = [(pod, memo.agents[pod.uid]) for pod in pods if pod.uid in memo.agents]
    states = [state for _, state in told]
    all_told = bool(pods) and len(states) == len(pods)
    claims = {held.digest: plans.claim(held.path) for held in file.versions} if file else {}
    pending = [pod for pod in known.pods_of(namespace, name) if pod.phase == "Pending" and not pod.deleting]
    waits = (pod.waiting or known.stuck.get(pod.uid) for pod in pending)
    return observed.Server(
        name=name,
        ready_pods=len(pods),
        desired_pods=int(known.servers[namespace, name]["spec"].get("replicas", 1)),
        written={held.version: held.digest for held in file.versions} if file else {},
        target=next((target.version for target in file.targets), None) if file else None,
        proved=_proved(states) if all_told else frozenset(),
        refused=_refused(told, claims),
        answers=_answers(states, job.alias) if all_told else None,
        alone=_alone(states, job.alias),
        outdated=any(claim not in pod.claims for pod in pods for claim in claims.values()),
        watched=file.watched if file else None,
        weight=_weight(file.targets, file.watched) if file else 0,
        weight_in_force=_in_force(states, file) if file and all_told else None,
        traffic=traffic.of(states, job.alias) if all_told else {},
        waiting=next((wait for wait in waits if wait), None),
        url=service.url(name, namespace),
    )


def _proved(states: list[server.AgentState]) -> frozenset[str]:
    """Digests that all of them have proved."""
    each = [{held.digest for held in state.versions if held.state == "Proved"} for state in states]
    return frozenset(set.intersection(*each)) if each else frozenset()


def _refused(told: Sequence[tuple[PodRecord, server.AgentState]], claims: Mapping[str, str]) -> dict[str, str]:
    """Words by digest. `claims`: where each version lies; who has not mounted that cannot tell."""
    return {
        held.digest: held.probe.problem if held.probe else "no reason was given"
        for pod, state in told
        for held in state.versions
        if claims.get(held.digest, "") in (pod.claims | {""})
        and (held.state == "Refused" or (held.probe and not held.probe.ok))
    }


def _answers(states: list[server.AgentState], alias: str) -> str | None:
    """The version that answers on all of them; of two, the one that was there first."""
    each = [held.targets for state in states for held in state.aliases if held.alias == alias]
    first = {targets[0].version for targets in each if targets}
    return first.pop() if len(first) == 1 and len(each) == len(states) and all(each) else None


def _alone(states: list[server.AgentState], alias: str) -> bool:
    """Whether each of them answers with one version only."""
    return all(len(held.targets) < 2 for state in states for held in state.aliases if held.alias == alias)


def _weight(targets: tuple[server.Target, ...], version: str | None) -> int:
    return next((target.weight for target in targets if target.version == version), 0)


def _in_force(states: list[server.AgentState], file: server.AliasFile) -> int | None:
    """The watched version's share, once every pod follows the file."""
    each = [held for state in states for held in state.aliases if held.alias == file.alias]
    same = len(each) == len(states) and all(held.generation == file.generation for held in each)
    return _weight(file.targets, file.watched) if same else None
