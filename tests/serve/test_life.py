"""A server's life: it starts or says why not, never takes more than it can, and ends without cutting anybody off."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.serve.conftest import Shop
from tests.support import served
from topcoat.api.server import ServerFile
from topcoat_trainer import files
from topcoat_trainer.errors import BaseModelError, UserInputError
from topcoat_trainer.serve import process


def start(shop: Shop) -> Any:
    return served.alias("claims", 1, [shop.versions["v1"]], ["v1"])


def slow(server: served.Server, tokens: int = 450, **more: Any) -> dict[str, Any]:
    """A request that takes seconds: log-probabilities make every token slower, and no end token is drawn soon."""
    return {"model": "claims", "prompt": "a", "max_tokens": tokens, "logprobs": 20, **more}


def gauge(server: served.Server, name: str) -> str:
    rows = server.get("/metrics").text.splitlines()
    return next(row.split()[-1] for row in rows if row.startswith(f"vllm:num_requests_{name}{{"))


def test_a_base_model_that_is_not_the_wanted_one_is_not_served(shop: Shop, tmp_path: Path) -> None:
    server = served.Server(tmp_path / "conf", shop.base, {"baseModelDigest": "0" * 64})
    server.write(start(shop))
    server.start()
    assert server.ended() == BaseModelError.exit_code.value
    assert shop.base.digest in server.log.read_text()


def test_it_is_alive_but_not_ready_until_all_is_proved(shop: Shop, tmp_path: Path) -> None:
    server = served.Server(tmp_path / "conf", shop.base)
    server.write(start(shop))
    try:
        server.start()
        codes = set()
        while (code := server.get("/ready", None).status_code) != 200:
            codes.add(code)
            assert server.get("/health", None).status_code == 200
        assert codes == {503}
        with server.client() as client:
            assert client.completions.create(model="claims", prompt="x", max_tokens=1).choices
    finally:
        server.stop(signal.SIGKILL)


def test_it_hears_what_is_new_before_it_is_ready(shop: Shop, tmp_path: Path) -> None:
    """Mounted files may be a minute old: a pod that began with them would answer by a version of yesterday."""
    with served.begun(tmp_path / "conf", shop.base, start(shop), newsSeconds=600) as server:
        server.until_proved("v1")
        assert server.get("/ready", None).status_code == 503
        server.push(served.alias("claims", 2, [shop.versions["v1"], shop.versions["v2"]], ["v2"]))
        server.ready()
        assert server.post("/completions", slow(server, 1)).headers["x-topcoat-version"] == "claims--v2"


def test_it_is_ready_where_nobody_tells_news(shop: Shop, tmp_path: Path) -> None:
    with served.begun(tmp_path / "conf", shop.base, start(shop), newsSeconds=2) as server:
        server.until_proved("v1")
        assert server.get("/ready", None).status_code == 503
        server.ready()


def test_one_too_many_is_told_to_come_again(shop: Shop, tmp_path: Path) -> None:
    with (
        served.running(tmp_path / "conf", shop.base, start(shop), maxRunning=1, maxWaiting=1) as server,
        server.client() as client,
    ):
        long = client.completions.create(**slow(server), stream=True)
        next(iter(long))
        waiting = threading.Thread(target=lambda: server.post("/completions", slow(server, 1)))
        waiting.start()
        server.until(
            lambda: 'num_requests_waiting{model_name="tests/tiny"} 1.0' in server.get("/metrics").text, "one waits"
        )
        said = server.post("/completions", slow(server, 1))
        assert (said.status_code, said.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(said.headers["retry-after"]) >= 1
        assert server.get("/health", None).status_code == 200
        long.close()
        waiting.join(20)
        assert server.post("/completions", slow(server, 1)).status_code == 200


def test_a_client_that_hangs_up_frees_its_place(shop: Shop, tmp_path: Path) -> None:
    with served.running(tmp_path / "conf", shop.base, start(shop), maxRunning=1, maxWaiting=0) as server:
        for stream in (True, False):
            before = time.monotonic()
            with server.client() as client:
                if stream:
                    made = client.completions.create(**slow(server), stream=True)
                    next(iter(made))
                    made.close()
                else:
                    with pytest.raises(openai.APITimeoutError):
                        client.completions.create(**slow(server), timeout=0.3)
            server.until(lambda: gauge(server, "running") == "0.0", "nobody is inside", seconds=5)
            assert time.monotonic() - before < 2
            assert server.post("/completions", slow(server, 1)).status_code == 200
        assert 'code="499"' in server.get("/metrics").text
        # Nothing else was running on: the version is let go at once.
        server.push(served.alias("claims", 2, [shop.versions["v2"]], ["v2"]))
        server.until(lambda: not server.held("v1"), "v1 is unloaded", seconds=5)


def test_a_request_that_takes_too_long_is_ended(shop: Shop, tmp_path: Path) -> None:
    with served.running(tmp_path / "conf", shop.base, start(shop), requestSeconds=1, maxRunning=1) as server:
        many = slow(server, 400, prompt=["a"] * 30)
        said = server.post("/completions", many)
        assert (said.status_code, said.json()["error"]["code"]) == (504, "timeout")
        streamed = server.post("/completions", {**many, "stream": True})
        assert streamed.status_code == 200
        assert '"code":"timeout"' in streamed.text
        assert streamed.text.endswith("data: [DONE]\n\n")


def test_sigterm_ends_it_after_the_last_answer_and_unready_first(shop: Shop, tmp_path: Path) -> None:
    with served.running(tmp_path / "conf", shop.base, start(shop), noticeSeconds=1) as server:
        with server.client() as client:
            whole = client.completions.create(**slow(server)).choices[0].text
            long = client.completions.create(**slow(server), stream=True)
            parts = [next(iter(long)).choices[0].text]
            os.kill(server.child, signal.SIGTERM)
            server.until(lambda: server.get("/ready", None).status_code == 503, "it is not ready any more")
            # Until everybody knows, who still comes is still served.
            assert server.post("/completions", slow(server, 1)).status_code == 200
            parts += [part.choices[0].text for part in long]
        assert "".join(parts) == whole
        assert server.ended() == 0


def test_who_keeps_a_connection_is_sent_elsewhere_before_it_stops(shop: Shop, tmp_path: Path) -> None:
    with served.running(tmp_path / "conf", shop.base, start(shop), noticeSeconds=1) as server:
        asking, silent = (http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=10) for _ in range(2))
        with server.client() as client, contextlib.closing(asking), contextlib.closing(silent):
            assert [_last_answer(asking), _last_answer(silent)] == [(200, False)] * 2
            long = client.completions.create(**slow(server), stream=True)
            parts = [next(iter(long))]
            os.kill(server.child, signal.SIGTERM)
            server.until(lambda: server.get("/ready", None).status_code == 503, "it is not ready any more")
            assert _last_answer(asking) == (200, True)
            assert silent.sock.recv(1) == b""
            # That was no end of the process: whoever is still being answered is answered whole.
            assert server.get("/ready", None).status_code == 503
            parts += list(long)
        assert parts[-1].choices[0].finish_reason == "length"
        assert server.ended() == 0


def _last_answer(client: http.client.HTTPConnection) -> tuple[int, bool]:
    """The status, and whether the connection ends with it."""
    client.request("GET", "/health")
    said = client.getresponse()
    said.read()
    return said.status, said.getheader("connection") == "close"


def test_an_answer_that_does_not_end_in_time_is_cut_off_and_the_process_ends(shop: Shop, tmp_path: Path) -> None:
    with served.running(tmp_path / "conf", shop.base, start(shop), drainSeconds=1) as server:
        body = slow(server, 400, prompt=["a"] * 60)
        thread = threading.Thread(target=lambda: _ignoring(server, body))
        thread.start()
        server.until(
            lambda: 'num_requests_running{model_name="tests/tiny"} 1.0' in server.get("/metrics").text, "it runs"
        )
        before = time.monotonic()
        os.kill(server.child, signal.SIGTERM)
        assert server.ended(15) == 0
        assert time.monotonic() - before < 9
        thread.join(10)


def _ignoring(server: served.Server, body: dict[str, Any]) -> None:
    with contextlib.suppress(httpx2.TransportError):
        server.post("/completions", body)


@pytest.mark.slow
def test_the_command_serves_on_free_ports_until_it_is_asked_to_stop(shop: Shop, tmp_path: Path) -> None:
    server = served.Server(tmp_path / "conf", shop.base)
    server.write(start(shop))
    told = {
        "name": "tiny", "namespace": "default", "baseModelId": served.BASE, "baseModelPath": str(shop.base.path),
        "baseModelDigest": shop.base.digest, "noticeSeconds": 0,
        "adminTokenSha256": hashlib.sha256(served.ADMIN.encode()).hexdigest(),
    }  # fmt: skip
    files.write_json(server.folder / "server.json", told)
    command = [
        sys.executable, "-m", "topcoat_trainer.serve", "--server-file", str(server.folder / "server.json"),
        "--aliases", str(server.folder), "--client-port", "0", "--agent-port", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.fullmatch(r"clients on port (\d+), agent on port (\d+)\n", process.stdout.readline())
            assert found
            server.client_port, server.agent_port = map(int, found.groups())
            server.until(lambda: server.get("/ready", None).status_code == 200, "it is ready", seconds=60)
            assert server.post("/completions", slow(server, 2)).status_code == 200
            process.send_signal(signal.SIGTERM)
            _, words = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, words
    assert "Traceback" not in words


@pytest.mark.parametrize("case", ["no file", "a wrong field"])
def test_the_command_says_what_is_wrong_and_ends(tmp_path: Path, case: str) -> None:
    path = tmp_path / "server.json"
    if case != "no file":
        told = {
            "name": "tiny", "namespace": "default", "baseModelId": "x", "baseModelPath": str(tmp_path),
            "baseModelDigest": "0" * 64, "adminTokenSha256": "0" * 63,
        }  # fmt: skip
        files.write_json(path, told)
    command = [sys.executable, "-m", "topcoat_trainer.serve", "--server-file", str(path), "--aliases", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 10
    assert "To fix it" in done.stderr
    assert "Traceback" not in done.stderr
    assert {"no file": "cannot be read", "a wrong field": "adminToken"}[case] in done.stderr


def test_a_port_in_use_is_said_as_such(tmp_path: Path) -> None:
    told = ServerFile(
        name="tiny", namespace="default", base_model_id="x", base_model_path="x", base_model_digest="0",
        admin_token_sha256="0" * 64,
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = process.Places(tmp_path, "127.0.0.1", taken.getsockname()[1], 0)
        with pytest.raises(UserInputError, match="cannot be listened on"):
            asyncio.run(process.serve(told, places))
