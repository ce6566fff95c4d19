"""OpenAI's shapes of what clients are answered: whole answers, chunks, models, errors. Pure: no HTTP, no tensor.

Docstrings, also those below fields, become the text of the API document.
"""

from __future__ import annotations

from typing import Literal

import pydantic

Finish = Literal["stop", "length"]


class Said(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)


class ErrorDetail(Said):
    message: str
    """For people. Never repeats what a client sent, except the name of a field."""
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    """OpenAI's kind of error."""
    param: str | None
    """The field that is wrong."""
    code: str
    """For programs."""


class ErrorBody(Said):
    """OpenAI's error envelope."""

    error: ErrorDetail


class Usage(Said):
    prompt_tokens: int
    """Tokens of all prompts."""
    completion_tokens: int
    """Tokens made, the one that ends an answer included."""
    total_tokens: int


class TopLogprob(Said):
    token: str
    logprob: float
    """-9999 stands for minus infinity."""
    bytes: list[int]
    """The token's text in UTF-8."""


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]
    """The likeliest tokens in this place."""


class ChatLogprobs(Said):
    content: list[TokenLogprob]
    refusal: None = None


class Answer(Said):
    """A whole message, or a piece of one."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(Said):
    index: int
    message: Answer
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatChunkChoice(Said):
    index: int
    delta: Answer
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class CompletionLogprobs(Said):
    """Four lists with an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null: nothing comes before the token."""
    top_logprobs: list[dict[str, float] | None]
    """The likeliest, and the token itself, by their text."""
    text_offset: list[int]
    """Where each token begins in the tokens' joined text."""


class CompletionChoice(Said):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None


class Reply(Said):
    """What all answers have."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    """The name that was asked for."""
    system_fingerprint: str
    """Digest of the version that answered, or of the base model."""
    usage: Usage | None = None


class ChatCompletion(Reply):
    """A whole answer to a chat."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class ChatChunk(Reply):
    """A piece of an answer to a chat."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]


class Completion(Reply):
    """An answer to a prompt, or a piece of one."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class Target(Said):
    version: str
    digest: str
    weight: int
    """Per cent."""


class ModelCard(Said):
    """A model of this server."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "topcoat"
    root: str
    """Name of what answers."""
    parent: str | None
    """The base model; null: it is the base model itself."""
    max_model_len: int | None
    """Tokens of prompt and answer together."""
    version: str | None = None
    digest: str
    labels: list[str] = []
    """What a classifier was trained to answer."""
    targets: list[Target] = []
    """Of an alias: who answers, by weight."""


class ModelList(Said):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Said):
    status: str
