"""Requests that no server can obey, with how each server refuses them. For tests only.

`ours`, `theirs`: status of our answer and of vLLM's; None: vLLM obeys, and `why` says what that means.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

CHAT, PROMPT = "/chat/completions", "/completions"
HELLO = [{"role": "user", "content": "Hi"}]
LENIENT = "unknown fields are ignored, so that whoever relies on one gets something else"


@dataclass(frozen=True)
class Mistake:
    """`change`: what is wrong in an otherwise right body. `param`: the field that our error names."""

    path: str
    change: dict[str, Any]
    param: str | None
    ours: int = 400
    theirs: int | None = 400
    why: str = ""

    def body(self, model: str) -> bytes:
        asked: dict[str, Any] = {"messages": HELLO} if self.path == CHAT else {"prompt": "Hi"}
        return json.dumps({"model": model, "max_tokens": 2, **asked, **self.change}).encode()


def _chat(param: str | None, **change: Any) -> Mistake:
    return Mistake(CHAT, change, param)


def _prompt(param: str | None, **change: Any) -> Mistake:
    return Mistake(PROMPT, change, param)


def _obeyed(why: str, path: str, param: str | None, **change: Any) -> Mistake:
    return Mistake(path, change, param, theirs=None, why=why)


MISTAKES: dict[str, Mistake] = {
    "chat: unknown model": Mistake(CHAT, {"model": "nobody"}, "model", 404, 404),
    "prompt: unknown model": Mistake(PROMPT, {"model": "nobody"}, "model", 404, 404),
    "a model named like a path": Mistake(PROMPT, {"model": "../../etc/passwd"}, "model", 404, 404),
    "no model": _obeyed("without a name its only base model answers", CHAT, "model", model=None),
    "model is a number": _chat("model", model=7),
    "chat: unknown field": _obeyed(LENIENT, CHAT, "typo_field", typo_field=1),
    "prompt: unknown field": _obeyed(LENIENT, PROMPT, "typo_field", typo_field=1),
    "no messages": _chat("messages", messages=None),
    "empty messages": Mistake(CHAT, {"messages": []}, "messages", theirs=None, why="the template decides"),
    "messages are text": _chat("messages", messages="Hi"),
    "a message without role": _chat("messages.0.role", messages=[{"content": "Hi"}]),
    "a role that nobody has": _obeyed(
        "the template decides", CHAT, "messages.0.role", messages=[{"role": "wizard", "content": "Hi"}]
    ),
    "temperature is a word": _chat("temperature", temperature="hot"),
    "temperature below 0": _chat("temperature", temperature=-1),
    "temperature above 2": _obeyed("it has no upper limit", CHAT, "temperature", temperature=2.5),
    "top_p 0": _chat("top_p", top_p=0),
    "top_p above 1": _prompt("top_p", top_p=1.5),
    "n 0": _chat("n", n=0),
    "n below 0": _prompt("n", n=-1),
    "chat: max_tokens below 0": _chat("max_tokens", max_tokens=-1),
    "prompt: max_tokens below 0": _prompt("max_tokens", max_tokens=-1),
    "max_tokens is a list": _prompt("max_tokens", max_tokens=[1]),
    "max_tokens without end": _prompt("max_tokens", max_tokens=10**9),
    "max_tokens of thirty digits": _chat("max_tokens", max_tokens=10**30),
    "a seed of thirty digits": _prompt("seed", seed=10**30),
    "a prompt beyond the context": _prompt("prompt", prompt="claim " * 20_000),
    "a chat beyond the context": _chat("messages", messages=[{"role": "user", "content": "claim " * 20_000}]),
    "a token that the model lacks": _prompt("prompt", prompt=[10**8]),
    "a token below 0": _prompt("prompt.0", prompt=[-1]),
    "prompt is an object": _prompt("prompt", prompt={"a": 1}),
    "an empty list of prompts": _prompt("prompt", prompt=[]),
    "texts and tokens in one": _prompt("prompt.0", prompt=["a", 1]),
    "no prompt": _prompt("prompt", prompt=None),
    "log-probabilities without end": _prompt("logprobs", logprobs=10**6),
    "top_logprobs without logprobs": _chat(None, top_logprobs=2),
    "top_logprobs below 0": _chat("top_logprobs", logprobs=True, top_logprobs=-2),
    "stream_options without a stream": _chat(None, stream_options={"include_usage": True}),
    "stop is a number": _chat("stop", stop=5),
    "a million stops": _obeyed("it has no limit", PROMPT, "stop", stop=["ab"] * 150_000),
    "an empty stop": _chat("stop", stop=""),
    "a tool that does not exist": _chat("tools", tools=[{"type": "function", "function": {"name": "f"}}]),
}
"""By name. A body of wrong JSON stands in `BODIES`."""

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a text": b'"x"',
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "half a character": b'{"model": "\\ud800", "prompt": "x"}',
    "no number": b'{"model": "m", "prompt": "x", "temperature": NaN}',
    "deep": b"[" * 100_000,
    "deep in a field": b'{"model": "m", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep in an unknown field": b'{"model": "m", "prompt": "x", "a": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
}
