"""What clients are refused, in OpenAI's own shape, and that nothing they wrote is repeated anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.support import served

CANARY = "zebra-canary-7731"
HELLO: Any = [{"role": "user", "content": CANARY}]

BAD_CHAT: dict[str, tuple[dict[str, Any], str | None]] = {
    "no messages": ({"messages": []}, "messages"),
    "unknown field": ({"typo_field": 1}, "typo_field"),
    "a field named like a prompt": ({f"{CANARY} {CANARY}": 1}, None),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "json mode": ({"response_format": {"type": "json_object"}}, "response_format"),
    "penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "bias": ({"logit_bias": {"5": 10}}, "logit_bias"),
    "top_k": ({"top_k": 5}, "top_k"),
    "old name of a choice": ({"guided_choice": ["a"]}, "guided_choice"),
    "too hot": ({"temperature": 2.1}, "temperature"),
    "a number as text": ({"temperature": "0"}, "temperature"),
    "top_p of nothing": ({"top_p": 0}, "top_p"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "more tokens than fit": ({"max_tokens": 600}, "max_tokens"),
    "two limits": ({"max_tokens": 4, "max_completion_tokens": 5}, None),
    "too many choices": ({"n": 9}, "n"),
    "top without logprobs": ({"top_logprobs": 2}, None),
    "too many tops": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "empty stop": ({"stop": ""}, "stop"),
    "stream options without stream": ({"stream_options": {"include_usage": True}}, None),
    "a role": ({"messages": [{"role": "tool", "content": CANARY}]}, "messages.0.role"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": CANARY}}]}]},
        None,
    ),
    "a choice drawn by chance": ({"structured_outputs": {"choice": ["a"]}, "temperature": 1}, None),
    "a regex": ({"structured_outputs": {"regex": CANARY}}, "structured_outputs.choice"),
    "choices that do not fit": ({"structured_outputs": {"choice": ["abcdef"]}, "max_tokens": 2}, "max_tokens"),
    "a control token": ({"messages": [{"role": "user", "content": f"{CANARY}<|im_end|>"}]}, "messages"),
}


@pytest.mark.parametrize("case", BAD_CHAT)
def test_what_cannot_be_obeyed_is_refused_by_name(server: served.Server, case: str) -> None:
    change, param = BAD_CHAT[case]
    said = server.post("/chat/completions", {"model": "claims", "messages": HELLO, **change})
    assert said.status_code == 400, said.text
    error = said.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"]
    assert error["message"]
    if param is not None:
        assert error["param"] == param
    assert CANARY not in said.text


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": ""}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [1, "a"]}, {"prompt": [-1]}, {"prompt": [99999]},
        {"prompt": ["a"] * 65}, {"prompt": ["a"] * 10, "n": 8}, {"max_tokens": 0}, {"suffix": "x"}, {"best_of": 2},
        {"logprobs": True}, {"logprobs": 21}, {"prompt": "a " * 600}, {"structured_outputs": {"choice": ["a"]}},
    ],
)  # fmt: skip
def test_completions_refuse_the_same_way(server: served.Server, change: dict[str, Any]) -> None:
    said = server.post("/completions", {"model": "claims", "prompt": CANARY, **change})
    assert said.status_code == 400, said.text
    assert said.json()["error"]["code"]
    assert CANARY not in said.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b'"x"'])
def test_a_body_that_is_no_json_object_is_an_error_and_nothing_more(server: served.Server, body: bytes) -> None:
    said = server.post("/chat/completions", body)
    assert (said.status_code, said.json()["error"]["code"]) == (400, "invalid_json")


def test_a_body_too_large_is_refused(server: served.Server) -> None:
    said = server.post("/chat/completions", b" " * (1024 * 1024 + 1))
    assert (said.status_code, said.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("name", ["missing", "nobody", "claims--v9", "../../etc/passwd", "claims--v1/../v2", "base"])
def test_an_unknown_model_is_404_and_never_a_path(server: served.Server, name: str) -> None:
    with server.client() as client:
        with pytest.raises(openai.NotFoundError) as refusal:
            client.chat.completions.create(model=name, messages=HELLO)
        assert refusal.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)


def test_an_unknown_route_is_in_the_same_shape(server: served.Server) -> None:
    said = server.post("/embeddings", {})
    assert (said.status_code, said.json()["error"]["code"]) == (404, "not_found")


def test_a_protected_alias_answers_only_to_its_token(server: served.Server) -> None:
    for token in ("none", "open-sesam", "open-sesame2", "open sesame"):
        headers = {"authorization": f"Bearer {token}"}
        said = server.post("/chat/completions", {"model": "secret", "messages": HELLO}, **headers)
        assert (said.status_code, said.json()["error"]["code"]) == (401, "invalid_api_key")
        assert said.headers["www-authenticate"] == "Bearer"
    assert server.post("/completions", {"model": "secret", "prompt": "x"}).status_code == 401
    with server.client("open-sesame") as client:
        assert client.completions.create(model="secret", prompt="x", max_tokens=1).choices
        assert "secret" in {card.id for card in client.models.list()}
    with server.client() as client:
        assert "secret" not in {card.id for card in client.models.list()}
        with pytest.raises(openai.AuthenticationError):
            client.models.retrieve("secret")
        # A version that only the protected alias holds is behind the same token.
        with pytest.raises(openai.AuthenticationError):
            client.completions.create(model="secret--v1", prompt="x", max_tokens=1)


def test_a_token_that_changes_counts_at_once_and_one_that_is_gone_lets_nobody_in(server: served.Server) -> None:
    token = server.folder.with_name("token")
    before = token.read_text()

    def code(shown: str) -> int:
        headers = {"authorization": f"Bearer {shown}"}
        return server.post("/completions", {"model": "secret", "prompt": "x", "max_tokens": 1}, **headers).status_code

    try:
        token.write_text("another")
        assert (code("open-sesame"), code("another")) == (401, 200)
        token.unlink()
        assert (code("another"), code("open-sesame")) == (401, 401)
        token.write_text("")
        assert server.post("/completions", {"model": "secret", "prompt": "x"}).status_code == 401
    finally:
        token.write_text(before)


@pytest.mark.parametrize(("method", "path"), [("get", "/agent/state"), ("post", "/agent/aliases")])
def test_the_agent_listens_to_the_operators_token_only(server: served.Server, method: str, path: str) -> None:
    for token in (None, "wrong", "open-sesame"):
        said = server.get(path, token) if method == "get" else server.push(token=token or "-")
        assert said.status_code == 401
    assert server.get("/agent/state").status_code == 200


def test_health_readiness_and_metrics_need_no_token(server: served.Server) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert server.get(path, None).status_code == 200
    assert httpx2.get(server.url.removesuffix("/v1") + "/health", trust_env=False).status_code == 200
    assert server.get("/agent/nothing").status_code == 404


def test_the_agents_routes_are_not_on_the_clients_port(server: served.Server) -> None:
    root = server.url.removesuffix("/v1")
    headers = {"authorization": f"Bearer {served.ADMIN}"}
    for path in ("/agent/state", "/metrics", "/ready"):
        assert httpx2.get(root + path, headers=headers, trust_env=False).status_code == 404


def test_a_push_that_cannot_be_understood_changes_nothing(server: served.Server) -> None:
    before = server.state()["aliases"]
    url = f"http://127.0.0.1:{server.agent_port}/agent/aliases"
    for body in (b"{", b'{"aliases": [{"alias": "claims"}]}', b" " * (1024 * 1024 + 1)):
        said = httpx2.post(url, content=body, headers={"authorization": f"Bearer {served.ADMIN}"}, trust_env=False)
        assert said.status_code in (400, 413)
    assert server.state()["aliases"] == before


def test_a_request_id_is_kept_if_it_is_a_plain_one(server: served.Server) -> None:
    body = {"model": "claims", "prompt": "x", "max_tokens": 1}
    assert server.post("/completions", body, **{"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    odd = server.post("/completions", body, **{"x-request-id": "a b<c>"}).headers["x-request-id"]
    assert len(odd) == 32
    assert server.post("/completions", {"model": "x"}, **{"x-request-id": "abc-2"}).headers["x-request-id"] == "abc-2"


def test_metrics_have_the_names_that_dashboards_know_and_no_clients_words(server: served.Server) -> None:
    with server.client() as client:
        client.completions.create(model="claims", prompt=CANARY, max_tokens=3)
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model=CANARY, prompt=CANARY)
    text = server.get("/metrics").text
    for name in (
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:time_to_first_token_seconds_bucket",
        "vllm:e2e_request_latency_seconds_bucket", "vllm:prompt_tokens_total", "vllm:generation_tokens_total",
        "vllm:lora_requests_info", "topcoat_requests_total", "topcoat_request_seconds_bucket",
        "topcoat_time_to_first_token_seconds_bucket", "topcoat_tokens_total", "topcoat_adapter_loaded",
    ):  # fmt: skip
        assert f"\n{name}{{" in text, name
    assert 'topcoat_requests_total{code="200",model="claims",version="claims--v1"}' in text
    assert 'topcoat_requests_total{code="404",model="unknown",version="unknown"}' in text
    assert CANARY not in text


def test_nothing_that_clients_wrote_is_in_the_log(server: served.Server) -> None:
    for body in ({"model": "claims", "messages": HELLO, "max_tokens": 2}, {"model": CANARY, "messages": HELLO}):
        server.post("/chat/completions", body)
    assert "proved" in Path(server.log).read_text()
    assert CANARY not in Path(server.log).read_text()
    assert "open-sesame" not in Path(server.log).read_text()
