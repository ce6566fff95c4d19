"""The load: creates many objects, 32 requests in flight, writes their status, counts what becomes of them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp

from tests.support.kube import account
from tests.support.kube import control_plane as planes

Json = dict[str, Any]

IN_FLIGHT = 32
POLL_SECONDS = 0.05
LONGEST_SECONDS = 300.0
MERGE = {"Content-Type": "application/merge-patch+json"}


def session(plane: planes.ControlPlane) -> aiohttp.ClientSession:
    trust = ssl.create_default_context(cafile=str(plane.server.authority))
    headers = {"Authorization": f"Bearer {account.token(account.ADMIN)}"}
    # One more than are in flight, so that the count never waits for them.
    connector = aiohttp.TCPConnector(ssl=trust, limit=IN_FLIGHT + 1)
    return aiohttp.ClientSession(plane.server.url, headers=headers, connector=connector)


async def seconds_to_made(
    plane: planes.ControlPlane, objects: Iterable[tuple[str, Json]], collection: str, wanted: int
) -> float:
    """Creates the objects; seconds until the collection has as many as wanted."""
    async with session(plane) as api:
        began = time.monotonic()
        work = asyncio.ensure_future(_each(objects, lambda one: _created(api, *one)))
        while await _count(api, collection) < wanted:
            await asyncio.sleep(POLL_SECONDS)
            if time.monotonic() - began > LONGEST_SECONDS:
                raise RuntimeError(f"{collection}: not {wanted} after {LONGEST_SECONDS:.0f} s")
        took = time.monotonic() - began
        await work
        return took


async def make_with_status(
    plane: planes.ControlPlane, objects: Iterable[tuple[str, Json]], status: Callable[[Json], Json]
) -> None:
    """Creates the objects, and writes for each the status that it is to have."""
    async with session(plane) as api:

        async def make(one: tuple[str, Json]) -> None:
            made = await _created(api, *one)
            path = f"{one[0]}/{made['metadata']['name']}/status"
            async with api.patch(path, json={"status": status(made)}, headers=MERGE) as answer:
                if answer.status != 200:
                    raise RuntimeError(await answer.text())

        await _each(objects, make)


async def _each(things: Iterable[Any], work: Callable[[Any], Awaitable[Any]]) -> None:
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(thing: Any) -> None:
        async with gate:
            await work(thing)

    await asyncio.gather(*(one(thing) for thing in things))


async def _created(api: aiohttp.ClientSession, path: str, body: Json) -> Json:
    async with api.post(path, json=body) as answer:
        if answer.status != 201:
            raise RuntimeError(await answer.text())
        made: Json = await answer.json()
        return made


async def _count(api: aiohttp.ClientSession, collection: str) -> int:
    async with api.get(f"{collection}?limit=1") as answer:
        if answer.status != 200:
            raise RuntimeError(await answer.text())
        found = await answer.json()
    return len(found["items"]) + int(found["metadata"].get("remainingItemCount") or 0)
