"""Versions on their way to clients: real servers behind the pods' addresses, the real operator, clients that ask on.

What the operator decides, it decides from what these servers say of themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Shop
from tests.support import broken_versions, fates, load, peculiar, served, server_pods
from tests.support.operators import Team, condition
from topcoat.api.server import WantedVersion
from topcoat_trainer.model import BaseModel

Json = dict[str, Any]
Make = Callable[[BaseModel, Path], WantedVersion]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return served.base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def pods(team: Team, base: BaseModel, tmp_path: Path) -> Iterator[server_pods.Pods]:
    made = server_pods.Pods(team, tmp_path / "pods", base)
    yield made
    made.close()


def plain(base: BaseModel, folder: Path) -> WantedVersion:
    """Answers at length, each in its own way. Seeds 1 to 4 say the same token again and again: that counts as empty."""
    made: WantedVersion = served.version(base, folder, 4 + int(folder.name.removeprefix("v")))
    return made


def sealed(pods: server_pods.Pods, made: WantedVersion, **spec: Any) -> None:
    """The job's next run, with other data, seals this version, and the gate promotes it."""
    number = int(made.version.removeprefix("v"))
    pods.volume[f"topcoat-adapters/{made.version}"] = Path(made.path)
    pods.team.apply(dataset={"train": {"uri": f"pvc://data/train-{number}.jsonl"}}, **spec)
    word = fates.prepared(data=f"d{number}", base=pods.base.digest)
    fates.end(pods.team, fates.child(pods.team, "prepare", number), word)
    digest = made.digest.removeprefix("sha256:")
    fates.end(pods.team, fates.child(pods.team, "train", number), fates.sealed(made.version, digest=digest))


def serving(**rollout: Any) -> Json:
    steps = {"type": "Canary", "steps": [{"weight": 50}], "analysis": {"minSamples": 20, **rollout}}
    return {"mode": "Shared", "rollout": steps}


def answering(pods: server_pods.Pods, made: WantedVersion, spec: Json) -> served.Server:
    """A server that answers with the job's first version."""
    sealed(pods, made, serving=spec)
    server = pods.start()
    pods.team.until("v1 serves", lambda said: said["servedVersion"] == "v1" and said["phase"] == "Ready")
    return server


def asking(server: served.Server, *prompts: list[int], tokens: int = peculiar.TOKENS) -> load.Load:
    asked = [{"prompt": prompt, "max_tokens": tokens} for prompt in prompts or (peculiar.ASKED,)]
    return load.Load(3, lambda _: server, asked)


def stalled_with(words: str, said: Json) -> bool:
    return words in condition(said, "Stalled")["message"]


def digests(told: load.Load, since: float = 0.0) -> set[str | None]:
    """Of all answers to what was asked since then."""
    return {digest for said in told.answers if said.sent >= since for digest in said.fingerprints}


CANARIES: dict[str, tuple[Make, Make, Json, list[list[int]], int, str]] = {
    # The one that serves says nothing at all, so the new one's words are no worse, but they take their time.
    "slow": (peculiar.mute, plain, {}, [peculiar.ASKED], 48, "times as long"),
    "failing": (plain, peculiar.brittle, {}, [peculiar.ASKED, peculiar.ASKED, peculiar.FATAL], 4, "requests failed"),
    "empty": (plain, peculiar.mute, {}, [peculiar.ASKED], 4, "answers are empty"),
}


@pytest.mark.parametrize("case", CANARIES)
def test_a_version_that_answers_worse_than_the_old_one_gives_way_by_itself(
    pods: server_pods.Pods, tmp_path: Path, case: str
) -> None:
    first, second, rules, prompts, tokens, reason = CANARIES[case]
    team, old, new = pods.team, first(pods.base, tmp_path / "v1"), second(pods.base, tmp_path / "v2")
    server = answering(pods, old, serving(**rules))
    with asking(server, *prompts, tokens=tokens).running() as told:
        sealed(pods, new, serving=serving(**rules))
        said = team.until("v2 gives way", lambda said: said["rollout"]["state"] == "RolledBack")["status"]
        assert reason in said["rollout"]["message"]
        said = team.until("v1 serves on", lambda said: said["phase"] == "Ready")["status"]
        assert (said["promotedVersion"], said["servedVersion"]) == ("v1", "v1")
        assert condition(said, "Promoted")["reason"] == "RolledBack"
        since = time.monotonic()
        server.until(lambda: any(one.sent > since for one in told.answers), "somebody asked since")
    assert digests(told) == {old.digest, new.digest}
    assert digests(told, since) == {old.digest}
    assert bool(told.broken) == (case == "failing")
    assert all("NotFinite" in str(broken.error) for broken in told.broken)


def test_a_version_that_answers_as_well_reaches_everybody(pods: server_pods.Pods, tmp_path: Path) -> None:
    team, old, new = pods.team, plain(pods.base, tmp_path / "v1"), plain(pods.base, tmp_path / "v2")
    rules = serving(maxLatencyRatio="100")  # this machine may have other things to do
    server = answering(pods, old, rules)
    with asking(server).running() as told:
        sealed(pods, new, serving=rules)
        team.until("both answer", lambda said: said["canaryWeight"] == 50)
        said = team.until("v2 is all", lambda said: said["rollout"]["state"] == "Done" and said["phase"] == "Ready")
        assert said["status"]["servedVersion"] == "v2"
        since = time.monotonic()
        server.until(lambda: any(one.sent > since for one in told.answers), "somebody asked since")
    assert told.broken == []
    assert digests(told) == {old.digest, new.digest}
    assert digests(told, since) == {new.digest}


def stalls_with(words: str, status: Json) -> bool:
    return words in condition(status, "Stalled")["message"]


REFUSED = {
    "corrupt": broken_versions.broken_byte,
    "wrong base": broken_versions.of_another_base,
    "wrong shape": broken_versions.half_as_wide,
    "wrong layer": broken_versions.layers_that_do_not_exist,
    "not a number": broken_versions.not_a_number,
    "all zero": broken_versions.all_zero,
    "unsealed": broken_versions.without_manifest,
}


def test_what_a_server_refuses_stands_in_the_jobs_status_and_the_old_version_answers_on(
    pods: server_pods.Pods, tmp_path: Path
) -> None:
    """The gate lets all of them pass: what is wrong, the server alone finds out."""
    team, old = pods.team, plain(pods.base, tmp_path / "v1")
    server = answering(pods, old, {"mode": "Shared"})
    with asking(server).running() as told:
        for number, make in enumerate(REFUSED.values(), 2):
            room = tmp_path / str(number)
            sound = served.version(pods.base, room / "sound" / f"v{number}", 20 + number)
            sealed(pods, make(Shop(pods.base, room, {"v1": sound}), room / f"v{number}"), serving={"mode": "Shared"})
            said = team.until("refused", partial(stalled_with, f"the server refuses v{number}: "))
            stalled, words = condition(said["status"], "Stalled"), broken_versions.BROKEN[make]
            assert (stalled["status"], stalled["reason"]) == ("True", "VersionUnusable")
            assert all(word in stalled["message"] for word in words), stalled["message"]
            assert condition(said["status"], "Serving")["message"] == stalled["message"]
            assert said["status"]["servedVersion"] == "v1"
    assert told.broken == []
    assert digests(told) == {old.digest}


def test_a_version_on_a_claim_that_the_pods_have_not_yet_is_on_its_way_and_not_refused(
    pods: server_pods.Pods, tmp_path: Path
) -> None:
    """Of two jobs on one server, the second keeps its versions on a claim of its own: the Deployment rolls."""
    team, first, second = pods.team, plain(pods.base, tmp_path / "v1"), plain(pods.base, tmp_path / "pets" / "v1")
    server = answering(pods, first, {"mode": "Shared"})
    seen: list[Json] = []
    with asking(server).running() as told:
        pods.volume["attic/v1"] = Path(second.path)
        team.apply("pets", serving={"mode": "Shared"}, output={"volume": {"claimName": "attic"}})
        fates.end(team, fates.child(team, "prepare", 2), fates.prepared(base=pods.base.digest))
        digest = second.digest.removeprefix("sha256:")
        fates.end(team, fates.child(team, "train", 2), fates.sealed(digest=digest))
        server.until(lambda: server.log.read_text().count("refused"), "the old pod cannot find it")
        rolling = "pods that have its claim take the place"
        team.until("it is told", lambda said: rolling in condition(said, "Serving")["message"], "pets")
        fresh = pods.start()
        until = time.monotonic() + 20
        while (said := team.job("pets")["status"]).get("servedVersion") != "v1":
            seen.append(condition(said, "Stalled"))
            assert time.monotonic() < until, said
            time.sleep(0.05)
        assert {stalled["status"] for stalled in seen} == {"False"}
        with fresh.client() as client:
            said = client.completions.create(model="pets", prompt=peculiar.ASKED, max_tokens=2)
        assert said.system_fingerprint == second.digest
    assert digests(told) == {first.digest}
