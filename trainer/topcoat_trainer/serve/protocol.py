"""OpenAI's shapes: what clients ask, what they are answered, and how a refusal looks. Pure: no HTTP, no tensor.

A field that this server does not know, or cannot obey, is refused by name: one that is silently ignored breaks
whoever relies on it. An error never repeats what a client sent, except the name of a field.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
import pydantic_core
from pydantic import Field, model_validator

MOST_CHOICES = 8
MOST_PROMPTS = 64
MOST_TOP = 20
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Names that pydantic puts between a field that may be of several types and the place of the error.
UNION_MEMBERS = frozenset({"str", "int"})
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
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Shape(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class TextPart(Shape):
    type: Literal["text"]
    text: str


class ChatMessage(Shape):
    role: Literal["system", "user", "assistant"]
    content: str | Annotated[tuple[TextPart, ...], Field(min_length=1)]

    @property
    def text(self) -> str:
        """Parts are joined as vLLM joins them."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(Shape):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class StructuredOutputs(Shape):
    """vLLM's field of this name; of its kinds only `choice`."""

    choice: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=512)]

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
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[tuple[Stop, ...], Field(max_length=16)] = ()
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

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
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    structured_outputs: StructuredOutputs | None = None

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
Ids = Annotated[tuple[Token, ...], Field(min_length=1)]


class CompletionRequest(Asked):
    prompt: (
        str
        | Ids
        | Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[tuple[Ids, ...], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0)] = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None

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
    try:
        return kind.model_validate_json(pydantic_core.to_json(kept), strict=True)
    except pydantic.ValidationError as error:
        raise _refusal(error) from None


def _says_nothing(name: str, value: Any) -> bool:
    return value is None or any(value == neutral for neutral in NEUTRAL.get(name, ()))


def _refusal(error: pydantic.ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    named = [str(step) for step in first["loc"] if step not in UNION_MEMBERS]
    steps = [step for step in named if step.isdecimal() or FIELD_NAME.fullmatch(step)]
    field = ".".join(steps) or None
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{field or 'a field'} is not supported by this server", "unsupported_field", field)
    words = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{field}: {words}" if field else words, "invalid_value", field)


class Usage(pydantic.BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(pydantic.BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(pydantic.BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class Answer(pydantic.BaseModel):
    """A whole message, or a piece of one."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(pydantic.BaseModel):
    index: int
    message: Answer
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatChunkChoice(pydantic.BaseModel):
    index: int
    delta: Answer
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class CompletionLogprobs(pydantic.BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(pydantic.BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Reply(pydantic.BaseModel):
    """A whole answer, or a chunk of a stream. `system_fingerprint`: digest of the version that answered."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice] | list[ChatChunkChoice] | list[CompletionChoice]
    usage: Usage | None = None


class ModelCard(pydantic.BaseModel):
    """A model in /v1/models. `root`: what answers; `parent`: the base model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "topcoat"
    root: str
    parent: str | None
    max_model_len: int | None
    version: str | None = None
    digest: str
    labels: list[str] = []
    targets: list[dict[str, Any]] = []
