"""`topcoat explain`: a field of the manifest, as `kubectl explain` shows it, without a cluster."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from topcoat.api import crd, metadata
from topcoat.cli import terminal

Schema = dict[str, Any]
PATH_HELP = "Such as ftj.spec.method.layers, spec.promotion or finetuneprofile.spec."


def explain(
    path: Annotated[str, typer.Argument(metavar="FIELD", help=PATH_HELP)] = "ftj",
    recursive: Annotated[bool, typer.Option("--recursive", help="List all fields below, in short.")] = False,
) -> None:
    """Say what a field means: type, default, limits, rules, and the fields below it."""
    kind, words = _kind(path.replace("[]", "").strip(".").split("."))
    schema, required = _whole(kind), False
    for position, word in enumerate(words):
        parts = _parts(schema)
        if word not in parts:
            _no_such_field(kind, words[:position], word, parts)
        required = word in _inner(schema).get("required", [])
        schema = parts[word]
    terminal.say(f"KIND:     {kind.model.__name__}\nVERSION:  {metadata.API_VERSION}\n")
    if words:
        terminal.say(f"FIELD:    {terminal.paint('.'.join(words), 'bold')} {_type(schema)}{_required(required)}\n")
    _show(schema)
    _show_fields(schema, recursive)
    deeper = next((name for name, node in _parts(schema).items() if _parts(node)), None)
    here = ".".join([kind.short, *words])
    terminal.next_step(f"topcoat explain {here}.{deeper}" if deeper else f"topcoat explain {here.rpartition('.')[0]}")


def _kind(words: list[str]) -> tuple[crd.Kind, list[str]]:
    """The kind that a path begins with (FineTuneJob where it begins with a field), and the rest."""
    for kind in crd.KINDS:
        if words[0].lower() in {kind.short, kind.plural, kind.model.__name__.lower()}:
            return kind, words[1:]
    if words[0] in _parts(_whole(crd.KINDS[0])):
        return crd.KINDS[0], words
    names = [name for kind in crd.KINDS for name in (kind.short, kind.model.__name__.lower())]
    near = difflib.get_close_matches(words[0].lower(), [*names, "spec", "status"], 1)
    return terminal.fail(
        f"there is no kind and no field {words[0]!r}{f'; did you mean {near[0]!r}?' if near else ''}",
        hint=f"begin with one of {', '.join(names)}, or with spec or status",
    )


def _whole(kind: crd.Kind) -> Schema:
    found: Schema = crd.custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _no_such_field(kind: crd.Kind, before: list[str], word: str, parts: Schema) -> None:
    near = difflib.get_close_matches(word, parts, 1) or [name for name in parts if name.lower() == word.lower()]
    place = ".".join([kind.short, *before])
    terminal.fail(
        f"{place} has no field {word!r}{f'; did you mean {near[0]!r}?' if near else ''}",
        hint=f"it has {', '.join(parts)}" if parts else f"{place} has no fields below it",
    )


def _inner(schema: Schema) -> Schema:
    """What holds the fields: a list's items, a map's values, or the object itself."""
    while "items" in schema or isinstance(schema.get("additionalProperties"), dict):
        schema = schema.get("items") or schema["additionalProperties"]
    return schema


def _parts(schema: Schema) -> Schema:
    found: Schema = _inner(schema).get("properties", {})
    return found


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "<integer or string>"
    if "items" in schema:
        return f"<[]{_type(schema['items']).strip('<>')}>"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"<map[string]{_type(schema['additionalProperties']).strip('<>')}>"
    return f"<{str(schema.get('type', 'any')).replace('object', 'Object')}>"


def _required(required: bool) -> str:
    return " -required-" if required else ""


def _show(schema: Schema) -> None:
    """Description, choices, default, limits and rules of one field."""
    terminal.say("DESCRIPTION:")
    terminal.say(_wrapped(schema.get("description", "No description."), "    "))
    facts = {
        "ENUM": ", ".join(map(str, schema.get("enum", []))),
        "DEFAULT": _default(schema),
        "LIMITS": ", ".join(_limits(schema)),
        "RULES": "\n    ".join(rule["message"] for rule in schema.get("x-kubernetes-validations", [])),
    }
    for title, text in facts.items():
        if text:
            terminal.say(f"\n{title}:\n    {text}")
    terminal.say()


def _default(schema: Schema) -> str:
    value = schema.get("default")
    if value in (None, []) or isinstance(value, dict):
        return ""
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _limits(schema: Schema) -> Iterator[str]:
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {} entries",
        "maxItems": "at most {} entries",
        "maxProperties": "at most {} entries",
        "pattern": "matches {}",
    }
    yield from (text.format(schema[key]) for key, text in words.items() if key in schema)


def _show_fields(schema: Schema, recursive: bool) -> None:
    if not _parts(schema):
        return
    terminal.say("FIELDS:")
    for line in _tree(schema, 1) if recursive else _list(schema):
        terminal.say(line)
    if not recursive:
        return
    terminal.say()


def _list(schema: Schema) -> Iterator[str]:
    required = _inner(schema).get("required", [])
    for name, node in _parts(schema).items():
        yield f"  {terminal.paint(name, 'bold')} {_type(node)}{_required(name in required)}"
        yield _wrapped(node.get("description", ""), "    ") + "\n"


def _tree(schema: Schema, depth: int) -> Iterator[str]:
    for name, node in _parts(schema).items():
        yield f"{'  ' * depth}{name} {_type(node)}"
        yield from _tree(node, depth + 1)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, terminal.width(), initial_indent=indent, subsequent_indent=indent)
