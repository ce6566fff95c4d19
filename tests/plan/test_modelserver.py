"""A model server as the planner sees it: deployed for its aliases, gone with the last one."""

from __future__ import annotations

from dataclasses import replace

from tests.support import worlds
from topcoat.api import modelserver, server, status
from topcoat.plan import modelserver as plans

BASE = status.BaseModelStatus(id="org/base", path="/topcoat/cache/base", digest="b" * 64)
USER = plans.User("claims", "claims", 1, BASE)
PATH = "/topcoat/claims/topcoat-adapters/jobs/claims-0/versions/v1"
FILE = server.AliasFile(
    alias="claims",
    job="claims",
    generation=1,
    versions=(server.WantedVersion(version="v1", path=PATH, digest=worlds.digest("v1")),),
    targets=(server.Target(version="v1"),),
)
WANTED = modelserver.ModelServer.model_validate(
    {"metadata": {"name": "base", "namespace": "team"}, "spec": {"baseModel": {"uri": "pvc://m/base"}}}
)


def planned(seen: plans.Seen) -> plans.Plan:
    return plans.plan(WANTED, seen, worlds.START)


def test_one_of_ours_is_deployed_with_the_claim_of_its_alias_and_not_before() -> None:
    fresh = plans.Seen(ours=True, users=(USER,))
    assert (planned(fresh).base, planned(fresh).delete) == (None, False)
    told = planned(replace(fresh, aliases={"claims": FILE}))
    assert (told.base, told.claims) == (BASE, ("topcoat-adapters",))


def test_one_of_the_platform_teams_stands_without_any_alias() -> None:
    assert planned(plans.Seen(ours=False, users=(USER,))).base == BASE
    assert not planned(plans.Seen(ours=False)).delete


def test_one_of_ours_goes_with_its_last_alias() -> None:
    alone = planned(plans.Seen(ours=True, aliases={"claims": FILE}))
    assert (alone.drop, alone.delete) == (("claims",), True)


def test_of_two_jobs_that_ask_for_one_alias_the_one_that_has_it_keeps_it_and_its_secret() -> None:
    mine = replace(USER, token_secret="mine")
    late = plans.User("zebra", "claims", 1, BASE, token_secret="theirs")
    told = planned(plans.Seen(ours=True, users=(mine, late), aliases={"claims": FILE}))
    assert (told.drop, told.tokens) == ((), (("claims", "mine"),))
    # Once it has gone elsewhere, the alias is free.
    assert planned(plans.Seen(ours=True, users=(late,), aliases={"claims": FILE})).drop == ("claims",)


def test_pods_are_asked_again_soon_while_traffic_is_watched() -> None:
    held = server.HeldVersion(job="claims", version="v1", digest=worlds.digest("v1"), state="Proved")
    alias = server.HeldAlias(alias="claims", job="claims", generation=1, targets=FILE.targets)
    engine = server.EngineState(boot_id="b", name="Transformers", version="5")
    state = server.AgentState(ready=True, versions=(held,), aliases=(alias,), engine=engine)
    seen = plans.Seen(
        ours=True, users=(USER,), aliases={"claims": FILE}, desired_pods=1, ready_pods=1, states=(state,)
    )  # fmt: skip
    assert not planned(seen).unsettled
    watched = FILE.model_copy(update={"watched": "v1"})
    assert planned(replace(seen, aliases={"claims": watched})).unsettled
