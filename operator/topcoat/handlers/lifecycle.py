"""The operator's life: log in, hold the Lease, watch, work, end. Read `run` first.

Ending is normal and cheap: nothing that runs in the cluster depends on this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import os
import signal

import kopf

from topcoat.cluster import act, agent, client, lease, memory, modelserver, queue
from topcoat.cluster.queue import Key
from topcoat.handlers import http, key, kinds, login, metrics, reconcile, settings, watch
from topcoat.handlers.state import State

logger = logging.getLogger(__name__)

LONGEST_STOP_SECONDS = 10.0
CHILD_KINDS = ("Job", "Pod")


async def run(wanted: settings.Settings) -> None:
    """One operator process, until it is told to stop or loses the Lease."""
    connection = login.connect()
    api = client.Client(connection.session, connection.server)
    state = await _state(wanted, api)
    runners = [await http.serve(state), await http.listen(state)]
    held = lease.Lease(api, wanted.pod_namespace, wanted.lease_name, wanted.pod_name, wanted.lease_seconds)
    stop = asyncio.Event()
    _listen_for_signals(stop)
    try:
        async with asyncio.TaskGroup() as group:
            leading = group.create_task(_lead(state, held, stop))
            await stop.wait()
            logger.info("stopping as asked")
            # Whatever will not end is left behind: nothing is lost by that.
            asyncio.get_running_loop().call_later(LONGEST_STOP_SECONDS, os._exit, 0)
            leading.cancel()
    finally:
        with contextlib.suppress(client.ApiError):
            await held.release()
        for runner in runners:
            await runner.cleanup()
        await state.servers.agents.session.close()
        await connection.session.close()


async def _state(wanted: settings.Settings, api: client.Client) -> State:
    line = queue.Queue()
    known = memory.Memory(mark=line.add)
    own = await _key(api, wanted.pod_namespace)
    agents = agent.Agents(agent.session(), own)
    series = metrics.Metrics(importlib.metadata.version("topcoat"))
    series.watch(known.jobs.values, lambda: len(line), api.counts)
    return State(
        settings=wanted,
        api=api,
        known=known,
        queue=line,
        hands=act.Hands(api, known, wanted.platform),
        servers=modelserver.Hands(api, known, wanted.platform, agents),
        metrics=series,
    )


async def _key(api: client.Client, namespace: str) -> bytes:
    """The operator's key; the API server may still be starting."""
    for wait_seconds in (0.2, 0.5, 1, 2, 5, 5, 5):
        try:
            return await key.read_or_make(api, namespace)
        except client.ApiError as error:
            if not error.passing:
                raise
            await asyncio.sleep(wait_seconds)
    return await key.read_or_make(api, namespace)


def _listen_for_signals(stop: asyncio.Event) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)


async def _lead(state: State, held: lease.Lease, stop: asyncio.Event) -> None:
    """Waits for the Lease, then does everything at once."""
    await _acquire(held)
    state.leading = True
    logger.info("leading as %s", held.holder)
    places = state.settings.namespaces or ("",)
    state.expected = {f"{kind}/{place}" for kind in CHILD_KINDS for place in places}
    async with asyncio.TaskGroup() as group:
        group.create_task(held.keep())
        for kind in CHILD_KINDS:
            for place in places:
                group.create_task(watch.follow(state, kind, place))
        # Jobs and pods first: an object whose children are not known yet would be given them twice.
        await _listed(state)
        group.create_task(_kopf(state, stop))
        for _ in range(state.settings.workers):
            group.create_task(reconcile.work(state))
        group.create_task(_resync(state))
        _settle()


async def _acquire(held: lease.Lease) -> None:
    while True:
        try:
            return await held.acquire()
        except client.ApiError as error:
            if not error.passing:
                raise
            await asyncio.sleep(1)


async def _listed(state: State) -> None:
    while not state.expected <= state.synced:  # noqa: ASYNC110 - once, for milliseconds
        await asyncio.sleep(0.02)


async def _kopf(state: State, stop: asyncio.Event) -> None:
    """Runs kopf. It ends by itself only if it hears a signal before we do, and then closes its session: its own one."""
    places = state.settings.namespaces
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_signals_after(ready, stop))
        await kopf.operator(
            registry=kinds.registry(state, login.connect()),
            settings=kopf.OperatorSettings(),
            clusterwide=not places,
            namespaces=places,
            standalone=True,
            ready_flag=ready,
        )
        stop.set()


async def _signals_after(ready: asyncio.Event, stop: asyncio.Event) -> None:
    """It takes the signals for itself when it starts; we take them back, as it is only a part of us."""
    await ready.wait()
    _listen_for_signals(stop)


async def _resync(state: State) -> None:
    """Looks at everything now and then: whatever a watch missed is mended."""
    while True:
        await asyncio.sleep(state.settings.resync_seconds)
        for place in state.known.jobs:
            state.queue.add(Key("FineTuneJob", *place))
        for place in state.known.servers:
            state.queue.add(Key("ModelServer", *place))


def _settle() -> None:
    """What was loaded at the start stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
