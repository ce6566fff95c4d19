"""Takes out of objects and logs what no support bundle may hold: values of variables, run files, rows, tokens. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from topcoat.manifests import metadata

Json = dict[str, Any]
LEFT_OUT = "<left out>"
KEPT_ANNOTATIONS = {metadata.KEY, metadata.TRIGGER, metadata.VERSIONS}
KEPT_WORDS = {"outcome", "exitCode", "message", "hint", "version", "digest", "seconds"}
"""Of a pod's last word; the rest may tell of the data."""
SECRETS = (
    (re.compile(r"(?i)\b(bearer)\s+[^\s\"']+"), rf"\1 {LEFT_OUT}"),
    (re.compile(r"(?i)\b((?:[a-z_]*(?:token|secret|password|passwd|api_?key))[\"']?\s*[=:]\s*[\"']?)[^\s\"',}]+"),
     rf"\1{LEFT_OUT}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), LEFT_OUT),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), LEFT_OUT),
    (re.compile(r"(://)[^/@\s]+@"), rf"\1{LEFT_OUT}@"),
)  # fmt: skip


def text(said: str) -> str:
    """A log without what looks like a credential."""
    for pattern, instead in SECRETS:
        said = pattern.sub(instead, said)
    return said


def body(found: Json) -> Json:
    """An object without values that are nobody else's business."""
    made: Json = {key: _part(key, value) for key, value in found.items() if key not in ("data", "binaryData")}
    for key in ("data", "binaryData", "stringData"):
        if key in found:
            made[key] = dict.fromkeys(found[key], LEFT_OUT)
    return made


def _part(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _mapping(key, value)
    if isinstance(value, list):
        return [_variable(one) if key == "env" else _part("", one) for one in value]
    return text(value) if isinstance(value, str) else value


def _mapping(key: str, value: Json) -> Json:
    if key == "annotations":
        return {name: _annotation(name, said) for name, said in value.items()}
    made = {name: _part(name, part) for name, part in value.items() if name != "managedFields"}
    if key == "terminated" and "message" in value:
        made["message"] = _last_word(str(value["message"]))
    return made


def _variable(one: Json) -> Json:
    return {**one, "value": LEFT_OUT} if "value" in one else one


def _annotation(name: str, said: str) -> str:
    if name in KEPT_ANNOTATIONS or name.startswith("batch.kubernetes.io/"):
        return text(said)
    if name == metadata.RUN_FILE:
        return f"{LEFT_OUT}; its fields: {', '.join(sorted(_keys(said)))}"
    return LEFT_OUT


def _keys(said: str) -> list[str]:
    try:
        found = json.loads(said)
    except ValueError:
        return []
    return list(found) if isinstance(found, dict) else []


def _last_word(said: str) -> Any:
    """How a pod ended, without what it found in the data."""
    try:
        found = json.loads(said)
    except ValueError:
        return LEFT_OUT
    if not isinstance(found, dict):
        return LEFT_OUT
    return {key: _part(key, value) if key in KEPT_WORDS else LEFT_OUT for key, value in found.items()}
