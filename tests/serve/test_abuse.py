"""Clients that dribble, vanish, never read, or only sit there: each loses its connection, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.conftest import Shop
from tests.support import served
from topcoat_trainer.serve import connection, envelope, process

ASKED = {"model": "claims", "prompt": "x", "max_tokens": 1}
LONG: dict[str, Any] = {"model": "claims", "prompt": "a", "max_tokens": 450, "logprobs": 20, "stream": True}
CANARY = "zebra-canary-7731"


@pytest.fixture(scope="module")
def hasty(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Server]:
    """A server that waits for no client for longer than a second, and holds one answer at a time."""
    folder = tmp_path_factory.mktemp("hasty") / "conf"
    claims = served.alias("claims", 1, [shop.versions["v1"]], ["v1"])
    with pytest.MonkeyPatch.context() as patch:  # the server is forked from this process
        patch.setattr(connection, "HEAD_SECONDS", 1.0)
        patch.setattr(connection, "UNREAD_SECONDS", 1.0)
        patch.setattr(envelope, "BODY_SECONDS", 1.0)
        patch.setattr(process, "_listening", small)
        with served.running(folder, shop.base, claims, maxRunning=1, maxWaiting=0) as made:
            yield made


def small(host: str, port: int) -> socket.socket:
    """A port whose connections hold little of what is not read; otherwise it takes megabytes to be noticed."""
    made = socket.create_server((host, port), backlog=2048)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return made


def connected(server: served.Server, **options: int) -> socket.socket:
    made = socket.socket()
    for name, value in options.items():
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    made.settimeout(10)
    made.connect(("127.0.0.1", server.client_port))
    return made


def head(length: int, path: str = "/v1/completions") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def request(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return head(len(data)) + data


def everything(made: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := made.recv(65536):
            found += part
    return found


GENEROUS = 30
"""Seconds. The server has had enough after one, but this machine may have other things to do."""


def dribbled(made: socket.socket, data: bytes) -> float:
    """One byte after the other, for more than a minute, until the server has had enough; how long that took."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for number in range(len(data)):
            made.send(data[number : number + 1])
            made.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                if not made.recv(65536):
                    break
            assert time.monotonic() - began < GENEROUS, "it lets itself be dribbled at"
    return time.monotonic() - began


def answers(server: served.Server) -> None:
    before = time.monotonic()
    assert server.post("/completions", ASKED).status_code == 200
    assert time.monotonic() - before < GENEROUS


@pytest.mark.parametrize("begun", [b"", request(ASKED)], ids=["the first request", "a later one"])
def test_a_head_that_dribbles_is_given_up(hasty: served.Server, begun: bytes) -> None:
    with connected(hasty) as made:
        if begun:
            made.sendall(begun)
            assert made.recv(65536).startswith(b"HTTP/1.1 200")
        assert dribbled(made, b"GET /health HTTP/1.1\r\n" + b"x-a: b\r\n" * 100) > 0.5
    answers(hasty)


def test_a_body_that_dribbles_is_given_up_and_takes_nobodys_place(hasty: served.Server) -> None:
    with connected(hasty) as made:
        made.sendall(head(1000))
        made.sendall(b"{")
        answers(hasty)  # although only one may be inside
        assert made.recv(65536).startswith(b"HTTP/1.1 408")
        dribbled(made, b" " * 900)
    answers(hasty)


def test_a_body_for_no_route_cannot_hold_its_connection(hasty: served.Server) -> None:
    with connected(hasty) as made:
        made.sendall(head(100_000, "/v1/nowhere"))
        assert made.recv(65536).startswith(b"HTTP/1.1 404")
        dribbled(made, b" " * 900)


def test_a_client_that_vanishes_without_a_word_frees_its_place(hasty: served.Server) -> None:
    for _ in range(3):
        with connected(hasty) as made:
            made.sendall(request(LONG))
            assert b"200" in made.recv(100)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
        hasty.until(lambda: hasty.post("/completions", ASKED).status_code == 200, "its place is free", 3)


def test_a_client_that_never_reads_is_given_up(hasty: served.Server) -> None:
    """More is said than all buffers on the way hold."""
    with connected(hasty, SO_RCVBUF=4096) as made:
        made.sendall(request({**LONG, "prompt": [[1, 20]] * 8, "n": 8}))
        time.sleep(0.3)
        assert hasty.post("/completions", ASKED).status_code == 429
        hasty.until(lambda: hasty.post("/completions", ASKED).status_code == 200, "its place is free", 8)
        assert not everything(made).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_a_thousand_idle_connections_keep_nobody_out(hasty: served.Server) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(hasty)) for _ in range(1000)]
        answers(hasty)
        for made in idle[:50]:
            made.sendall(b"GET /hea")
        answers(hasty)
        assert all(everything(made) == b"" for made in idle[:50])
        assert hasty.get("/ready", None).status_code == 200
    answers(hasty)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\xfe nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 200_000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzebra-canary-7731\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nx",
    ],
)  # fmt: skip
def test_what_is_no_http_is_told_so_and_the_connection_ends(hasty: served.Server, sent: bytes) -> None:
    with connected(hasty) as made, contextlib.suppress(BrokenPipeError):
        made.sendall(sent)
        said = everything(made)
        if said:  # a client that is still sending may lose the answer with the connection
            assert said[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 501")
            assert b'"invalid_http"' in said
    answers(hasty)
    words = hasty.log.read_text()
    assert CANARY not in words
    assert "Traceback" not in words, words[-3000:]


def test_a_request_smuggled_behind_another_is_read_as_a_request_of_its_own(hasty: served.Server) -> None:
    """Length and chunks at once: no proxy in front and we may read two different requests."""
    smuggled = b"GET /agent/state HTTP/1.1\r\nhost: x\r\n\r\n"
    body = b"0\r\n\r\n" + smuggled
    sent = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
    with connected(hasty) as made:
        made.sendall(sent + b"content-length: %d\r\n\r\n" % len(body) + body)
        made.settimeout(3)
        said = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := made.recv(65536):
                said += part
    assert said.startswith(b"HTTP/1.1 400")
    assert b"bootId" not in said


HEAVY: dict[str, tuple[str, dict[str, Any]]] = {
    "one long word": ("/completions", {"prompt": "a" * 1_000_000}),
    "many short prompts": ("/completions", {"prompt": ["a b " * 3800] * 64}),
    "many numbers": ("/completions", {"prompt": [7] * 340_000}),
    "wrong numbers": ("/completions", {"prompt": [{}] * 250_000}),
    "many turns": ("/chat/completions", {"messages": [{"role": "user", "content": "a " * 90}] * 4000}),
    "many parts": (
        "/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 30_000}]},
    ),
    "many choices": (
        "/chat/completions",
        {
            "messages": [{"role": "user", "content": "a"}],
            "structured_outputs": {"choice": [f"{number} " * 300 for number in range(512)]},
        },
    ),
}


@pytest.mark.parametrize("case", HEAVY)
def test_no_body_keeps_others_waiting(hasty: served.Server, case: str) -> None:
    path, body = HEAVY[case]
    data = json.dumps({"model": "claims", **body}).encode()
    assert len(data) < envelope.BODY_BYTES, len(data)
    with connected(hasty) as made:
        made.sendall(head(len(data), f"/v1{path}") + data)
        time.sleep(0.02)
        before = time.monotonic()
        assert hasty.get("/health", None).status_code == 200
        assert time.monotonic() - before < 1.5
        assert made.recv(65536).startswith(b"HTTP/1.1 400")
