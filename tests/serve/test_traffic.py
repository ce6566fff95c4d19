"""While a version is watched, the server counts how each of them answers, and says nothing else about anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from tests.serve.conftest import Shop
from tests.support import served
from topcoat.api import server as api
from topcoat_trainer.serve import agent
from topcoat_trainer.serve.alias import Tag
from topcoat_trainer.serve.traffic import Answer, Traffic

TAG = Tag("claims", "v2", "sha256:" + "1" * 64)


def alias(generation: int = 1, watched: str | None = "v2") -> api.AliasFile:
    return served.alias("claims", generation, [], [], watched=watched)


def counts(found: tuple[api.Traffic, ...]) -> dict[str, tuple[int, int, int]]:
    return {one.version: (one.requests, one.failed, one.empty) for one in found}


def spoken(*parts: str, finish: str = "stop") -> Answer:
    made = Answer()
    for part in parts:
        made.add(part, None)
    made.add("", finish)
    return made


@pytest.mark.parametrize(
    ("answer", "empty"),
    [
        (spoken(), True),
        (spoken(" ", "\n"), True),
        (spoken("yes"), False),
        (spoken(*["ha "] * 50, finish="length"), True),
        (spoken("It began well. ", *["and then the wall fell, "] * 9, finish="length"), True),
        # It ended by itself, so it is no endless answer.
        (spoken(*["ha "] * 50), False),
        (spoken("one two three four five six seven", finish="length"), False),
    ],
)
def test_an_answer_without_text_or_without_an_end_is_empty(answer: Answer, empty: bool) -> None:
    assert answer.empty is empty


def test_only_what_tells_of_the_version_is_counted() -> None:
    traffic = Traffic()
    traffic.follow(alias())
    for code in (200, 200, 400, 401, 429, 499, 500, 504):
        traffic.note("claims", TAG, code, 0.5, spoken("x"))
    traffic.note("another", TAG, 200, 0.5, spoken("x"))
    (found,) = traffic.of("claims")
    assert counts((found,)) == {"v2": (4, 2, 0)}
    assert sum(found.latency) == 2
    (place,) = [place for place, count in enumerate(found.latency) if count]
    assert api.LATENCY_SECONDS[place - 1] < 0.5 <= api.LATENCY_SECONDS[place]
    assert traffic.of("another") == ()


def test_counts_begin_anew_with_another_version_and_not_with_another_share() -> None:
    traffic = Traffic()
    traffic.follow(alias())
    traffic.note("claims", TAG, 200, 1000.0, spoken("x"))
    traffic.follow(alias(2))
    assert traffic.of("claims")[0].latency[-1] == 1
    traffic.follow(alias(3, "v3"))
    assert traffic.of("claims") == ()
    traffic.note("claims", TAG, 200, 1.0, spoken("x"))
    traffic.follow(alias(4, None))
    assert traffic.of("claims") == ()


def told(server: served.Server) -> dict[str, Any]:
    (held,) = server.state()["aliases"]
    return {one["version"]: one for one in held["traffic"]}


def test_the_agent_tells_the_counts_of_a_watched_alias_and_of_no_other(shop: Shop, tmp_path: Path) -> None:
    both = [shop.versions["v1"], shop.versions["v2"]]
    with served.running(tmp_path / "conf", shop.base, served.alias("claims", 1, both, ["v1"])) as server:
        for version in ("v1", "v2"):
            server.until_proved(version)
        with server.client() as client:
            client.completions.create(model="claims", prompt="tell me", max_tokens=4)
            assert told(server) == {}
            shares = [("v1", 50), ("v2", 50)]
            assert server.push(served.alias("claims", 2, both, shares, watched="v2")).status_code == 200
            for person in range(20):
                client.completions.create(model="claims", prompt="tell me", max_tokens=4, user=f"p{person}")
            list(client.completions.create(model="claims", prompt="tell me", max_tokens=4, user="p0", stream=True))
            client.completions.create(model="claims--v2", prompt="tell me", max_tokens=4)
            with pytest.raises(openai.BadRequestError):
                client.completions.create(model="claims", prompt="tell me", max_tokens=-1)
        found = told(server)
        assert sum(one["requests"] for one in found.values()) == 21
        assert set(found) == {"v1", "v2"}
        assert all(sum(one["latency"]) == one["requests"] for one in found.values())
        assert set(found["v1"]) == {"version", "requests", "failed", "empty", "latency"}


class Drifting:
    """An engine whose weights no longer answer as they were sealed: a sound machine cannot be made to show that."""

    def __init__(self, difference: float | None) -> None:
        self.difference = difference

    async def probe(self, key: str, probes: object) -> float:
        if self.difference is None:
            raise RuntimeError("the device is gone")
        return self.difference


@pytest.mark.parametrize(("difference", "ok"), [(1e-6, True), (0.5, False), (float("nan"), False), (None, False)])
def test_a_version_that_drifts_goes_on_answering_and_says_so(difference: float | None, ok: bool) -> None:
    told: Any = SimpleNamespace(max_adapters=4, news_seconds=0)
    hands: Any = SimpleNamespace(engine=Drifting(difference))
    made = agent.Agent(told, hands, "FP32")
    manifest: Any = SimpleNamespace(probes=(), lineage=SimpleNamespace(precision="FP32"))
    made._records[TAG] = record = agent.Record(TAG, "Proved", manifest=manifest)
    asyncio.run(made.recheck(TAG))
    assert record.proof is not None
    assert (record.proof.ok, made.proved(TAG)) == (ok, True)
    assert record.proof.ok or "golden probes" in record.proof.problem
    assert record.proof.as_json()["maxAbsDiff"] <= agent.WORST
