"""HTTP/1.1 as far as one vLLM on loopback needs it: requests with a body at hand, answers whole or in pieces.

Written by hand since it stands in the way of every answer: a general client takes more time than all the rest of the
server. Connections are kept; one whose answer was left in the middle is closed, which tells vLLM to stop the work.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from asyncio import IncompleteReadError, LimitOverrunError, StreamReader, StreamWriter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

CONNECT_SECONDS = 5.0
KEEP_SECONDS = 2.0
"""Less than vLLM's own 5: a request on a connection that it is closing would look as if vLLM were gone."""
REST_SECONDS = 0.01
"""For the end of an answer of which nothing more was wanted, before its connection is used again."""
MOST_KEPT = 64
MOST_HEADERS = 100
END = b"\r\n"
FAULTS = (OSError, EOFError, LimitOverrunError, ValueError, IndexError)


class Broken(Exception):
    """Nobody listens, or the connection ended in the middle."""


class Said:
    """An answer. `limit`: seconds for which it may be silent."""

    def __init__(self, status: int, headers: dict[bytes, bytes], reader: StreamReader, limit: float) -> None:
        self.status = status
        self._headers = headers
        self._reader = reader
        self._limit = limit
        self._ended = False
        self.enough = False
        """Set by whoever has heard all that matters: what follows is only the end."""

    @property
    def reusable(self) -> bool:
        """Whether its connection can carry another request, once it has ended."""
        return (self._ended or self.enough) and self._headers.get(b"connection", b"").lower() != b"close"

    async def ended(self) -> bool:
        """Reads the rest, which should be there already."""
        try:
            async with asyncio.timeout(REST_SECONDS):
                while not self._ended:
                    await self.body()
        except FAULTS:
            return False
        return not self._reader.at_eof()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        if self._headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            while part := await self._chunk():
                yield part
        elif size := int(self._headers.get(b"content-length", b"0")):
            async with asyncio.timeout(self._limit):
                part = await self._reader.readexactly(size)
            self._ended = True
            yield part
        self._ended = True

    async def _chunk(self) -> bytes:
        """Empty: that was the last one."""
        async with asyncio.timeout(self._limit):
            size = int((await self._reader.readuntil(END)).split(b";")[0], 16)
            return (await self._reader.readexactly(size + len(END)))[:size]

    async def lines(self) -> AsyncGenerator[bytes, None]:
        rest = b""
        async with aclosing(self.parts()) as parts:
            async for part in parts:
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield line
        if rest:
            yield rest

    async def body(self) -> bytes:
        return b"".join([part async for part in self.parts()])


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection; when and with what it was left."""

    reader: StreamReader
    writer: StreamWriter
    since: float = 0.0
    said: Said | None = None


class Wire:
    """One server."""

    def __init__(self, url: str) -> None:
        self._place = urllib.parse.urlsplit(url)
        self._kept: list[_Line] = []

    @asynccontextmanager
    async def asked(self, route: str, body: bytes, limit: float) -> AsyncIterator[Said]:
        """`route`: method and path. TimeoutError where it is silent longer than `limit` seconds."""
        line = said = None
        try:
            line = await self._line()
            head = f"{route} HTTP/1.1\r\nhost: {self._place.netloc}\r\ncontent-type: application/json\r\n"
            line.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            async with asyncio.timeout(limit):
                status, headers = await _head(line.reader)
            said = Said(status, headers, line.reader, limit)
            yield said
        except TimeoutError:  # before OSError, of which it is one
            raise
        except FAULTS as error:
            raise Broken(type(error).__name__) from error
        finally:
            if line is not None:
                self._leave(line, said)

    async def _line(self) -> _Line:
        now = asyncio.get_running_loop().time()
        while self._kept:
            line = self._kept.pop()
            if now - line.since < KEEP_SECONDS and line.said is not None and await line.said.ended():
                return line
            line.writer.close()
        async with asyncio.timeout(CONNECT_SECONDS):
            return _Line(*await asyncio.open_connection(self._place.hostname, self._place.port))

    def _leave(self, line: _Line, said: Said | None) -> None:
        if said is not None and said.reusable and len(self._kept) < MOST_KEPT:
            self._kept.append(_Line(line.reader, line.writer, asyncio.get_running_loop().time(), said))
        else:
            line.writer.close()

    def close(self) -> None:
        for line in self._kept:
            line.writer.close()
        self._kept.clear()


async def _head(reader: StreamReader) -> tuple[int, dict[bytes, bytes]]:
    status = int((await reader.readuntil(END)).split(b" ", 2)[1])
    headers: dict[bytes, bytes] = {}
    for _ in range(MOST_HEADERS):
        row = (await reader.readuntil(END)).strip()
        if not row:
            return status, headers
        name, _, value = row.partition(b":")
        headers[name.strip().lower()] = value.strip()
    raise IncompleteReadError(b"", None)
