"""The API document (OpenAPI 3.1), made from the shapes that requests are checked with and answers are made of. Pure.

What is written here by hand is only what the shapes cannot say: routes, statuses, headers, and that null and some
fields that want nothing are taken.
"""

from __future__ import annotations

import functools
import json
from importlib import metadata
from typing import Any

from pydantic.json_schema import models_json_schema

from topcoat_trainer.serve import protocol, response

Json = dict[str, Any]
REF = "#/components/schemas/{model}"
REQUESTS = (protocol.ChatRequest, protocol.CompletionRequest)
ANSWERS = (
    response.ChatCompletion, response.ChatChunk, response.Completion, response.ModelCard, response.ModelList,
    response.ErrorBody, response.Health,
)  # fmt: skip
ALWAYS = (401, 404, 503)
WITH_BODY = (400, *ALWAYS, 408, 413, 415, 429, 500, 504)
TEXT = {"type": "string"}
NULL = {"type": "null"}
HEADERS: Json = {
    "x-request-id": {"description": "The request's own, if it is a plain one, else a new one.", "schema": TEXT},
    "x-topcoat-version": {"description": "Who answered: a version's name, or `base`.", "schema": TEXT},
    "retry-after": {"description": "Seconds until it is worth trying again.", "schema": {"type": "integer"}},
    "www-authenticate": {"description": "`Bearer`.", "schema": TEXT},
}
OF_STATUS = {401: ("www-authenticate",), 429: ("retry-after",), 503: ("retry-after",)}


@functools.cache
def document() -> Json:
    """All routes of the clients' port."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Topcoat model server",
            "version": metadata.version("topcoat"),
            "description": "Tuned versions of one base model, by OpenAI's protocol.",
        },
        "security": [{"token": []}, {}],
        "paths": {
            "/v1/chat/completions": {"post": _asking("Answer a chat", "ChatRequest", "ChatCompletion", "ChatChunk")},
            "/v1/completions": {"post": _asking("Go on from a prompt", "CompletionRequest", "Completion")},
            "/v1/models": {"get": _telling("The models that the token opens", "ModelList", *ALWAYS)},
            "/v1/models/{id}": {"get": _telling("One model", "ModelCard", *ALWAYS), "parameters": [_id()]},
            "/health": {"get": _telling("Whether the server is there", "Health")},
            "/openapi.json": {"get": _described("This document", {"200": _answer("The document", {"type": "object"})})},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _id() -> Json:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "Alias, version's name or base model's id; a slash may stand as it is.",
        "schema": TEXT,
    }


def _asking(summary: str, request: str, whole: str, chunk: str = "") -> Json:
    done = _answer("The answer, or with `stream` its pieces", _ref(whole), "x-request-id", "x-topcoat-version")
    pieces = f"Events `data: `, each a {chunk or whole} or an ErrorBody; the last one is `[DONE]`."
    done["content"]["text/event-stream"] = {"schema": {"type": "string", "description": pieces}}
    return {
        **_described(summary, {"200": done, **_refusals(*WITH_BODY)}),
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
    }


def _telling(summary: str, model: str, *refused: int) -> Json:
    headers = ("x-request-id",) if refused else ()
    return _described(summary, {"200": _answer(summary, _ref(model), *headers), **_refusals(*refused)})


def _described(summary: str, answers: Json) -> Json:
    return {"summary": summary, "responses": answers}


def _refusals(*statuses: int) -> Json:
    return {
        str(status): _answer(
            "; ".join(f"`{code}`: {words}" for code, (of, words) in protocol.CODES.items() if of == status),
            _ref("ErrorBody"),
            "x-request-id",
            *OF_STATUS.get(status, ()),
        )
        for status in sorted(statuses)
    }


def _answer(description: str, schema: Json, *headers: str) -> Json:
    named = {name: HEADERS[name] for name in headers}
    return {"description": description, "headers": named, "content": {"application/json": {"schema": schema}}}


def _ref(model: str) -> Json:
    return {"$ref": REF.format(model=model)}


def _schemas() -> Json:
    _, asked = models_json_schema([(model, "validation") for model in REQUESTS], ref_template=REF)
    _, told = models_json_schema([(model, "serialization") for model in ANSWERS], ref_template=REF)
    found: Json = json.loads(json.dumps(asked["$defs"]))
    for model in REQUESTS:
        found[model.__name__] = _as_taken(found[model.__name__])
    found["ChatMessage"]["additionalProperties"] = NULL
    found |= told["$defs"]
    return found


def _as_taken(schema: Json) -> Json:
    """With null for every field that may be left out, and with the fields that clients send but want nothing by."""
    required = set(schema["required"])
    own = {name: field if name in required else _or_null(field) for name, field in schema["properties"].items()}
    neutral = {
        name: {"enum": [*values, None], "description": "Taken with these values only, which want nothing."}
        for name, values in protocol.NEUTRAL.items()
    }
    return {**schema, "properties": {**own, **neutral}, "additionalProperties": NULL}


def _or_null(field: Json) -> Json:
    words: Json = {name: field[name] for name in ("description", "default", "title") if name in field}
    rest = {name: value for name, value in field.items() if name not in words}
    kinds = list(rest.get("anyOf", [rest]))
    return {**words, "anyOf": kinds if NULL in kinds else [*kinds, NULL]}
