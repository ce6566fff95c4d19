"""A module of the base model that versions change: it computes each token with the version that the token belongs to.

The base's module keeps its place, its name and its weights; only the way to its `forward` is bent. Where no version
has a part in a step, the base's own forward computes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topcoat_trainer.serve import attention
from topcoat_trainer.serve.stack import Pair, Stack, stacks
from topcoat_trainer.serve.table import Table


@dataclass(frozen=True, slots=True)
class Dims:
    """Which dimension of each argument and of each result counts the tokens; None: none does."""

    arguments: tuple[int | None, ...]
    named: dict[str, int | None]
    results: tuple[int | None, ...]


def plain_forward(module: nn.Module) -> Any:
    """The module's own way of computing, bent or not."""
    return type(module).forward.__get__(module)


class Touched:
    """Stands in for a module's forward while any version touches it."""

    def __init__(self, module: nn.Module, dims: Dims) -> None:
        self._module = module
        self._dims = dims
        self._pairs: dict[str, Pair] = {}
        self._own: dict[str, nn.Module] = {}
        self._stacks: list[Stack] = []

    @property
    def _plain(self) -> Any:
        return plain_forward(self._module)

    def add_pair(self, key: str, pair: Pair) -> None:
        self._pairs[key] = pair
        self._stack()

    def add_own(self, key: str, module: nn.Module) -> None:
        self._own[key] = module
        self._module.forward = self

    def remove(self, key: str) -> None:
        self._own.pop(key, None)
        if self._pairs.pop(key, None) is not None:
            self._stack()
        if not (self._own or self._pairs):
            vars(self._module).pop("forward", None)

    def _stack(self) -> None:
        """All versions' pairs are stacked anew; each keeps only a view."""
        self._stacks = stacks(self._pairs)
        self._pairs = {key: stack.pair(place) for stack in self._stacks for place, key in enumerate(stack.keys)}
        if self._stacks:
            self._module.forward = self

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        table = attention.table_or_none()
        if table is None:
            return self._plain(*arguments, **named)
        own = self._own.keys() & table.keys
        result = self._split(table, frozenset(own), arguments, named) if own else self._plain(*arguments, **named)
        if not self._pairs.keys().isdisjoint(table.keys):
            inputs, outputs = arguments[0], result
            for stack in self._stacks:
                stack.add(table, inputs.reshape(-1, inputs.shape[-1]), outputs.view(-1, outputs.shape[-1]))
        return result

    def _split(
        self, table: Table, own: frozenset[str], arguments: Sequence[Any], named: dict[str, Any]
    ) -> Any:  # fmt: skip
        """Every stretch of tokens through its own module."""
        segments = table.segments(own)
        if len(segments) == 1:
            return self._computing(segments[0].key)(*arguments, **named)
        parts = []
        for segment in segments:
            span = (segment.start, segment.tokens)
            some = [_cut(value, dim, span) for value, dim in zip(arguments, self._dims.arguments, strict=True)]
            more = {name: _cut(value, self._dims.named[name], span) for name, value in named.items()}
            parts.append(self._computing(segment.key)(*some, **more))
        if isinstance(parts[0], torch.Tensor):
            return torch.cat(parts, dim=self._dims.results[0] or 0)
        columns = zip(*parts, strict=True)
        return tuple(
            values[0] if dim is None else torch.cat(values, dim=dim)
            for values, dim in zip(columns, self._dims.results, strict=True)
        )

    def _computing(self, key: str | None) -> Any:
        return self._plain if key is None else self._own[key]


def _cut(value: Any, dim: int | None, span: tuple[int, int]) -> Any:
    return value if dim is None else value.narrow(dim, *span)
