"""OpenAI's shapes: what clients ask, and what they are refused. Pure: no HTTP, no tensor.

A field that this server does not know, or cannot obey, is refused by name: one that is silently ignored breaks
whoever relies on it. An error never repeats what a client sent, except the name of a field.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
import pydantic_core
from pydantic import Field, model_validator

from topcoat_trainer.serve.response import ErrorBody, ErrorDetail

MOST_CHOICES = 8
MOST_PROMPTS = 64
MOST_TOP = 20
MOST_MESSAGES = 4096
MOST_TOKENS = 1 << 20
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Names that pydantic puts between a field that may be of several types and the place of the error.
UNION_MEMBERS = frozenset({"str", "int"})
# What a field takes that may be of several types, for those whose value is of none of them.
KINDS_OF_FIELD = {
    "prompt": "a text, a list of token numbers, or a list of either",
    "stop": "a text or a list of texts",
    "content": "a text or a list of text parts",
}
# Fields of the protocol that clients send although they want nothing by them. Any other value is refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}


class ApiError(Exception):
    """A refusal as clients see it. `message` never holds a prompt's text."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else KINDS.get(self.status, "invalid_request_error")
        error = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorBody(error=error).model_dump(mode="json")


KINDS = {401: "authentication_error", 429: "rate_limit_error"}
CODES: dict[str, tuple[int, str]] = {
    "invalid_http": (400, "this is no HTTP request; the connection is closed"),
    "invalid_json": (400, "the body is not a JSON object in UTF-8"),
    "invalid_value": (400, "a field is missing, of the wrong type or out of its limits; `param` names it"),
    "unsupported_field": (400, "this server does not know the field, or cannot obey it; `param` names it"),
    "invalid_messages": (400, "the chat template takes no such conversation, or a text holds the template's own marks"),
    "context_length_exceeded": (400, "prompt and `max_tokens` together are more than the model takes"),
    "invalid_api_key": (401, "the model needs its bearer token"),
    "model_not_found": (404, "nobody of this name is served here"),
    "not_found": (404, "there is no such route"),
    "invalid_request": (405, "the route does not know that method; `Allow` names those it knows"),
    "request_timeout": (408, "the body did not arrive in time"),
    "request_too_large": (413, "the body is too large"),
    "unsupported_media_type": (415, "`Content-Type` is not `application/json`"),
    "rate_limit_exceeded": (429, "too many requests wait; try again after `Retry-After` seconds"),
    "internal_error": (500, "a mistake of the server; its log names the request's id"),
    "loading": (503, "base model or version are not loaded yet; try again after `Retry-After` seconds"),
    "stopping": (503, "this server is about to end; another one answers"),
    "out_of_memory": (503, "the device has not enough memory for the request now"),
    "timeout": (504, "the answer took longer than the server allows"),
}
"""Every refusal: code, status, meaning."""


class Shape(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TextPart(Shape):
    type: Literal["text"]
    text: str


class ChatMessage(Shape):
    role: Literal["system", "user", "assistant"]
    content: str | Annotated[tuple[TextPart, ...], Field(min_length=1, fail_fast=True)]
    """Text, or parts of it, which are joined by line ends."""

    @property
    def text(self) -> str:
        """Parts are joined as vLLM joins them."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(Shape):
    include_usage: bool = False
    """A last chunk without choices tells the usage."""
    include_obfuscation: Literal[False] = False
    """Nothing is padded."""


class StructuredOutputs(Shape):
    """vLLM's field of this name; of its kinds only `choice`."""

    choice: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=512, fail_fast=True)
    ]
    """The texts of which one is answered."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.choice)) != len(self.choice):
            raise ValueError("the choices must differ")
        return self


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(max_length=512)]


class Asked(Shape):
    """What both kinds of requests share. By default answers are greedy: that is what the gate judged."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """An alias, a version's name (`alias--v7`) or the base model's id."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 takes the likeliest token; below 0.01 counts as 0.01, as in vLLM, and below 0.00001 as 0."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn among the likeliest that together have this share."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    """Answers to each prompt."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed, prompt and version give the same answer; the second of `n` answers has the next seed."""
    stop: Stop | Annotated[tuple[Stop, ...], Field(max_length=16, fail_fast=True)] = ()
    """Texts that end the answer; they are not told."""
    stream: bool = False
    """Server-sent events, the last of which is `[DONE]`."""
    stream_options: StreamOptions | None = None
    """Needs `stream`."""
    user: Label | None = None
    """Whose request it is: the same person stays with one version while an alias has several."""
    safety_identifier: Label | None = None
    """As `user`, and comes before it."""
    prompt_cache_key: Label | None = None
    """As `user`, where neither of the others is given."""

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def person(self) -> str | None:
        """Whose requests stay with one version while an alias has several."""
        return self.safety_identifier or self.user or self.prompt_cache_key

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class ChatRequest(Asked):
    """`POST /v1/chat/completions`."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    """The conversation; text only. Where it begins without a system message, the version's own is added."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer; without it, as much as the model takes."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same by its newer name; give one of them."""
    logprobs: bool = False
    """Tell each token's log-probability: the model's own, before temperature and `top_p`."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """So many of the likeliest tokens in each place; needs `logprobs`."""
    structured_outputs: StructuredOutputs | None = None
    """Answer one of the given texts, the likeliest. Goes without temperature, `n` and `stop`."""

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likeliest tokens to tell of; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.structured_outputs and (self.temperature > 0 or self.n > 1 or self.stops):
            raise ValueError("structured_outputs.choice takes the likeliest: no temperature, n or stop beside it")
        return self


Token = Annotated[int, Field(ge=0)]
Ids = Annotated[tuple[Token, ...], Field(min_length=1, max_length=MOST_TOKENS, fail_fast=True)]


class CompletionRequest(Asked):
    """`POST /v1/completions`."""

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Ids
        | Annotated[
            tuple[Annotated[str, Field(min_length=1)], ...],
            Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True),
        ]
        | Annotated[tuple[Ids, ...], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    )
    """A text, its tokens, or a list of either. It is read as it stands: no template, no system message."""
    max_tokens: Annotated[int, Field(ge=0)] = 16
    """Longest answer. 0 only tells the prompt and needs `echo`."""
    echo: bool = False
    """Tell the prompt before the answer; with `logprobs`, its tokens' log-probabilities, too."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """Tell each token's log-probability, and so many of the likeliest in each place."""

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """One text or one row of tokens each."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        if isinstance(self.prompt[0], int):
            return (self.prompt,)  # the first tells the kind of all
        return self.prompt

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo: true")
        if len(self.prompts) * self.n > MOST_PROMPTS:
            raise ValueError(f"prompts times n may be {MOST_PROMPTS} at most")
        return self


Request = TypeVar("Request", bound=Asked)


def parsed(kind: type[Request], data: bytes) -> Request:
    """The request in a body, or ApiError 400 that names the field."""
    try:
        body = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError:
        raise ApiError(400, "the body is not valid JSON", "invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", "invalid_json")
    kept = {name: value for name, value in body.items() if not _says_nothing(name, value)}
    if isinstance(kept.get("messages"), list):
        kept["messages"] = [_without_nulls(turn) for turn in kept["messages"]]
    for name in kept:
        if name not in kind.model_fields:  # before all else: thousands of such names are not looked at one by one
            raise _unsupported((name,))
    try:
        return kind.model_validate_json(pydantic_core.to_json(kept), strict=True)
    except pydantic.ValidationError as error:
        raise _refusal(error) from None


def _says_nothing(name: str, value: Any) -> bool:
    return value is None or any(_same(value, neutral) for neutral in NEUTRAL.get(name, ()))


def _without_nulls(turn: Any) -> Any:
    """A message as clients send back one that they were given: with all fields that it could have."""
    return {name: value for name, value in turn.items() if value is not None} if isinstance(turn, dict) else turn


def _same(value: Any, neutral: Any) -> bool:
    """Equal as JSON has it: false is no 0."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _refusal(error: pydantic.ValidationError) -> ApiError:
    found = error.errors(include_url=False, include_input=False)
    first = found[0]["loc"][:1]
    of_field = [row for row in found if row["loc"][:1] == first]
    # Of a field that may be of several types: the one that the value comes closest to.
    told = max(of_field, key=lambda row: len(_steps(row["loc"])))
    if told["type"] == "extra_forbidden":
        return _unsupported(told["loc"])
    steps = _steps(told["loc"])
    field = ".".join(steps) or None
    words = told["msg"].removeprefix("Value error, ")
    if steps and steps[-1] in KINDS_OF_FIELD and told["type"].endswith("_type"):
        words = f"this takes {KINDS_OF_FIELD[steps[-1]]}"
    return ApiError(400, f"{field}: {words}" if field else words, "invalid_value", field)


def _unsupported(loc: tuple[int | str, ...]) -> ApiError:
    field = ".".join(_steps(loc)) or None
    return ApiError(400, f"{field or 'a field'} is not supported by this server", "unsupported_field", field)


def _steps(loc: tuple[int | str, ...]) -> list[str]:
    """The place as a client knows it; a name that may be a client's text is left out."""
    named = [str(step) for step in loc if step not in UNION_MEMBERS]
    return [step for step in named if step.isdecimal() or FIELD_NAME.fullmatch(step)]
