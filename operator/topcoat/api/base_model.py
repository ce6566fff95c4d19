"""`baseModel`: which foundation model is tuned. Its weights never change."""

from __future__ import annotations

from typing import ClassVar

from topcoat.api.field import ShortText, Uri
from topcoat.api.section import Rule, Section


class SecretReference(Section):
    """A Secret of the same namespace, by name."""

    name: ShortText
    """Name of the Secret."""


def _climbs(uri: str | None) -> bool:
    return uri is not None and ".." in uri.replace(":", "/").split("/")


class BaseModel(Section):
    """The foundation model: a name from the profile's catalogue, or a URI that the profile allows."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.name) != has(self.uri)",
            lambda m: (m.name is None) != (m.uri is None),
            "set exactly one of baseModel.name and baseModel.uri",
        ),
        Rule(
            r"!has(self.uri) || !self.uri.matches('(^|[/:])[.][.](/|$)')",
            lambda m: not _climbs(m.uri),
            "baseModel.uri must not contain '..'",
            "uri",
        ),
    )

    name: ShortText | None = None
    """Name of a model in the profile's catalogue."""
    uri: Uri | None = None
    """Where the model lies: `hf://org/name`, `pvc://claim/path`, `s3://bucket/path`, or, in local mode only,
    `file://path` (relative paths start at the manifest). Safetensors and JSON only."""
    revision: ShortText | None = None
    """Commit, tag or digest to pin. Without it the revision found first is pinned for the run."""
    secret_ref: SecretReference | None = None
    """Secret with the token for a gated model (key `token`)."""
