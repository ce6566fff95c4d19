"""ModelServer: one base model in memory, many tuned versions of it, and the aliases that clients call.

Made by the operator on first use, or by the platform team; shared by many FineTuneJobs; goes last.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topcoat.api.base_model import BaseModel
from topcoat.api.field import Digest, Name, ShortText, Time, Version
from topcoat.api.lifecycle import Resources
from topcoat.api.metadata import API_VERSION, ObjectMeta
from topcoat.api.section import Lenient, Section
from topcoat.api.serving import Engine
from topcoat.api.status import ConditionStatus, Shown

_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
_BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_BY_JOB_AND_VERSION = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["job", "version"]}


class ModelServerSpec(Section):
    """What is wanted."""

    profile: ShortText = "default"
    """The FineTuneProfile whose catalogue, images and server shape it uses."""
    base_model: BaseModel
    """The base model that is held once."""
    engine: Engine = Engine.AUTO
    """Inference engine; `Auto`: `Transformers`."""
    replicas: Annotated[int, Field(ge=0, le=100)] = 1
    """Server pods."""
    resources: Resources = Resources()
    """Requests and limits of a server pod."""
    max_adapters: Annotated[int, Field(ge=1, le=1024)] = 16
    """Tuned versions on the device at once."""
    max_rank: Literal[8, 16, 32, 64, 128] = 64
    """Highest rank that is accepted."""
    cpu_adapters: Annotated[int, Field(ge=0, le=4096)] = 64
    """Tuned versions kept in host memory besides."""


class ProbeResult(Lenient):
    """Replay of the golden prompts."""

    ok: bool
    """Whether the answers agree."""
    max_abs_diff: Shown = ""
    """Largest difference of a log-probability."""
    at: Time | None = None
    """When."""


class LoadedVersion(Lenient):
    """One tuned version on this server."""

    job: Name
    """Its FineTuneJob."""
    version: Version
    """Its name."""
    digest: Digest
    """SHA-256 of its manifest.json."""
    ready_pods: Annotated[int, Field(ge=0)] = 0
    """Pods that have loaded and proved it."""
    desired_pods: Annotated[int, Field(ge=0)] = 0
    """Pods that shall."""
    probe: ProbeResult | None = None
    """The worst replay of its golden prompts."""


class AliasTarget(Lenient):
    """A share of an alias' traffic."""

    version: Version
    """Version that answers."""
    weight: Annotated[int, Field(ge=0, le=100)]
    """Per cent."""


class AliasStatus(Lenient):
    """A model name that clients call."""

    name: Name
    """The alias."""
    targets: Annotated[tuple[AliasTarget, ...], Field(max_length=8)] = ()
    """Who answers."""


class ModelServerStatus(Lenient):
    """What is."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of the spec that this status speaks of."""
    conditions: Annotated[tuple[ConditionStatus, ...], Field(max_length=16, json_schema_extra=_BY_TYPE)] = ()
    """Ready, Reconciling, Stalled."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Pods that serve."""
    selector: Shown = ""
    """Labels of its pods, for whoever scales it."""
    versions: Annotated[tuple[LoadedVersion, ...], Field(max_length=512, json_schema_extra=_BY_JOB_AND_VERSION)] = ()
    """Tuned versions."""
    aliases: Annotated[tuple[AliasStatus, ...], Field(max_length=512, json_schema_extra=_BY_NAME)] = ()
    """Aliases."""


class ModelServer(Section):
    """A server that holds one base model and many tuned versions of it."""

    api_version: Literal["topcoat.dev/v1alpha1"] = API_VERSION
    """Version of the API."""
    kind: Literal["ModelServer"] = "ModelServer"
    """Kind of object."""
    metadata: ObjectMeta
    """Name and namespace."""
    spec: ModelServerSpec
    """What is wanted."""
    status: ModelServerStatus | None = None
    """What is."""
