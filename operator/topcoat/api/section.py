"""The base of every API object: camelCase, strict, frozen, with rules that cross fields.

A rule is written once, beside its fields, as CEL (for the API server) and as a Python check (for local mode);
the manifest corpus proves that both say the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule across fields. `cel` and `holds` must agree; `message` says what to do."""

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str = ""


class Section(BaseModel):
    """A part of an object. Unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [rule.message for rule in type(self).rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Itself: nothing writes to a section. pydantic copies a field's default so for each object that it makes."""
        return self

    @classmethod
    def read(cls, body: object) -> Self:
        """The object in what a YAML or JSON reader returned. Strict: the text "3" is not the number 3."""
        return cls.model_validate_json(json.dumps(body), strict=True)

    def as_json(self) -> dict[str, Any]:
        """The object as it is written: camelCase, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Lenient(Section):
    """A part that another version may have written (status, reports): unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")
