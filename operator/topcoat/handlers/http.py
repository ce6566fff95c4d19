"""/healthz, /readyz and /metrics on one port, the trainers' reports on another. Says only how the process is."""

from __future__ import annotations

import asyncio

import prometheus_client
from aiohttp import web

from topcoat.handlers import progress
from topcoat.handlers.state import State

QUEUE_AGE_SECONDS = 180.0
SILENCE_SECONDS = 600.0
REPORT_PATH = "/{tail:.*}"


def problems(state: State) -> list[str]:
    """What is wrong with the process, in words; empty: nothing. A hung loop does not even answer."""
    now = asyncio.get_running_loop().time()
    found = []
    if state.leading and state.queue.age_seconds() > QUEUE_AGE_SECONDS:
        found.append(f"an object waits for {state.queue.age_seconds():.0f} s to be looked at")
    if state.leading:
        found += [
            f"watch {name} is silent for {now - heard:.0f} s"
            for name, heard in state.heard.items()
            if "/" in name and now - heard > SILENCE_SECONDS
        ]
    return found


def waits(state: State) -> list[str]:
    """What is still to come before this process is ready. A standby is ready: it can take over."""
    if not state.leading:
        return []
    return [f"{name} was not listed yet" for name in sorted(state.expected - state.synced)]


def _answer(found: list[str]) -> web.Response:
    return web.Response(status=503 if found else 200, text="; ".join(found) or "ok")


async def serve(state: State) -> web.AppRunner:
    """Health and metrics."""
    app = web.Application()

    async def healthz(_: web.Request) -> web.Response:
        return _answer(problems(state))

    async def readyz(_: web.Request) -> web.Response:
        return _answer(problems(state) + waits(state))

    async def metrics(_: web.Request) -> web.Response:
        text = prometheus_client.generate_latest(state.metrics.registry)
        return web.Response(body=text, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return await _run(app, state.settings.http_port)


async def listen(state: State) -> web.AppRunner:
    """The trainers' reports."""
    app = web.Application(client_max_size=progress.BODY_BYTES)
    ear = progress.Ear(state.api, state.settings.progress_audience)
    app.router.add_post(REPORT_PATH, ear.hear)
    return await _run(app, state.settings.progress_port)


async def _run(app: web.Application, port: int) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
