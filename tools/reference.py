"""Spells docs/reference/ from the API classes and tables: one page per kind; codes, conditions, commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from topcoat.api import conditions, crd, exits

NOTE = "<!-- Generated from topcoat.api by `make generate`. Do not edit. -->\n\n"
_CLI_MEANINGS = {
    exits.CliExit.PROMOTED: "the candidate was promoted (also when nothing had to be done: the last verdict counts)",
    exits.CliExit.ERROR: "an error; the message says what, where, why and how to fix it",
    exits.CliExit.REJECTED: "the gate rejected the candidate; what served before serves on",
    exits.CliExit.INCONCLUSIVE: "the evidence does not decide; what served before serves on",
    exits.CliExit.INTERRUPTED: "stopped at a checkpoint; the same command goes on from there",
}


def pages() -> dict[str, str]:
    """File name -> Markdown."""
    kinds = {f"{kind.model.__name__.lower()}.md": _kind_page(kind) for kind in crd.KINDS}
    import command_line  # beside this file; tools/ is not a package
    import serving_api

    others = {"conditions.md": _conditions_page(), "exit-codes.md": _exits_page(), "cli.md": command_line.page()}
    others["serving-api.md"] = serving_api.page()
    return kinds | others


def _kind_page(kind: crd.Kind) -> str:
    schema = crd.custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    lines = [f"# {kind.model.__name__}", "", schema["description"], ""]
    lines += [f"`apiVersion: topcoat.dev/v1alpha1`, short name `{kind.short}`, {kind.scope.lower()}.", ""]
    for part in ("spec", "status"):
        if part in schema["properties"]:
            lines += [f"## {part}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
            lines += list(_rows(part, schema["properties"][part]))
            lines += ["", *_rules(part, schema["properties"][part])]
    return NOTE + "\n".join(lines).rstrip() + "\n"


def _rows(path: str, schema: dict[str, Any]) -> Iterator[str]:
    required = set(schema.get("required", []))
    for name, node in schema.get("properties", {}).items():
        place = f"{path}.{name}"
        default = (
            f"`{node['default']}`" if node.get("default") not in (None, []) and node.get("type") != "object" else ""
        )
        text = node.get("description", "").replace("|", "\\|")
        star = " *" if name in required else ""
        yield f"| `{place}`{star} | {_type(node)} | {default} | {text} |"
        items = node.get("items", {})
        yield from _rows(f"{place}[]" if items else place, items or node)


def _type(node: dict[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}, at most {node.get('maxItems', 'any number')}"
    if "additionalProperties" in node:
        return "map"
    low, high = node.get("minimum"), node.get("maximum")
    limits = f" ({low}–{high})" if low is not None and high is not None else f" (from {low})" if low is not None else ""
    longest = f", at most {node['maxLength']} characters" if node.get("maxLength") else ""
    return f"{node.get('type', 'any')}{limits}{longest}"


def _rules(path: str, schema: dict[str, Any]) -> list[str]:
    found = list(_rules_below(path, schema))
    return ["### Rules", "", *(f"- `{place}`: {message}" for place, message in found), ""] if found else []


def _rules_below(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        yield path, rule["message"]
    for name, node in schema.get("properties", {}).items():
        yield from _rules_below(f"{path}.{name}", node)
        if "items" in node:
            yield from _rules_below(f"{path}.{name}[]", node["items"])


def _conditions_page() -> str:
    lines = ["# Conditions, phases and reasons", "", "## Conditions", "", "| type | True means |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in conditions.CONDITION_MEANINGS.items()]
    lines += ["", "## Phases", "", "For people; programs read conditions.", "", "| phase | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in conditions.PHASE_MEANINGS.items()]
    lines += ["", "## Reasons", "", "| reason | meaning | appears in |", "|---|---|---|"]
    for reason in conditions.REASONS.values():
        where = "all" if len(reason.conditions) == len(conditions.Condition) else ", ".join(reason.conditions)
        lines.append(f"| `{reason.name}` | {reason.meaning} | {where} |")
    return NOTE + "\n".join(lines) + "\n"


def _exits_page() -> str:
    lines = ["# Exit codes", "", "## topcoat run, topcoat demo", "", "| code | name | meaning |", "|---|---|---|"]
    lines += [f"| {code.value} | `{code.name}` | {text} |" for code, text in _CLI_MEANINGS.items()]
    lines += ["", "Other commands end with 0, or with 1 after an error.", "", "## The trainer's processes", ""]
    lines += ["Exit code 0 alone proves nothing: a sealed manifest does.", ""]
    lines += ["| code | reason | category | meaning | next attempt | hint |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.code.value} | `{row.reason}` | {row.category} | {row.meaning} | {row.retry} | {row.hint} |"
        for row in exits.MEANINGS
    ]
    return NOTE + "\n".join(lines) + "\n"
