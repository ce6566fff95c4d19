"""Group, version and the little of object metadata that we read. Nothing of it is passed on to children."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field

from topcoat.api import names
from topcoat.api.field import Name, Time
from topcoat.api.section import Lenient, Rule

GROUP = "topcoat.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "topcoat.dev/v1alpha1"


class ObjectMeta(Lenient):
    """Object metadata."""

    name: Name
    """Name, unique in its namespace; a DNS label."""
    namespace: Name = "default"
    """Namespace."""
    uid: Annotated[str, Field(max_length=64)] = ""
    """Set by the API server (in local mode by the store)."""
    generation: Annotated[int, Field(ge=0)] = 0
    """Counts changes of the spec."""
    creation_timestamp: Time | None = None
    """When it was created."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""


class JobMeta(ObjectMeta):
    """Metadata of a FineTuneJob, whose name is a model's name, too."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!self.name.matches('{names.LIKE_A_VERSION}')",
            lambda m: not names.is_like_a_version(m.name),
            "metadata.name must not end in --v and a number: so end the model names of sealed versions",
            "name",
        ),
    )
