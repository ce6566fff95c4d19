"""What clients are answered, by the real openai client, is what transformers itself computes."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import httpx2
import openai
import pytest
import torch

from tests.serve.conftest import LABELS, SYSTEM, Shop
from tests.support import served
from topcoat_trainer import adapter, ask

HELLO: Any = [{"role": "user", "content": "Where is the claim?"}]


def chat_ids(shop: Shop, messages: list[dict[str, str]]) -> list[int]:
    tokenizer: Any = shop.base.tokenizer
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"])


def text(shop: Shop, ids: list[int]) -> str:
    kept = ids[: ids.index(2)] if 2 in ids else ids
    return str(shop.base.tokenizer.decode(kept, skip_special_tokens=True))


MODELS = [("claims", "v1"), ("claims--v2", "v2"), ("claims--v3", "v3"), (served.BASE, None)]


@pytest.mark.parametrize(("name", "version"), MODELS)
def test_a_greedy_answer_is_that_of_transformers_and_peft(
    server: served.Server, shop: Shop, name: str, version: str | None
) -> None:
    ids = chat_ids(shop, HELLO)
    expected = served.greedy(shop.base, shop.folder(version) if version else None, ids, 24)
    with server.client() as client:
        raw = client.chat.completions.with_raw_response.create(model=name, messages=HELLO, max_tokens=24)
        said = raw.parse()
    assert said.choices[0].message.content == text(shop, expected)
    assert said.usage
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (len(ids), len(expected))
    assert said.model == name
    digest = shop.digest(version) if version else f"sha256:{shop.base.digest}"
    assert said.system_fingerprint == digest
    assert raw.headers["x-topcoat-version"] == (f"claims--{version}" if version else "base")
    assert raw.headers["x-request-id"]


def test_the_versions_and_the_base_answer_differently(server: served.Server) -> None:
    with server.client() as client:
        said = [
            client.chat.completions.create(model=name, messages=HELLO, max_tokens=24).choices[0].message.content
            for name, _ in MODELS
        ]
    assert len(set(said)) == 4


def test_a_stream_is_the_same_answer_in_pieces_and_ends_with_the_usage(server: served.Server) -> None:
    with server.client() as client:
        whole = client.chat.completions.create(model="claims", messages=HELLO, max_tokens=24)
        parts = list(
            client.chat.completions.create(
                model="claims", messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}
            )
        )
    assert parts[0].choices[0].delta.role == "assistant"
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == whole.choices[0].finish_reason
    assert parts[-1].choices == []
    assert parts[-1].usage == whole.usage
    assert len(parts) > 10
    assert {part.system_fingerprint for part in parts} == {whole.system_fingerprint}


def test_a_stream_is_server_sent_events_that_end_with_done(server: served.Server) -> None:
    body = {"model": "claims", "messages": HELLO, "max_tokens": 3, "stream": True}
    said = server.post("/chat/completions", body)
    assert said.headers["content-type"].startswith("text/event-stream")
    events = said.text.split("\n\n")
    assert events[-1] == ""
    assert events[-2] == "data: [DONE]"
    for event in events[:-2]:
        chunk = json.loads(event.removeprefix("data: "))
        assert chunk["object"] == "chat.completion.chunk"
        assert "usage" not in chunk


@pytest.mark.parametrize(("name", "version"), MODELS)
def test_log_probabilities_with_echo_are_those_of_a_whole_pass(
    server: served.Server, shop: Shop, name: str, version: str | None
) -> None:
    ids = [1, *range(20, 200, 3), 40]
    with server.client() as client:
        said = client.completions.create(
            model=name, prompt=[ids, [5, 6]], max_tokens=1, echo=True, logprobs=3, temperature=0
        )
    for choice, prompt in zip(said.choices, (ids, [5, 6]), strict=True):
        with adapter.using(shop.base, shop.folder(version) if version else None) as model, torch.no_grad():
            table = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        found = choice.logprobs
        assert found is not None
        assert found.token_logprobs is not None
        assert found.token_logprobs[0] is None
        own = [float(table[i, token]) for i, token in enumerate(prompt[1:])]
        assert found.token_logprobs[1:-1] == pytest.approx(own, abs=1e-4)
        assert found.token_logprobs[-1] == pytest.approx(float(table[-1].max()), abs=1e-4)
        assert found.tokens is not None
        assert len(found.tokens) == len(prompt) + 1
        assert found.top_logprobs is not None
        for row, top in zip(table, found.top_logprobs[1:], strict=True):
            assert max(top.values()) == pytest.approx(float(row.max()), abs=1e-4)
        assert choice.text.startswith(str(shop.base.tokenizer.decode(prompt)))
        assert found.text_offset
        assert found.text_offset[-1] == len("".join(found.tokens[:-1]))
    assert [choice.index for choice in said.choices] == [0, 1]


def test_a_prompt_alone_can_be_scored(server: served.Server) -> None:
    with server.client() as client:
        said = client.completions.create(model="claims", prompt="a claim", max_tokens=0, echo=True, logprobs=0)
    choice = said.choices[0]
    assert (choice.text, choice.finish_reason) == ("a claim", "length")
    assert choice.logprobs
    assert choice.logprobs.tokens
    assert "".join(choice.logprobs.tokens) == "a claim"
    assert said.usage
    assert said.usage.completion_tokens == 0


def test_chat_log_probabilities_are_of_the_answers_tokens(server: served.Server, shop: Shop) -> None:
    ids = chat_ids(shop, HELLO)
    with server.client() as client:
        said = client.chat.completions.create(
            model="claims", messages=HELLO, max_tokens=5, logprobs=True, top_logprobs=4
        )
    answer = served.greedy(shop.base, shop.folder("v1"), ids, 5)
    with adapter.using(shop.base, shop.folder("v1")) as model, torch.no_grad():
        table = model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
    assert said.choices[0].logprobs
    content = said.choices[0].logprobs.content or []
    assert len(content) == len(answer)
    for place, (token, entry) in enumerate(zip(answer, content, strict=True)):
        row = table[len(ids) - 1 + place]
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
        top = [float(value) for value in row.topk(4).values]
        assert [one.logprob for one in entry.top_logprobs] == pytest.approx(top, abs=1e-4)
        assert entry.token == shop.base.tokenizer.decode([token])


def test_what_is_asked_after_a_stop_is_never_told(server: served.Server) -> None:
    with server.client() as client:
        whole = client.completions.create(model="claims", prompt="tell", max_tokens=30).choices[0].text
        middle = whole[4:7]
        cut = whole[: whole.index(middle)]
        for stop in (middle, ["never said", middle]):
            said = client.completions.create(model="claims", prompt="tell", max_tokens=30, stop=stop).choices[0]
            assert (said.text, said.finish_reason) == (cut, "stop")
            parts = client.completions.create(model="claims", prompt="tell", max_tokens=30, stop=stop, stream=True)
            assert "".join(part.choices[0].text for part in parts) == cut


def test_a_seed_repeats_chance_and_another_one_does_not(server: served.Server) -> None:
    def drawn(**more: Any) -> list[str]:
        with server.client() as client:
            said = client.completions.create(model="claims", prompt="x", max_tokens=16, temperature=1.5, **more)
        return [choice.text for choice in said.choices]

    assert drawn(seed=7) == drawn(seed=7)
    assert drawn(seed=7) != drawn(seed=8)
    assert drawn(seed=7, n=3)[0] == drawn(seed=7)[0]
    assert len(set(drawn(seed=7, n=3))) == 3
    assert drawn() != drawn()
    greedy = drawn(top_p=1e-9, seed=3)
    assert greedy == drawn(top_p=1e-9, seed=4)


def chances(choice: Any) -> list[float]:
    return [token.logprob for token in choice.logprobs.content]


def test_the_shared_system_prompt_is_added_where_the_request_has_none(server: served.Server, shop: Shop) -> None:
    own: Any = [{"role": "system", "content": SYSTEM}, *HELLO]
    other: Any = [{"role": "system", "content": "Something else."}, *HELLO]
    with server.client() as client:
        bare, explicit, changed = (
            client.chat.completions.create(model="claims--v4", messages=messages, max_tokens=8, logprobs=True)
            for messages in (HELLO, own, other)
        )
        plain = client.chat.completions.create(model="claims", messages=HELLO, max_tokens=1)
    first, second = bare.choices[0], explicit.choices[0]
    assert first.message == second.message
    # What the second one repeats is not computed again, so it is rounded elsewhere.
    assert chances(first) == pytest.approx(chances(second), abs=1e-4)
    assert bare.choices != changed.choices
    assert bare.usage
    assert plain.usage
    assert bare.usage.prompt_tokens == len(chat_ids(shop, own)) > plain.usage.prompt_tokens


def test_a_choice_is_the_likeliest_label_with_every_labels_probability(server: served.Server, shop: Shop) -> None:
    oracle = ask.Oracle()
    expected = oracle.answer(
        ask.Request(text="a fence", version=str(shop.folder("v4")), base_model=str(shop.base.path))
    )
    oracle.close()
    extra = {"structured_outputs": {"choice": LABELS}}
    messages: Any = [{"role": "user", "content": "a fence"}]
    with server.client() as client:
        said = client.chat.completions.create(
            model="claims--v4", messages=messages, logprobs=True, top_logprobs=4, extra_body=extra
        )
        streamed = list(
            client.chat.completions.create(model="claims--v4", messages=messages, stream=True, extra_body=extra)
        )
        card = client.models.retrieve("claims--v4").model_dump()
    assert card["labels"] == LABELS
    assert said.choices[0].message.content == expected["answer"]
    assert said.choices[0].logprobs
    content = said.choices[0].logprobs.content or []
    shares = {one.token: math.exp(one.logprob) for one in content[0].top_logprobs}
    assert shares == pytest.approx(expected["probabilities"], abs=1e-4)
    assert content[0].token == expected["answer"]
    assert math.exp(content[0].logprob) == pytest.approx(max(shares.values()))
    assert "".join(part.choices[0].delta.content or "" for part in streamed) == expected["answer"]


def test_models_are_listed_with_what_answers(server: served.Server, shop: Shop) -> None:
    with server.client() as client:
        listed = {card.id: card.model_dump() for card in client.models.list()}
        alias = client.models.retrieve("claims").model_dump()
        base = client.models.retrieve(served.BASE).model_dump()
    assert set(listed) == {"claims", "claims--v1", "claims--v2", "claims--v3", "claims--v4", served.BASE}
    assert alias == listed["claims"]
    assert (alias["root"], alias["parent"], alias["version"]) == ("claims--v1", served.BASE, "v1")
    assert alias["digest"] == shop.digest("v1")
    assert alias["max_model_len"] == 512
    assert (base["root"], base["parent"], base["digest"]) == (served.BASE, None, f"sha256:{shop.base.digest}")


def test_fields_that_say_nothing_are_accepted(server: served.Server) -> None:
    body = {
        "model": "claims", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "tools": None,
        "frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "logit_bias": {},
        "max_completion_tokens": 2, "user": "someone",
    }  # fmt: skip
    said = server.post("/chat/completions", body)
    assert said.status_code == 200
    assert said.json()["usage"]["completion_tokens"] <= 2


def test_requests_share_the_model_in_turns(server: served.Server) -> None:
    """A short request that comes after a long one ends before it."""
    with server.client() as client:
        long = client.completions.create(model="claims", prompt="a", max_tokens=400, stream=True, logprobs=0)
        begun = next(iter(long))
        short = client.completions.create(model="claims--v2", prompt="b", max_tokens=4)
        assert isinstance(short, openai.types.Completion)
        rest = list(long)
    assert begun.choices
    assert rest
    assert rest[-1].choices[0].finish_reason in ("stop", "length")


def test_on_a_connection_that_is_kept_small_answers_come_at_once(server: served.Server) -> None:
    """Not 40 ms later, when the client's system would say at last that it has the head of the answer."""
    taken = []
    with httpx2.Client(trust_env=False) as client:
        for _ in range(30):
            started = time.perf_counter()
            assert client.get(f"{server.url}/models").status_code in (200, 401)
            taken.append(time.perf_counter() - started)
    assert sorted(taken)[10] < 0.03
