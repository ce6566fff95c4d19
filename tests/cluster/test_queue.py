"""Each key is looked at once for all that happened to it, fresh ones first, failed ones later and later."""

from __future__ import annotations

import asyncio

from topcoat.cluster.queue import Key, Queue

A, B, C = (Key("FineTuneJob", "team", name) for name in "abc")


async def taken(line: Queue, seconds: float = 0.05) -> Key | None:
    try:
        async with asyncio.timeout(seconds):
            return await line.take()
    except TimeoutError:
        return None


def test_a_key_comes_once_and_what_has_nothing_yet_comes_first() -> None:
    async def story() -> None:
        line = Queue()
        for key in (A, B, A, B):
            line.add(key)
        line.add(C, first=True)
        assert [await taken(line) for _ in range(4)] == [C, A, B, None]

    asyncio.run(story())


def test_a_key_marked_in_its_turn_comes_again_and_never_twice_at_once() -> None:
    async def story() -> None:
        line = Queue()
        line.add(A)
        assert await taken(line) == A
        line.add(A)
        assert await taken(line) is None
        line.done(A)
        assert await taken(line) == A

    asyncio.run(story())


def test_news_that_come_together_are_one_look() -> None:
    async def story() -> None:
        line = Queue()
        for _ in range(3):
            line.add_soon(A, 0.1)
        assert await taken(line) is None
        assert [await taken(line, 0.3), await taken(line, 0.3)] == [A, None]

    asyncio.run(story())


def test_news_of_a_key_that_waits_for_its_turn_need_no_look_of_their_own() -> None:
    async def story() -> None:
        line = Queue()
        line.add(A)
        line.add_soon(A, 0.05)
        assert [await taken(line), await taken(line, 0.2)] == [A, None]
        line.add_soon(A, 0.05)  # its turn has begun: this may have come too late for it
        line.done(A)
        assert await taken(line, 0.3) == A

    asyncio.run(story())


def test_what_fails_comes_back_after_a_growing_wait() -> None:
    async def story() -> None:
        line = Queue()
        waits = [line.failed(A) for _ in range(4)]
        assert waits == [0.2, 0.4, 0.8, 1.6]
        line.succeeded(A)
        assert line.failed(A, at_least_seconds=7.0) == 7.0

    asyncio.run(story())
