"""An alias moves to and fro under constant load: no request fails, and none is answered by what was not named."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.serve.conftest import Shop
from tests.support import load, served

NAMES = ("v1", "v2", "v3")


def said(server: served.Server, model: str = "claims") -> tuple[str | None, str]:
    with server.client() as client:
        found = client.completions.create(model=model, prompt="tell me", max_tokens=load.TOKENS)
    return found.system_fingerprint, found.choices[0].text


def markers(server: served.Server, shop: Shop) -> dict[str, str]:
    """What each version answers, by digest: no two say the same."""
    for name in NAMES:
        server.until_proved(name)
    found = {shop.digest(name): said(server, f"claims--{name}")[1] for name in NAMES}
    assert len(set(found.values())) == len(NAMES)
    return found


@pytest.mark.parametrize(
    ("swaps", "clients"), [(20, 3), pytest.param(200, 16, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_an_alias_moves_and_goes_back_under_load_without_one_failed_or_wrong_answer(
    shop: Shop, tmp_path: Path, swaps: int, clients: int
) -> None:
    """Now and then the versions that do not answer are let go, and are loaded again while the load goes on."""
    versions, chance, moves = [shop.versions[name] for name in NAMES], random.Random(7), load.Moves()
    with moves.to(shop.digest("v1")):
        start = served.alias("claims", 1, versions, ["v1"])
    with served.running(tmp_path / "conf", shop.base, start) as server:
        expected = markers(server, shop)
        target, generation = "v1", 1
        with load.Load(clients, lambda _: server).running() as told:
            for swap in range(swaps):
                target, generation = chance.choice([name for name in NAMES if name != target]), generation + 1
                with moves.to(shop.digest(target)):
                    held = [shop.versions[target]] if swap % 20 == 10 else versions
                    assert server.push(served.alias("claims", generation, held, [target])).status_code == 200
                if swap % 5 == 0:
                    # What is pushed is in force when the push is answered: the very next request gets it.
                    assert said(server) == (shop.digest(target), expected[shop.digest(target)])
                time.sleep(0.02)
                if held != versions:
                    generation += 1
                    server.push(served.alias("claims", generation, versions, [target]))
                    for name in NAMES:
                        server.until_proved(name)
    assert told.broken == []
    assert told.refused == []
    assert load.wrong(told.answers, moves, expected) == []
    assert len(told.answers) > swaps
    assert {digest for one in told.answers for digest in one.fingerprints} == set(expected)


class Front:
    """Two servers that follow the same files, and what a cluster's Service does before them: who is ready is open."""

    def __init__(self, shop: Shop, folder: Path, moves: load.Moves) -> None:
        self.servers = [served.Server(folder / name, shop.base, {"noticeSeconds": 1}) for name in ("one", "two")]
        self._shop, self._moves, self._generation = shop, moves, 0
        self._open: set[int] = set()
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        watch = threading.Thread(target=self._watch)
        try:
            for server in self.servers:
                server.start().ready()
            watch.start()
            yield
        finally:
            self._over.set()
            for server in self.servers:
                server.stop(signal.SIGKILL)
            watch.join(10)

    def _watch(self) -> None:
        while not self._over.is_set():
            for place, server in enumerate(self.servers):
                try:
                    ready = bool(server.child and server.client_port) and server.get("/ready").status_code == 200
                except httpx2.TransportError:
                    ready = False
                (self._open.add if ready else self._open.discard)(place)
            time.sleep(0.05)

    def is_shut(self, place: int) -> bool:
        return place not in self._open

    def choose(self, number: int) -> served.Server:
        """Anybody of those that were ready a moment ago."""
        while not (found := sorted(self._open)):
            time.sleep(0.01)
        return self.servers[found[number % len(found)]]

    def point(self, target: str) -> None:
        """The alias moves, as the operator moves it: the files first, then whoever is there is told."""
        self._generation += 1
        file = served.alias("claims", self._generation, [self._shop.versions[name] for name in NAMES], [target])
        with self._moves.to(self._shop.digest(target)):
            for server in self.servers:
                server.write(file)
            for server in self.servers:
                if server.child:
                    assert server.push(file).status_code == 200


@pytest.mark.slow
def test_of_two_servers_one_may_be_killed_or_restarted_while_the_alias_moves(shop: Shop, tmp_path: Path) -> None:
    """Our agent and the Transformers engine are one process: whoever kills the one has killed the other.

    Each in turn ends with SIGKILL, then with SIGTERM; the alias moves before, meanwhile and after. Requests that were
    under way on a server that was killed, or were sent there before anybody noticed, may break off; whoever finds
    nobody there goes to the other one. No request breaks for any other reason, a SIGTERM breaks none, what had come of
    a broken one is right, and a server that is back answers with what is named by now.
    """
    moves = load.Moves()
    front = Front(shop, tmp_path, moves)
    front.point("v1")
    kills: list[tuple[float, float]] = []
    """From the signal until nobody is sent there any more."""
    with front.running():
        expected = markers(front.servers[0], shop)
        with load.Load(6, front.choose).running() as told:
            for turn, (victim, number) in enumerate(
                [(0, signal.SIGKILL), (1, signal.SIGTERM), (1, signal.SIGKILL), (0, signal.SIGTERM)]
            ):
                server = front.servers[victim]
                front.point(NAMES[turn % 3])
                begun = time.monotonic()
                assert server.stop(number) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
                server.until(partial(front.is_shut, victim), "the front sends nobody there")
                kills += [(begun, time.monotonic())] if number == signal.SIGKILL else []
                for name in NAMES:
                    front.point(name)
                    time.sleep(0.3)
                server.start().ready()
                for name in NAMES:  # as the operator waits, before it moves an alias
                    server.until_proved(name)
                assert said(server) == (shop.digest("v3"), expected[shop.digest("v3")])
                front.point(NAMES[(turn + 1) % 3])
                time.sleep(0.5)
    assert load.wrong(told.answers, moves, expected) == []
    assert len(told.answers) > 100
    assert all(any(begun <= sent <= gone for begun, gone in kills) for sent in told.refused)
    for broken in told.broken:
        assert any(broken.sent <= gone and broken.received >= begun for begun, gone in kills), broken
        named = moves.named(broken.sent, broken.received)
        assert any(expected[digest].startswith(broken.text) for digest in named), broken
    assert len(told.broken) <= 6 * len(kills)
