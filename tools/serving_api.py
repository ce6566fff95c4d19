"""Spells docs/reference/serving-api.md: routes, fields, refusals from the server's own shapes; differences by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from topcoat_trainer.serve import openapi, protocol

NOTE = "<!-- Generated from topcoat_trainer.serve by `make generate`. Do not edit. -->\n\n"
Json = dict[str, Any]
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
SIDES = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
# What tests/conformance and tests/support/mistakes.py show, in words.
DIFFERENCES = """## Differences

From OpenAI:

- Answers are greedy by default (`temperature` 0): that is what the gate judged. OpenAI's default is 1.
- A field that the server cannot obey is refused by name, never ignored. There are no tools, no JSON mode, no images,
  no penalties and no `logit_bias`.
- `system_fingerprint` is the digest of the weights that answered.
- `structured_outputs.choice` is vLLM's.

From vLLM (0.32.0, against which the same conformance file passes; where [vLLM computes behind this
server](../how-to/serve-with-vllm.md), none of these differences reaches a client):

- vLLM ignores fields that it does not know; here they are 400 `unsupported_field`.
- vLLM takes a request without `model`, roles that nobody has, a `temperature` above 2, any number of stops, `NaN`, and
  bodies of any size; here each is refused.
- vLLM's `system_fingerprint` names its own version, not the weights.
- vLLM has no `GET /v1/models/{id}`, and returns `x-request-id` only with `--enable-request-id-headers`.
- vLLM's framework answers some bad bodies, wrong routes and wrong tokens in shapes of its own; here every refusal is
  OpenAI's envelope, also that of what is no HTTP.
- With `echo` and `max_tokens: 0` vLLM counts one token that it does not tell of.

To compare another server, start it (for vLLM with `--api-key KEY --enable-request-id-headers --dtype float32
--max-model-len 512`) and run:

```
TOPCOAT_CONFORMANCE_URL=http://127.0.0.1:8000/v1 TOPCOAT_CONFORMANCE_MODEL=NAME \\
TOPCOAT_CONFORMANCE_TOKEN=KEY TOPCOAT_CONFORMANCE_ENGINE=vllm make test PYTEST=tests/conformance
```

## Limits

A body has at most 1 MiB and 30 seconds to arrive. A request's head has 10 seconds from its first byte; a connection is
closed after 75 seconds of silence, and when its client has not read for 30 seconds what waits for it. A request may
take `requestSeconds` of the ModelServer in all. The port for clients has no route of the agent's; the agent's port
takes the operator's token only.

Names are no secret: a model that needs another token is 401, one that does not exist 404.
"""


def page() -> str:
    document = openapi.document()
    lines = ["# The server's API", "", "OpenAI's protocol. The server publishes the same as OpenAPI 3.1 under", ""]
    lines[-2] += " `/openapi.json`. How to call it: [Call a served model](../how-to/call-a-served-model.md)."
    lines += ["## Routes", "", "| route | what it does | answers |", "|---|---|---|", *_routes(document), ""]
    for model in ("ChatRequest", "CompletionRequest"):
        schema = document["components"]["schemas"][model]
        lines += [
            f"## {schema['description'].rstrip('.')}",
            "",
            "| field | type | default | meaning |",
            "|---|---|---|---|",
        ]
        lines += [*_fields(schema), ""]
    lines += [
        "## Fields that must want nothing",
        "",
        "They are taken with these values, or null, and refused with any other.",
    ]
    lines += ["", *(f"- `{name}`: {_values(values)}" for name, values in protocol.NEUTRAL.items()), ""]
    lines += ["## Answers", "", *_answers(document), "## Refusals", ""]
    lines += ['`{"error": {"message", "type", "param", "code"}}`; a message never repeats what was sent.', ""]
    lines += ["| status | code | meaning |", "|---|---|---|"]
    lines += [f"| {status} | `{code}` | {words} |" for code, (status, words) in protocol.CODES.items()]
    return NOTE + "\n".join(lines) + "\n\n" + DIFFERENCES


def _routes(document: Json) -> Iterator[str]:
    for path, row in document["paths"].items():
        for method, route in row.items():
            if method != "parameters":
                yield f"| `{method.upper()} {path}` | {route['summary']} | {', '.join(route['responses'])} |"


def _fields(schema: Json) -> Iterator[str]:
    for name, field in schema["properties"].items():
        if name not in protocol.NEUTRAL:
            star = " *" if name in schema["required"] else ""
            default = field.get("default")
            shown = "" if default in (None, []) else f"`{str(default).lower()}`"
            yield f"| `{name}`{star} | {_type(field)} | {shown} | {field['description']} |"


def _type(field: Json) -> str:
    if "$ref" in field:
        return f"`{field['$ref'].rsplit('/', 1)[-1]}`"
    if "anyOf" in field:
        return " or ".join(_type(kind) for kind in field["anyOf"] if kind != openapi.NULL)
    if field.get("type") == "array":
        most = f", at most {field['maxItems']}" if "maxItems" in field else ""
        return f"list of {_type(field['items'])}{most}"
    low, high = (next((f"{BOUNDS[key]} {field[key]}" for key in pair if key in field), "") for pair in SIDES)
    longest = f"at most {field['maxLength']} characters" if "maxLength" in field else ""
    limits = " ".join(part for part in (low, high, longest) if part)
    return f"{field.get('type', 'any')} ({limits})" if limits else str(field.get("type", "any"))


def _answers(document: Json) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    for name in (
        "ChatCompletion",
        "ChatChunk",
        "Completion",
        "ChatLogprobs",
        "CompletionLogprobs",
        "Usage",
        "ModelCard",
    ):
        schema = schemas[name]
        yield from (f"`{name}`: {schema.get('description', '')}".rstrip(": "), "")
        for key, field in schema["properties"].items():
            words = f": {field['description']}" if "description" in field else ""
            yield f"- `{key}`, {_type(field)}{words}"
        yield ""


def _values(values: tuple[Any, ...]) -> str:
    return ", ".join(f"`{json.dumps(value)}`" for value in values)
