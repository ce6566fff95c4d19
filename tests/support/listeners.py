"""A real HTTP server in the operator's place, which notes what trainers tell it. For tests only."""

from __future__ import annotations

import http.server
import json
import time
from pathlib import Path
from typing import Any

from topcoat_trainer import post


class Operator(http.server.ThreadingHTTPServer):
    """A real server that notes what it is told."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status = status
        self.told: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.paths: list[str] = []
        self.times: list[float] = []

    def address(self, token: Path) -> post.Address:
        return post.Address(f"http://127.0.0.1:{self.server_address[1]}/jobs/claims", token)

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.told) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.told) >= count


class Answer(http.server.BaseHTTPRequestHandler):
    server: Operator

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.append(json.loads(body)["trainerStatus"])
        self.server.tokens.append(self.headers["Authorization"])
        self.server.paths.append(self.path)
        self.server.times.append(time.monotonic())
        self.send_response(self.server.status)
        if self.server.status == 307:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...
