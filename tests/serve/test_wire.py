"""The hand-written way to a vLLM: what comes over a real connection is read as it was meant, or said to be broken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from topcoat_trainer.serve import vllm_wire
from topcoat_trainer.serve.vllm_wire import Broken, Wire

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n6\r\none\ntw\r\n7;x=y\r\no\nthree\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
LAST = b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno"


class Far:
    """The other end: says prepared bytes to each request, in pieces, and notes connections and requests."""

    def __init__(self, *answers: bytes, piece: int = 1000, hangs: bool = False) -> None:
        self.answers = list(answers)
        self.piece = piece
        self.hangs = hangs
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(size))
                if self.answers:
                    await self._say(writer, self.answers.pop(0))
                elif not self.hangs:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        for start in range(0, len(answer), self.piece):
            writer.write(answer[start : start + self.piece])
            await writer.drain()
            await asyncio.sleep(0)


class Once(Far):
    """Says one thing and goes."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        await self._say(writer, self.answers[0])
        writer.close()


def talk(far: Callable[[], Far], work: Callable[[Wire, Far], Awaitable[Any]]) -> Any:
    async def both() -> Any:
        other = far()
        server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
        wire = Wire(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            async with asyncio.timeout(10):
                return await work(wire, other)
        finally:
            wire.close()
            server.close()

    return asyncio.run(both())


async def body(wire: Wire, limit: float = 5) -> tuple[int, bytes]:
    async with wire.asked("POST /x", b"{}", limit) as said:
        return said.status, await said.body()


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_answers_are_read_whole_however_they_are_cut_and_on_one_connection(piece: int) -> None:
    async def work(wire: Wire, far: Far) -> None:
        assert await body(wire) == (200, b"hello")
        assert await body(wire) == (200, b"one\ntwo\nthree")
        assert await body(wire) == (200, b"")
        async with wire.asked("GET /y", b"", 5) as said:
            assert [line async for line in said.lines()] == [b"one", b"two", b"three"]
        assert far.connections == 1
        assert far.bodies == [b"{}", b"{}", b"{}", b""]
        assert far.heads[3].startswith(b"GET /y HTTP/1.1\r\nhost: 127.0.0.1:")

    talk(lambda: Far(PLAIN, CHUNKED, EMPTY, CHUNKED, piece=piece), work)


def test_an_answer_that_is_not_read_to_its_end_closes_the_connection() -> None:
    async def work(wire: Wire, far: Far) -> None:
        async with wire.asked("POST /x", b"{}", 5) as said:
            async for line in said.lines():
                assert line == b"one"
                break
        await far.left.wait()
        assert await body(wire) == (200, b"hello")
        assert far.connections == 2

    talk(lambda: Far(CHUNKED[:-20], PLAIN, hangs=True), work)


@pytest.mark.parametrize(("answer", "connections"), [(CHUNKED, 1), (CHUNKED[:-5], 2)])
def test_who_has_heard_enough_leaves_the_end_to_the_next_one(answer: bytes, connections: int) -> None:
    async def work(wire: Wire, far: Far) -> None:
        async with wire.asked("POST /x", b"{}", 5) as said:
            async for line in said.lines():
                assert line == b"one"
                said.enough = True
                break
        assert await body(wire) == (200, b"hello")
        assert far.connections == connections

    talk(lambda: Far(answer, PLAIN), work)


def test_a_connection_that_the_other_end_closes_or_that_was_idle_too_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(wire: Wire, far: Far) -> None:
        assert await body(wire) == (503, b"no")
        assert await body(wire) == (200, b"hello")
        assert far.connections == 2
        monkeypatch.setattr(vllm_wire, "KEEP_SECONDS", 0.0)
        assert await body(wire) == (200, b"hello")
        assert far.connections == 3

    talk(lambda: Far(LAST, PLAIN, PLAIN), work)


@pytest.mark.parametrize("said", [b"", PLAIN[:30], CHUNKED[:60]])
def test_silence_ends_after_the_limit(said: bytes) -> None:
    async def work(wire: Wire, _: Far) -> None:
        with pytest.raises(TimeoutError):
            await body(wire, limit=0.1)

    talk(lambda: Far(*([said] if said else []), hangs=True), work)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        PLAIN[:30],
        PLAIN[:-1],
        CHUNKED[:-5],
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 yes\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_ends_in_the_middle_or_is_no_http_is_broken(said: bytes) -> None:
    async def work(wire: Wire, _: Far) -> None:
        with pytest.raises(Broken):
            await body(wire)

    talk(lambda: Once(said), work)


def test_where_nobody_listens_it_is_broken() -> None:
    async def work() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        wire = Wire(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        server.close()
        await server.wait_closed()
        with pytest.raises(Broken):
            await body(wire)

    asyncio.run(work())
