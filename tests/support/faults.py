"""Stands between an operator and the API server: counts its writes, and makes one of them go wrong as a test says.

The faults are those that a real API server has, but cannot be asked for at a given write.
"""

from __future__ import annotations

import http.client
import http.server
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

WRITES = {"POST", "PUT", "PATCH", "DELETE"}
# Renewing the Lease and asking whose a token is are no writes of a job.
UNCOUNTED = ("/leases", "/tokenreviews", "/secrets", "/events")


class Fault(StrEnum):
    """What goes wrong at a write."""

    KILLED_BEFORE = "killed before it"
    KILLED_AFTER = "killed after it"
    CONFLICT = "409"
    TOO_MANY = "429"
    BROKEN = "500"
    REPLY_LOST = "its reply lost"


ANSWERS = {
    Fault.CONFLICT: (409, "Conflict"),
    Fault.TOO_MANY: (429, "TooManyRequests"),
    Fault.BROKEN: (500, "InternalError"),
}


@dataclass
class Plan:
    """The fault at the n-th write, counted from 1; `kill` ends the operator."""

    number: int = 0
    fault: Fault | None = None
    kill: Callable[[], None] = lambda: None
    meanwhile: Callable[[str], None] = lambda _: None
    """Called before each write is passed on, with what it is."""
    writes: list[str] = field(default_factory=list)
    happened: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, what: str) -> Fault | None:
        with self.lock:
            self.writes.append(what)
            due = self.fault is not None and len(self.writes) == self.number and not self.happened
            self.happened = self.happened or due
            return self.fault if due else None


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of the operator's."""

    gate: Gate
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        counted = self.command in WRITES and not any(part in self.path for part in UNCOUNTED)
        what = f"{self.command} {self.path.split('?')[0]}"
        fault = self.gate.plan.next_fault(what) if counted else None
        if counted:
            self.gate.plan.meanwhile(what)
        if fault is Fault.KILLED_BEFORE:
            self.gate.plan.kill()
            self.close_connection = True
            return
        if fault in ANSWERS:
            self._say(*ANSWERS[fault])
            return
        self._forward(body, fault)

    def _forward(self, body: bytes | None, fault: Fault | None) -> None:
        upstream = http.client.HTTPSConnection(self.gate.host, context=self.gate.trust, timeout=330)
        try:
            kept = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "accept-encoding")
            }
            upstream.request(self.command, self.path, body, kept)
            answer = upstream.getresponse()
            if fault is Fault.KILLED_AFTER:
                answer.read()
                self.gate.plan.kill()
            if fault in (Fault.KILLED_AFTER, Fault.REPLY_LOST):
                self.close_connection = True
                return
            self._copy(answer)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

    def _copy(self, answer: http.client.HTTPResponse) -> None:
        """As it comes: a watch has no end."""
        self.send_response(answer.status)
        for name in ("Content-Type", "Retry-After"):
            if value := answer.headers.get(name):
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while chunk := answer.read1(65536):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _say(self, code: int, reason: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                  "message": "made by a test"}  # fmt: skip
        data = json.dumps(status).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815 - http.server's names


class Gate:
    """A proxy on a port of its own, in front of one API server."""

    def __init__(self, server: str, authority: Path, port: int) -> None:
        self.plan = Plan()
        self.trust = ssl.create_default_context(cafile=str(authority))
        self.host = urlsplit(server).netloc
        self.url = f"http://127.0.0.1:{port}"
        handler = type("OwnHandler", (Handler,), {"gate": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
