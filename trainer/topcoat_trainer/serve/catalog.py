"""The models of a server as /v1/models lists them: the base, the aliases, the versions by their names."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from topcoat.api.server import ServerFile
from topcoat_trainer.serve.agent import Agent
from topcoat_trainer.serve.alias import InForce, Table, Tag
from topcoat_trainer.serve.response import ModelCard

STARTED = int(time.time())
Listed = tuple[ModelCard, tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class Base:
    """The base model as clients know it."""

    name: str
    digest: str
    context: int
    served: bool = True
    """Whether it answers itself, not only its versions."""

    @classmethod
    def of(cls, told: ServerFile, context: int, *, served: bool) -> Base:
        return cls(told.base_model_id, f"sha256:{told.base_model_digest.removeprefix('sha256:')}", context, served)

    def card(self, name: str, more: dict[str, Any]) -> ModelCard:
        fields: dict[str, Any] = {
            "id": name, "created": STARTED, "root": self.name, "parent": None, "max_model_len": self.context,
            "digest": self.digest,
        }  # fmt: skip
        return ModelCard.model_validate(fields | more)


def cards(agent: Agent, table: Table, base: Base) -> list[Listed]:
    """Every model with the token files that open it. An alias comes before a version or base of the same name."""
    found: dict[str, Listed] = {}
    for entry in table.in_force():
        if entry.shares:
            alias = entry.file.alias
            found[alias] = (_alias(agent, base, entry), table.token_files(alias, agent.proved))
    for tag in table.wanted():
        if agent.proved(tag) and tag.name not in found:
            found[tag.name] = (base.card(tag.name, _version(agent, base, tag)), _files(agent, table, tag.name))
    if base.name not in found and base.served:
        found[base.name] = (base.card(base.name, {}), _files(agent, table, base.name))
    return list(found.values())


def _files(agent: Agent, table: Table, name: str) -> tuple[str | None, ...]:
    return table.token_files(name, agent.proved)


def _alias(agent: Agent, base: Base, entry: InForce) -> ModelCard:
    most, _ = max(entry.shares, key=lambda share: share[1])
    targets = [{"version": tag.version, "digest": tag.digest, "weight": weight} for tag, weight in entry.shares]
    return base.card(entry.file.alias, {**_version(agent, base, most), "targets": targets})


def _version(agent: Agent, base: Base, tag: Tag) -> dict[str, Any]:
    manifest = agent.record(tag).manifest
    return {
        "root": tag.name,
        "parent": base.name,
        "version": tag.version,
        "digest": tag.digest,
        "labels": list(manifest.labels) if manifest else [],
    }
