"""A model server of this machine: the trainer's process, what it is told, what it says of itself, and its end.

It never outlives us for long: it ends with the pipe between us. Its admin token is known to this process alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pydantic

from topcoat.api import method, prepared, server
from topcoat.cli import durable, scratch, terminal, trainer_process

LOOPBACK = "127.0.0.1"
AGENT_SECONDS = 5.0
END_SECONDS = 60.0
MOST_VERSIONS = 64
MOST_RANK = max(get_args(method.LoRA.model_fields["rank"].annotation))
"""What may be trained here may be served here."""
WHO = "the model server"


@dataclass(slots=True)
class Server:
    """A process that was started."""

    process: subprocess.Popen[bytes]
    folder: Path
    token: str
    asked_to_end: bool = False
    _agent_port: int = 0
    _unsent: list[server.AliasFile] = field(default_factory=list)

    def check(self) -> None:
        """Fails where the process has ended unasked, or its engine has."""
        if self.asked_to_end:
            return
        code = self.process.poll()
        if code is not None:
            raise self._ended(code)
        if self._asked("GET", "/health")[0] == http.client.SERVICE_UNAVAILABLE:
            terminal.fail(f"the engine of {WHO} has stopped", hint="start it again; the store is as it was")

    def _ended(self, code: int) -> terminal.Failure:
        if code == 0:
            return terminal.Failure(f"somebody asked {WHO} to end", hint="start it again")
        log = self.folder / "log"
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return trainer_process.failure(code, None, said, WHO)

    def tell(self, files: Sequence[server.AliasFile]) -> None:
        """Writes alias files, and pushes them, too: then they are followed at once."""
        _write(self.folder, files)
        self._unsent += files
        if self._unsent:
            body = server.Push(aliases=tuple(self._unsent)).model_dump_json(by_alias=True)
            if self._asked("POST", "/agent/aliases", body)[0] == http.client.OK:
                self._unsent.clear()

    def state_or_none(self) -> server.AgentState | None:
        """What it holds; None while it cannot say."""
        status, data = self._asked("GET", "/agent/state")
        with contextlib.suppress(pydantic.ValidationError):
            return server.AgentState.model_validate_json(data) if status == http.client.OK else None
        return None

    def _asked(self, verb: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Status and answer of its agent; 0 where there is none."""
        port = self._port()
        if not port:
            return 0, b""
        line = http.client.HTTPConnection(LOOPBACK, port, timeout=AGENT_SECONDS)
        try:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            line.request(verb, path, body, headers)
            reply = line.getresponse()
            return reply.status, reply.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            line.close()

    def _port(self) -> int:
        """Its agent's port, once it has told it in its first line."""
        if not self._agent_port:
            line = (self.folder / "ports").read_text()
            self._agent_port = int(line.split()[-1]) if line.endswith("\n") else 0
        return self._agent_port

    def end(self) -> None:
        """Asks it to end when its answers are given; asked again, it ends at once."""
        number = signal.SIGKILL if self.asked_to_end else signal.SIGTERM
        self.asked_to_end = True
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, at the latest after a minute."""
        try:
            return self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def started(
    base: prepared.BaseModelCard, files: Sequence[server.AliasFile], clients: socket.socket
) -> Iterator[Server]:
    """A server that is being loaded; at the end its process and its files are gone."""
    trainer_process.check_installed()
    token = secrets.token_urlsafe(32)
    with scratch.scratch() as room:
        (room.path / "aliases").mkdir()
        _write(room.path, files)
        told = _server_file(base, token)
        durable.write_json(room.path / server.SERVER_FILE, told.as_json())
        with clients, _process(room, clients) as process:
            clients.close()
            made = Server(process, room.path, token)
            try:
                yield made
            finally:
                process.terminate()
                made.wait()


def _server_file(base: prepared.BaseModelCard, token: str) -> server.ServerFile:
    return server.ServerFile(
        name="local",
        namespace="default",
        base_model_id=base.id,
        base_model_path=base.path,
        base_model_digest=base.digest,
        max_adapters=MOST_VERSIONS,
        max_rank=MOST_RANK,
        notice_seconds=0,
        admin_token_sha256=hashlib.sha256(token.encode()).hexdigest(),
    )


def _write(folder: Path, files: Sequence[server.AliasFile]) -> None:
    for file in files:
        durable.write_json(folder / "aliases" / f"{file.alias}.json", file.as_json())


def _process(room: scratch.Scratch, clients: socket.socket) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C reaches it only through us; its files lie where ours do."""
    places = ["--server-file", str(room.path / server.SERVER_FILE), "--aliases", str(room.path / "aliases")]
    ports = ["--host", LOOPBACK, "--agent-port", "0", "--client-fd", str(clients.fileno())]
    with (room.path / "ports").open("wb") as said, (room.path / "log").open("wb") as log:
        return subprocess.Popen(
            trainer_process.command("serve", *places, *ports, "--with-parent"),
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=None if terminal.debugging() else log,
            env=trainer_process.environment() | {"TMPDIR": str(room.path)},
            start_new_session=True,
            pass_fds=(clients.fileno(), room.lock),
        )


def listening(host: str, port: int) -> socket.socket:
    """A socket for clients. Fails in one line where there can be none."""
    place = address(host, port)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        hint = "another program may have it; `topcoat serve --port 0` takes any free port"
        if isinstance(error, PermissionError):
            hint = "choose a port above 1023"
        elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            hint = "--host takes an address of this machine, such as 127.0.0.1 or 0.0.0.0"
        why = str(error.strerror).partition(" (")[0]  # Python adds the address, which stands in front already
        terminal.fail(f"the port cannot be listened on ({why})", place, hint)


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
