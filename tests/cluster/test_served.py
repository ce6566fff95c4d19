"""What follows from what a server's pods say of themselves, and from what they have mounted. Without any cluster."""

from __future__ import annotations

from typing import Any

from tests.support import worlds
from topcoat.api import finetunejob, server
from topcoat.cluster import memory, record, served
from topcoat.manifests import metadata
from topcoat.plan import observed


def version(name: str, claim: str) -> server.WantedVersion:
    path = f"/topcoat/claims/{claim}/jobs/claims-0/versions/{name}"
    return server.WantedVersion(version=name, path=path, digest=worlds.digest(name))


V1, V2 = version("v1", "topcoat-adapters"), version("v2", "attic")
NOT_FOUND = server.Proof(ok=False, problem="no such folder")


def job() -> finetunejob.FineTuneJob:
    world = worlds.in_cluster()
    world.settle()
    meta = world.job.metadata.model_copy(update={"namespace": "team"})
    return world.job.model_copy(update={"metadata": meta})


def body(name: str, *claims: str) -> dict[str, Any]:
    """A ready pod of the server, as the API has it."""
    volumes = [{"name": f"volume-{claim}", "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    return {
        "metadata": {"name": name, "namespace": "team", "uid": name, "labels": {metadata.SERVER: "model"}},
        "spec": {"volumes": [{"name": "tmp", "emptyDir": {}}, *volumes]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def says(state: str, proof: server.Proof | None = None, targets: tuple[server.Target, ...] = ()) -> server.AgentState:
    """What a pod says of v2 and of the alias; v1 it has proved."""
    held = [
        server.HeldVersion(job="claims", version="v1", digest=V1.digest, state="Proved"),
        server.HeldVersion(job="claims", version="v2", digest=V2.digest, state=state, probe=proof),
    ]
    alias = server.HeldAlias(alias="claims", job="claims", generation=1, targets=targets)
    engine = server.EngineState(boot_id="b", name="Transformers", version="5")
    return server.AgentState(ready=True, versions=held, aliases=(alias,), engine=engine)


def seen(*pods: tuple[dict[str, Any], server.AgentState]) -> observed.Server:
    """The server of the job, whose alias file asks for v1 and v2."""
    known, wanted = memory.Memory(mark=lambda _: None), job()
    name = served.server_name_or_none(known, wanted)
    assert name is not None
    known.servers["team", name] = {"metadata": {"name": name}, "spec": {"baseModel": {}}}
    file = server.AliasFile(alias="claims", job="claims", generation=1, versions=(V1, V2))
    known.agents["team", name].aliases["claims"] = file
    for made, state in pods:
        made["metadata"]["labels"][metadata.SERVER] = name
        known.put_pod(record.pod(made))
        known.agents["team", name].agents[made["metadata"]["uid"]] = state
    found = served.server_or_none(known, wanted)
    assert found is not None
    return found


def test_a_pod_without_a_versions_claim_cannot_refuse_it() -> None:
    found = seen((body("old", "topcoat-adapters"), says("Refused", NOT_FOUND)))
    assert (found.refused, found.outdated) == ({}, True)


def test_a_pod_that_has_the_claim_can_and_its_words_are_told() -> None:
    old = (body("old", "topcoat-adapters"), says("Refused", NOT_FOUND))
    fresh = (body("fresh", "topcoat-adapters", "attic"), says("Refused", server.Proof(ok=False, problem="all zero")))
    assert seen(fresh).refused == {V2.digest: "all zero"}
    assert not seen(fresh).outdated
    both = seen(old, fresh)
    assert (both.refused, both.outdated) == ({V2.digest: "all zero"}, True)
    assert seen((fresh[0], says("Refused"))).refused == {V2.digest: "no reason was given"}


def test_a_version_that_is_no_longer_asked_for_stays_refused() -> None:
    """Where it lay is forgotten by then."""
    former = server.HeldVersion(job="claims", version="v9", digest=worlds.digest("v9"), state="Refused")
    state = says("Proved")
    state = state.model_copy(update={"versions": (*state.versions, former)})
    assert seen((body("pod", "topcoat-adapters", "attic"), state)).refused == {former.digest: "no reason was given"}


def test_a_version_is_proved_once_every_ready_pod_says_so() -> None:
    old = (body("old", "topcoat-adapters"), says("Refused", NOT_FOUND))
    fresh = (body("fresh", "topcoat-adapters", "attic"), says("Proved"))
    assert seen(old, fresh).proved == {V1.digest}
    assert seen(fresh).proved == {V1.digest, V2.digest}


def test_an_alias_answers_alone_once_no_pod_shares_it() -> None:
    one = (server.Target(version="v1"),)
    two = (server.Target(version="v1", weight=90), server.Target(version="v2", weight=10))
    pods = [
        (body(name, "topcoat-adapters", "attic"), says("Proved", targets=told))
        for name, told in (("a", one), ("b", two))
    ]
    assert (seen(*pods).answers, seen(*pods).alone) == ("v1", False)
    assert seen(pods[0]).alone
