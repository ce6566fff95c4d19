"""What a client of OpenAI's protocol may rely on, put to our server, or unchanged to another one such as vLLM:

    TOPCOAT_CONFORMANCE_URL=http://127.0.0.1:8000/v1 TOPCOAT_CONFORMANCE_MODEL=NAME \
    TOPCOAT_CONFORMANCE_ENGINE=vllm pytest tests/conformance

docs/reference/serving-api.md says how vLLM was started. `only_ours` marks each documented difference with its reason.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from tests.support.conformance import ENGINE, Target, adds_up, is_an_error, joined, only_ours, plain, texts
from tests.support.mistakes import BODIES, MISTAKES

IDS = [20, 31, 42, 53, 64, 75, 86]
NEAR = 1e-4
DRAWN: dict[str, Any] = {"temperature": 1.5, "max_tokens": 16}


@pytest.fixture(scope="module")
def before(target: Target) -> str:
    return str(texts(target.complete(max_tokens=30))[0])


# --- chat


def test_a_chat_is_answered_in_openais_shape(target: Target) -> None:
    said = target.chat()
    assert (said.object, said.model, len(said.choices)) == ("chat.completion", target.model, 1)
    assert said.id
    assert said.created > 1_700_000_000
    choice = said.choices[0]
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.finish_reason in ("stop", "length")
    adds_up(said.usage)


def test_temperature_0_takes_the_likeliest_and_repeats_it(target: Target) -> None:
    said = [target.chat(logprobs=True, top_logprobs=2) for _ in range(2)]
    assert texts(said[0]) == texts(said[1])
    for token in said[0].choices[0].logprobs.content:
        assert token.logprob == pytest.approx(max(top.logprob for top in token.top_logprobs), abs=NEAR)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_chat_is_as_long_as_it_may_be(target: Target, name: str) -> None:
    said = target.chat(**dict[str, Any]({"max_tokens": openai.omit, name: 3}))
    assert said.usage.completion_tokens <= 3
    assert said.choices[0].finish_reason == ("length" if said.usage.completion_tokens == 3 else "stop")


def test_a_chat_without_a_limit_ends_within_the_context(target: Target) -> None:
    said = target.chat(max_tokens=openai.omit)
    assert said.usage.total_tokens <= target.card["max_model_len"]


def test_a_system_message_is_read(target: Target) -> None:
    user = {"role": "user", "content": "Where?"}
    bare, told = (target.chat(messages=m) for m in ([user], [{"role": "system", "content": "Say the label."}, user]))
    assert told.usage.prompt_tokens > bare.usage.prompt_tokens


def test_a_conversation_goes_on_with_what_was_answered(target: Target) -> None:
    first = {"role": "user", "content": "Where?"}
    said = target.chat(messages=[first]).choices[0].message
    again = target.chat(
        messages=[first, {"role": "assistant", "content": "There."}, {"role": "user", "content": "So?"}]
    )
    assert again.usage.prompt_tokens > target.chat(messages=[first]).usage.prompt_tokens
    answered = {**said.model_dump(), "content": "There."}
    sent = target.raw(
        "/chat/completions", {"model": target.model, "messages": [first, answered, first], "max_tokens": 1}
    )
    assert sent.status_code == 200, sent.text


def test_parts_of_text_are_text(target: Target) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Where is it?"}]}]
    assert texts(target.chat(messages=parts)) == texts(target.chat("Where is it?"))


def test_chat_log_probabilities_have_an_entry_for_each_token(target: Target) -> None:
    said = target.chat(logprobs=True, top_logprobs=4, max_tokens=5)
    content = said.choices[0].logprobs.content
    assert len(content) == said.usage.completion_tokens
    for token in content:
        found = [top.logprob for top in token.top_logprobs]
        assert len(found) == 4
        assert found == sorted(found, reverse=True)
        assert token.logprob <= 0
        assert bytes(token.bytes).decode() == token.token


def test_chat_log_probabilities_are_told_only_on_request(target: Target) -> None:
    assert target.chat().choices[0].logprobs is None
    assert target.chat(logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


# --- chance, for both kinds


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_seed_repeats_chance_and_another_one_does_not(target: Target, kind: str) -> None:
    ask = getattr(target, kind)
    drawn = [texts(ask(**DRAWN, seed=seed)) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_tiny_top_p_leaves_only_the_likeliest(target: Target, kind: str) -> None:
    ask = getattr(target, kind)
    assert texts(ask(temperature=1.0, top_p=1e-6, seed=3)) == texts(ask())


@pytest.mark.parametrize("kind", ["chat", "complete"])
@pytest.mark.parametrize("temperature", [1e-300, 1e-7, 1e-3])
def test_hardly_any_temperature_is_greedy_and_no_error(target: Target, kind: str, temperature: float) -> None:
    ask = getattr(target, kind)
    assert texts(ask(temperature=temperature, seed=1)) == texts(ask())


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_several_answers_are_numbered_and_differ(target: Target, kind: str) -> None:
    said = getattr(target, kind)(**DRAWN, n=3, seed=5)
    assert [choice.index for choice in said.choices] == [0, 1, 2]
    assert len(set(texts(said))) == 3
    adds_up(said.usage)


# --- stop


@pytest.mark.parametrize("kind", ["chat", "complete"])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_an_answer_ends_before_its_stop_wherever_tokens_begin(target: Target, kind: str, length: int) -> None:
    ask = getattr(target, kind)
    # Chance, repeated by its seed, says more different things than a tiny model's likeliest.
    drawn: dict[str, Any] = {"temperature": 1.8, "max_tokens": 30}
    found = ((seed, text) for seed in range(50) for text in texts(ask(**drawn, seed=seed)))
    seed, whole = next((seed, text) for seed, text in found if plain(text, length))
    stop = plain(whole, length)
    for given in (stop, ["never said", stop]):
        said = ask(**drawn, seed=seed, stop=given)
        assert (texts(said)[0], said.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
        assert joined(ask(**drawn, seed=seed, stop=given, stream=True)) == whole[: whole.index(stop)]


def test_a_stop_that_does_not_come_changes_nothing(target: Target, before: str) -> None:
    assert texts(target.complete(max_tokens=30, stop=["this is never said by it"])) == [before]


# --- streams


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_stream_is_the_whole_answer_in_pieces(target: Target, kind: str) -> None:
    ask = getattr(target, kind)
    whole, parts = ask(), ask(stream=True)
    assert joined(parts) == texts(whole)[0]
    ends = [choice.finish_reason for part in parts for choice in part.choices]
    assert ends[-1] == whole.choices[0].finish_reason
    assert set(ends[:-1]) <= {None}
    assert len({part.id for part in parts}) == 1
    assert all(part.usage is None for part in parts)


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_a_stream_tells_its_usage_last_if_asked_to(target: Target, kind: str) -> None:
    ask = getattr(target, kind)
    parts = ask(stream=True, stream_options={"include_usage": True})
    assert parts[-1].choices == []
    adds_up(parts[-1].usage)
    assert parts[-1].usage.total_tokens == ask().usage.total_tokens
    assert all(part.usage is None for part in parts[:-1])


def test_a_streams_first_chunk_tells_the_role(target: Target) -> None:
    parts = target.chat(stream=True)
    assert parts[0].choices[0].delta.role == "assistant"
    assert {part.object for part in parts} == {"chat.completion.chunk"}


def test_streams_of_several_answers_are_told_apart(target: Target) -> None:
    said = target.chat(**DRAWN, n=2, seed=5)
    parts = target.chat(**DRAWN, n=2, seed=5, stream=True)
    assert [joined(parts, index) for index in (0, 1)] == texts(said)


def test_a_stream_tells_the_same_log_probabilities(target: Target) -> None:
    whole = target.chat(logprobs=True, top_logprobs=1).choices[0].logprobs.content
    found = [
        part.choices[0].logprobs for part in target.chat(logprobs=True, top_logprobs=1, stream=True) if part.choices
    ]
    tokens = [token for logprobs in found if logprobs for token in logprobs.content]
    assert [token.logprob for token in tokens] == pytest.approx([token.logprob for token in whole], abs=NEAR)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_events_are_framed_as_such_and_end_with_done(target: Target, path: str) -> None:
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else {"prompt": "Hi"}
    said = target.raw(path, {"model": target.model, **asked, "max_tokens": 3, "stream": True})
    assert said.headers["content-type"].startswith("text/event-stream")
    *events, done, end = said.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    for event in events:
        assert json.loads(event.removeprefix("data: "))["model"] == target.model


# --- completions


def test_a_prompt_is_continued_in_openais_shape(target: Target) -> None:
    said = target.complete(max_tokens=openai.omit)
    assert (said.object, said.model) == ("text_completion", target.model)
    assert said.choices[0].logprobs is None
    assert said.usage.completion_tokens <= 16
    adds_up(said.usage)


def test_prompts_of_text_are_answered_in_their_order(target: Target) -> None:
    words = ["tell the claim", "and the label", "x"]
    assert texts(target.complete(words)) == [texts(target.complete(one))[0] for one in words]


def test_prompts_of_tokens_are_answered_in_their_order(target: Target) -> None:
    rows = [IDS, IDS[:3], [99]]
    said = target.complete(rows)
    assert texts(said) == [texts(target.complete(row))[0] for row in rows]
    assert said.usage.prompt_tokens == 7 + 3 + 1


def test_each_prompt_has_its_own_answers_one_after_the_other(target: Target) -> None:
    said = target.complete(["tell the claim", "x"], **DRAWN, n=2, seed=1)
    assert [choice.index for choice in said.choices] == [0, 1, 2, 3]
    assert texts(said)[:2] == texts(target.complete("tell the claim", **DRAWN, n=2, seed=1))


@pytest.mark.parametrize("most", [0, 1, 5])
def test_log_probabilities_are_four_lists_of_equal_length(target: Target, most: int) -> None:
    said = target.complete(logprobs=most, max_tokens=5)
    found = said.choices[0].logprobs
    lengths = {len(row) for row in (found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset)}
    assert lengths == {said.usage.completion_tokens}
    for token, value, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert 1 <= len(top) <= most + 1
        assert token in top
        if len(top) >= most:  # else some of the likeliest have the same text
            assert value == pytest.approx(max(top.values()), abs=NEAR)


def test_an_echo_begins_with_the_prompt(target: Target, before: str) -> None:
    said = target.complete(echo=True, max_tokens=30)
    assert texts(said) == [f"tell the claim{before}"]
    assert joined(target.complete(echo=True, max_tokens=30, stream=True)) == texts(said)[0]


def test_a_prompt_alone_is_scored(target: Target) -> None:
    said = target.complete(IDS, echo=True, max_tokens=0, logprobs=1)
    found = said.choices[0].logprobs
    assert found.token_logprobs[0] is None
    assert len(found.token_logprobs) == len(IDS)
    if ENGINE == "topcoat":  # vLLM makes one token, tells of none, and counts it
        assert said.usage.completion_tokens == 0
    assert found.text_offset[0] == 0
    assert found.text_offset == sorted(found.text_offset)


def test_echo_and_answer_have_the_log_probabilities_of_each_alone(target: Target) -> None:
    both, alone, answer = (
        target.complete(IDS, logprobs=1, **more).choices[0].logprobs.token_logprobs
        for more in ({"echo": True}, {"echo": True, "max_tokens": 0}, {})
    )
    assert both[1:] == pytest.approx([*alone[1:], *answer], abs=NEAR)


def test_a_longer_prompt_has_its_beginnings_log_probabilities(target: Target) -> None:
    long, short = (
        target.complete(ids, echo=True, max_tokens=0, logprobs=1).choices[0].logprobs.token_logprobs
        for ids in (IDS, IDS[:4])
    )
    assert long[1:4] == pytest.approx(short[1:], abs=NEAR)


def test_answers_are_the_same_in_a_crowd(target: Target) -> None:
    words = [f"tell {number}" for number in range(8)]
    alone = [texts(target.complete(one)) for one in words]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: texts(target.complete(one)), words)) == alone


# --- models, headers


def test_the_model_is_listed(target: Target) -> None:
    card = target.card
    assert card["object"] == "model"
    assert card["max_model_len"] > 0
    assert {"created", "owned_by", "root", "parent"} <= set(card)


@only_ours("it has no route for one model")
def test_one_model_is_retrieved(target: Target) -> None:
    with target.client() as client:
        assert client.models.retrieve(target.model).model_dump() == target.card
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody/of--this-name")


def test_a_requests_own_id_comes_back(target: Target) -> None:
    body = {"model": target.model, "prompt": "x", "max_tokens": 1}
    assert target.raw("/completions", body, **{"x-request-id": "case-1"}).headers["x-request-id"] == "case-1"


@only_ours("its fingerprint names the server, not the weights")
def test_the_fingerprint_is_the_digest_of_what_answered(target: Target) -> None:
    digest = target.card["digest"]
    assert digest.startswith("sha256:")
    for said in (target.chat(), target.complete(), *target.chat(stream=True)):
        assert said.system_fingerprint == digest


@only_ours("it publishes what it has, and refuses less")
def test_the_api_document_names_the_routes(target: Target) -> None:
    found = httpx2.get(target.url.removesuffix("/v1") + "/openapi.json", trust_env=False).json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= set(found["paths"])


def test_a_wrong_token_is_refused(target: Target) -> None:
    if not target.token:
        pytest.skip("this server asks for no token")
    body = {"model": target.model, "prompt": "x"}
    assert target.raw("/completions", body, authorization="Bearer wrong").status_code == 401


@only_ours("its 401 has a shape of its own")
def test_a_wrong_token_is_refused_in_openais_shape(target: Target) -> None:
    said = target.raw("/completions", {"model": target.model, "prompt": "x"}, authorization="Bearer wrong")
    is_an_error(said, 401)
    assert said.headers["www-authenticate"] == "Bearer"


# --- what is refused


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_obeyed_is_refused(target: Target, case: str) -> None:
    mistake = MISTAKES[case]
    said = target.raw(mistake.path, mistake.body(target.model))
    status = mistake.ours if ENGINE == "topcoat" else mistake.theirs
    if status is None:
        assert said.status_code in (200, 400), mistake.why
        return
    error = is_an_error(said, status)
    if ENGINE == "topcoat":
        assert (error["param"] or "").startswith(mistake.param or "")


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_no_object_is_refused(target: Target, case: str) -> None:
    said = target.raw("/completions", BODIES[case])
    if ENGINE == "topcoat":
        is_an_error(said, 400)
    else:  # vLLM's framework answers here in a shape of its own, and takes NaN for a number
        assert said.status_code in (400, 404), said.text


@only_ours("it takes bodies of any size")
def test_a_body_too_large_is_refused(target: Target) -> None:
    is_an_error(target.raw("/completions", b" " * (2 << 20)), 413)


def test_a_body_that_is_said_to_be_no_json_is_refused(target: Target) -> None:
    body = json.dumps({"model": target.model, "prompt": "x"}).encode()
    said = target.raw("/completions", body, **{"content-type": "text/plain"})
    is_an_error(said, 415 if ENGINE == "topcoat" else 400)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/completions", 405), ("POST", "/nowhere", 404)])
def test_a_wrong_route_is_refused(target: Target, method: str, path: str, status: int) -> None:
    said = target.raw(path, b"", method)
    assert said.status_code == status
    if ENGINE == "topcoat":  # vLLM's framework answers here in a shape of its own
        is_an_error(said, status)


def test_after_all_that_it_answers_as_before(target: Target, before: str) -> None:
    assert texts(target.complete(max_tokens=30)) == [before]
