"""Group, version and the little of object metadata that we read. Nothing of it is passed on to children."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from topcoat.api.field import Name, Time
from topcoat.api.section import Lenient

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
