"""Whatever a client writes into names, paths and headers, it reaches its own versions, and is told of no others."""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.serve.conftest import Shop
from tests.support import served
from topcoat_trainer.serve import envelope

CANARY = "zebra-canary-7731"
A, B = "token-of-a", "token-of-b"


@pytest.fixture(scope="module")
def shared(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Server]:
    """Two jobs on one server, each behind its own token: `claims` has v1 and v2, `triage` v3."""
    root = tmp_path_factory.mktemp("shared")
    for name, token in (("a", A), ("b", B)):
        (root / name).write_text(token)
    versions = shop.versions
    claims = served.alias("claims", 1, [versions["v1"], versions["v2"]], ["v1"], token_file=str(root / "a"))
    triage = served.alias("triage", 1, [versions["v3"]], ["v3"], token_file=str(root / "b"))
    with served.running(root / "conf", shop.base, claims, triage) as made:
        made.until_proved("v2")
        yield made


def ask(server: served.Server, model: str, token: str | None, **more: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return server.post("/completions", {"model": model, "prompt": "x", "max_tokens": 1}, **headers, **more)


@pytest.mark.parametrize("model", ["claims", "claims--v1", "claims--v2"])
def test_a_version_is_not_reached_with_another_jobs_token(shared: served.Server, shop: Shop, model: str) -> None:
    assert ask(shared, model, A).status_code == 200
    for token in (B, None, "", served.ADMIN, f"{A}x", A[:-1], A.upper(), f"{B} {A}", f"{A},{A}"):
        said = ask(shared, model, token)
        assert said.status_code == 401, token
        told = said.text + str(dict(said.headers))
        assert "x-topcoat-version" not in said.headers
        assert not any(secret in told for secret in (A, shop.digest("v1"), shop.digest("v2"), str(shop.volume)))


def test_each_token_lists_its_own_models_only(shared: served.Server) -> None:
    for token, mine in ((A, {"claims", "claims--v1", "claims--v2"}), (B, {"triage", "triage--v3"})):
        with shared.client(token) as client:
            assert {card.id for card in client.models.list()} == {*mine, served.BASE}
            for name in {"claims", "claims--v1", "triage", "triage--v3"} - mine:
                with pytest.raises(openai.AuthenticationError):
                    client.models.retrieve(name)
    with shared.client("none") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


NAMES = (
    "claims/../triage", "triage/../claims", "../claims", "./claims", "/claims", "claims/", "claims\\", "claims ",
    " claims", "claims\n", "claims\0", "claims%2e", "%63laims", "Claims", "CLAIMS", "сlaims", "ｃｌａｉｍｓ",
    "cla\u200bims", "claims\u202e", "claims--v1/", "claims--V1", "claims--v01", "claims--v1 ", "claims--", "--v1",
    "claims-v1", "claims--v１", "claims--v1-0123456789abcdef", "../../etc/passwd", "/etc/passwd", "file:///etc/passwd",
    "..%2f..%2fetc%2fpasswd", "*", "claims*", "?", "{claims}", "${claims}", "{{claims}}", "None", "null", "base",
    "unknown",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_only_looks_like_one_is_nobodys(shared: served.Server, name: str) -> None:
    for token in (A, B):
        said = ask(shared, name, token)
        assert (said.status_code, said.json()["error"]["code"]) == (404, "model_not_found")
    headers = {"authorization": f"Bearer {A}"}
    quoted = "".join(f"%{byte:02x}" for byte in name.encode())
    found = httpx2.get(f"{shared.url}/models/{quoted}", headers=headers, trust_env=False)
    assert found.status_code == 404


TARGETS = (
    "/agent/state", "//agent/state", "/./agent/state", "/v1/../agent/state", "/v1/models/../../agent/state",
    "/v1/%2e%2e/agent/state", "/%61gent/state", "/agent%2fstate", "/v1/../metrics", "/metrics", "/ready",
    "/v1/models/..%2f..%2fmetrics", "/v1/models/%2e%2e/%2e%2e/etc/passwd", "/v1/models//etc/passwd", "/docs", "/redoc",
    "/v1/load_lora_adapter", "/v1/adapters", "/invocations", "/v1/chat/completions/", "http://127.0.0.1/agent/state",
    "/v1/models/claims/../../../agent/state", "/health/../agent/state", "/agent/state?x=/health",
    "/v1/models/claims%00",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_path_leads_to_the_agent_or_to_a_file(shared: served.Server, target: str, method: str) -> None:
    """Sent as it stands: a client's library would tidy it up."""
    lines = (f"{method} {target} HTTP/1.1", "host: x", f"authorization: Bearer {served.ADMIN}", "content-length: 0")
    with socket.create_connection(("127.0.0.1", shared.client_port), 10) as made:
        made.sendall("\r\n".join((*lines, "connection: close", "", "")).encode())
        said = b""
        while part := made.recv(65536):
            said += part
    status = int(said.split()[1])
    assert status in (401, 404, 405), said
    assert json.loads(said.split(b"\r\n\r\n", 1)[1])["error"]["code"]
    assert b"bootId" not in said


@pytest.mark.parametrize("token", [A, B, "", "none", served.ADMIN[:-1], f"{served.ADMIN} x"])
def test_the_agents_port_refuses_clients_and_knows_none_of_their_routes(shared: served.Server, token: str) -> None:
    assert shared.get("/agent/state", token).status_code == 401
    url = f"http://127.0.0.1:{shared.agent_port}"
    headers = {"authorization": f"Bearer {token}"} if token else {}
    said = httpx2.post(f"{url}/agent/aliases", json={"dropped": ["claims"]}, headers=headers, trust_env=False)
    assert said.status_code == 401
    for path in ("/v1/models", "/v1/completions", "/v1/chat/completions", "/openapi.json"):
        assert httpx2.post(url + path, json={}, headers=headers, trust_env=False).status_code == 404
    assert ask(shared, "claims", A).status_code == 200


def test_the_operators_token_opens_no_model(shared: served.Server) -> None:
    assert ask(shared, "claims", served.ADMIN).status_code == 401


def test_no_header_names_another_version(shared: served.Server, shop: Shop) -> None:
    tricks = {
        "x-topcoat-version": "claims--v2", "x-model": "triage", "x-original-url": "/agent/state", "host": "triage",
        "x-forwarded-for": "127.0.0.1", "x-forwarded-host": "triage", "x-http-method-override": "GET",
        "x-session-id": "v2",
    }  # fmt: skip
    said = ask(shared, "claims", A, **tricks)
    assert said.json()["system_fingerprint"] == shop.digest("v1")
    assert said.headers["x-topcoat-version"] == "claims--v1"
    twice = (
        b'{"model": "triage", "model": "claims", "prompt": "x", "max_tokens": 1}'  # the last one counts, for all of us
    )
    assert shared.post("/completions", twice, authorization=f"Bearer {B}").status_code == 401


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of equal length, by the function that is made for it, also where nothing was shown."""
    seen: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def compared(one: str, other: str) -> bool:
        seen.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compared)
    for shown in (None, "", "x", "x" * 5000, "né"):
        assert not envelope.is_token(shown, "0" * 64)
    assert len(seen) == 5
    assert {(len(a), len(b)) for a, b in seen} == {(64, 64)}


def test_nothing_that_clients_wrote_is_told_to_anybody_else(shared: served.Server) -> None:
    """In whatever place it was written, and however the request ended."""
    secret = f"Bearer {CANARY}"
    bodies: list[Any] = [
        {"model": "claims", "prompt": CANARY, "max_tokens": 2, "user": CANARY, "stop": [CANARY]},
        {"model": "claims", "prompt": CANARY, "max_tokens": 2, "stream": True},
        {"model": "claims", "prompt": CANARY, "max_tokens": 10**6}, {"model": CANARY, "prompt": CANARY},
        {"model": "claims", "prompt": CANARY, CANARY.replace("-", "_"): CANARY}, f'{{"{CANARY}'.encode(),
        {"model": "claims", "prompt": [CANARY, 1]}, {"model": "claims", "prompt": CANARY, "temperature": CANARY},
    ]  # fmt: skip
    for token in (f"Bearer {A}", secret):
        for body in bodies:
            said = shared.post("/completions", body, authorization=token, **{"x-session-id": CANARY})
            assert CANARY not in str(dict(said.headers))
    httpx2.get(f"{shared.url}/{CANARY}?{CANARY}={CANARY}", headers={CANARY: CANARY}, trust_env=False)
    for place in (
        shared.log.read_text(),
        shared.output.read_text(),
        shared.get("/metrics").text,
        json.dumps(shared.state()),
    ):
        assert CANARY not in place
        assert A not in place
