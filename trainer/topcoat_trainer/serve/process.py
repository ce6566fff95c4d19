"""One server process from its start to its last answer: base model, agent, two ports, and an orderly end on SIGTERM.

Puts the other modules together; decides nothing about versions or requests.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from topcoat.api.server import ServerFile
from topcoat_trainer import model, model_file
from topcoat_trainer.errors import BaseModelError, UserInputError
from topcoat_trainer.model_file import ModelFacts
from topcoat_trainer.serve import admin, agent, app, connection
from topcoat_trainer.serve.admission import Admission
from topcoat_trainer.serve.alias import Table
from topcoat_trainer.serve.app import Parts
from topcoat_trainer.serve.desired import Desired
from topcoat_trainer.serve.intake import Intake
from topcoat_trainer.serve.metric import Metrics
from topcoat_trainer.serve.question import Desk, Reader
from topcoat_trainer.serve.traffic import Traffic
from topcoat_trainer.serve.transformers_engine import TransformersEngine
from topcoat_trainer.serve.vllm_engine import VLLMEngine

CUT_SECONDS = 5
KEEP_ALIVE_SECONDS = 75
LAST_ANSWER = (b"connection", b"close")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the alias files lie and where to listen."""

    aliases: Path
    host: str
    client_port: int
    agent_port: int
    client_fd: int | None = None
    """For clients: a socket that whoever started us listens on already, instead of host and port."""


class Front(uvicorn.Server):
    """One port. Signals are the process' business: two fronts would take them from each other."""

    def __init__(self, application: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=connection.Connection,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=CUT_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def part(self) -> None:
        """From now on each answer says that it is the last on its connection: the client's next goes elsewhere."""
        self.config.encoded_headers.append(LAST_ANSWER)
        # uvicorn writes these anew from those above, but only once a second.
        self.server_state.default_headers = [*self.server_state.default_headers, LAST_ANSWER]

    def hang_up(self) -> None:
        """Ends every connection, at once or after the answer that it carries."""
        for found in list(self.server_state.connections):
            found.shutdown()


class House:
    """The parts of a server, as they come to be."""

    def __init__(self, told: ServerFile) -> None:
        self._told = told
        self._parts: Parts | None = None
        self._engine: TransformersEngine | VLLMEngine | None = None
        self.admission = Admission(told.max_running + told.max_waiting)

    def parts(self) -> Parts | None:
        return self._parts

    async def live(self, aliases: Path) -> None:
        """Loads the base model, then follows the alias files until it is cancelled."""
        told = self._told
        facts = await asyncio.to_thread(_inspected, told)
        tokenizer = model.tokenizer(facts)
        engine = self._engine = await _engine(told, facts, Reader(tokenizer, facts).end_ids)
        facts = engine.base.facts  # the engine may know a smaller context
        reader, desk = Reader(tokenizer, facts), Desk(tokenizer, facts)
        intake = await asyncio.to_thread(Intake, engine.base, told.max_rank)
        table, metrics = Table(told.base_model_id), Metrics(told.base_model_id, told.max_adapters)
        traffic = Traffic()
        hands = agent.Hands(engine, intake, table, Desired(aliases), metrics, traffic)
        steward = agent.Agent(told, hands, agent.PRECISION.get(engine.base.dtype, "BF16"))
        self._parts = Parts(told, table, self.admission, metrics, traffic, steward, engine, reader, desk)
        log.info("base model %s is loaded", told.base_model_id)
        await steward.run()

    async def drain(self, clients: Front) -> None:
        """Unready first, so that no new traffic is sent here; then closed; then until the last answer is given.

        Being unready turns new connections away only. A client that keeps its own would ask here until it is refused.
        """
        self.admission.draining = True
        clients.part()
        await asyncio.sleep(self._told.notice_seconds)
        self.admission.closed = True
        clients.hang_up()
        try:
            await asyncio.wait_for(self.admission.emptied(), self._told.drain_seconds)
        except TimeoutError:
            log.warning("some answers did not end within %d s and are cut off", self._told.drain_seconds)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


async def _engine(told: ServerFile, facts: ModelFacts, end_ids: frozenset[int]) -> TransformersEngine | VLLMEngine:
    if told.vllm is not None:
        return await VLLMEngine.started(told, facts, end_ids)
    return await TransformersEngine.started(facts, told.max_running, end_ids)


def _inspected(told: ServerFile) -> ModelFacts:
    """The base model's facts; BaseModelError if it is not the one that is wanted, byte for byte."""
    facts = model_file.inspect(Path(told.base_model_path))
    wanted = told.base_model_digest.removeprefix("sha256:")
    if facts.digest != wanted:
        raise BaseModelError(
            f"the base model's digest is {facts.digest}, wanted is {wanted}",
            where=str(facts.path),
            hint="restore the base model's folder, or let the jobs run again on the new one",
        )
    return facts


async def serve(told: ServerFile, places: Places) -> None:
    """Until SIGTERM or SIGINT. A base model that cannot be served ends it with a TrainerError."""
    house = House(told)
    office = admin.Office(house.parts, house.admission, told.admin_token_sha256)
    fronts = [Front(app.app(app.Clients(house.parts))), Front(admin.app(office))]
    sockets = [_for_clients(places), _listening(places.host, places.agent_port)]
    for found in sockets:
        # Connections inherit it. Without, the end of a small answer waits 40 ms for the client's word that it has the
        # beginning: asyncio sets it only on sockets that name their protocol, which these do not.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ports = [found.getsockname()[1] for found in sockets]
    serving = [asyncio.create_task(front.serve([at])) for front, at in zip(fronts, sockets, strict=True)]
    living = asyncio.create_task(house.live(places.aliases))
    stopping = asyncio.create_task(_stop_asked())
    sys.stdout.write(f"clients on port {ports[0]}, agent on port {ports[1]}\n")
    sys.stdout.flush()
    try:
        await asyncio.wait({living, stopping, *serving}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            log.info("asked to stop")
            await house.drain(fronts[0])
        elif living.done():
            living.result()
    finally:
        for front in fronts:
            front.should_exit = True
        living.cancel()
        stopping.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        with suppress(asyncio.CancelledError, Exception):
            await living
        house.close()


async def _stop_asked() -> None:
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await asked.wait()


def _for_clients(places: Places) -> socket.socket:
    if places.client_fd is not None:
        return socket.socket(fileno=places.client_fd)
    return _listening(places.host, places.client_port)


def _listening(host: str, port: int) -> socket.socket:
    """A socket on every address of both families, where the machine has both."""
    with suppress(OSError):
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=2048)
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise UserInputError(f"port {port} cannot be listened on ({error.strerror})", where=host or "any") from None
