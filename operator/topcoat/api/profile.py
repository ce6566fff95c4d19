"""FineTuneProfile: what a platform team allows and provides. Cluster-scoped, owned by administrators.

A run takes a snapshot of it, so that a later edit never touches a running job.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from topcoat.api.field import Decimal, Digest, Name, Quantity, ShortText, Uri
from topcoat.api.lifecycle import Resources
from topcoat.api.metadata import API_VERSION, ObjectMeta
from topcoat.api.method import MethodType
from topcoat.api.section import Rule, Section

UriPattern = Annotated[
    str, StringConstraints(pattern=r"^(hf|pvc|s3|file)://[A-Za-z0-9._~/@:+*-]*$", min_length=6, max_length=512)
]
Image = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._/:@-]*$", max_length=512)]
CidrBlock = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}$", max_length=64)]
LabelText = Annotated[str, StringConstraints(max_length=317)]
_BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class CatalogueModel(Section):
    """A base model that tenants may use by name."""

    name: ShortText
    """Name, as in baseModel.name."""
    uri: Uri
    """Where it lies."""
    revision: ShortText | None = None
    """Pinned revision. A new one retrains the jobs that ask for it (retrain.onBaseModelChange)."""
    digest: Digest | None = None
    """Digest of its files; another one is refused."""
    license: ShortText | None = None
    """SPDX identifier, shown to tenants."""


class Images(Section):
    """Container images, by digest."""

    prepare: Image | None = None
    """Image of prepare pods."""
    trainer: Image | None = None
    """Image of trainer pods."""
    server: Image | None = None
    """Image of our own server."""
    vllm: Image | None = None
    """Image of vLLM (0.32 or later); serving.engine VLLM is refused without it."""


class Toleration(Section):
    """A toleration, as Kubernetes has it."""

    key: LabelText | None = None
    """Taint key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the key is compared."""
    value: LabelText | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect that is tolerated."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a NoExecute taint is tolerated."""


class EnvironmentVariable(Section):
    """An environment variable of the platform team's own (proxies, caches); never a secret."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name."""
    value: Annotated[str, StringConstraints(max_length=4096)] = ""
    """Value."""


class PodShape(Section):
    """Shape of a pod."""

    resources: Resources = Resources()
    """Requests and limits when the job names none."""
    max_resources: Annotated[dict[ShortText, Quantity], Field(max_length=16)] = {}
    """Most that a job may ask for, by resource name."""
    node_selector: Annotated[dict[LabelText, LabelText], Field(max_length=32)] = {}
    """Nodes to use."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    """Taints to tolerate."""
    runtime_class_name: Name | None = None
    """RuntimeClass."""
    priority_class_name: ShortText | None = None
    """PriorityClass."""
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64, json_schema_extra=_BY_NAME)] = ()
    """Environment variables."""


class StorageClaim(Section):
    """How a claim is made where a namespace has none."""

    storage_class_name: ShortText | None = None
    """StorageClass; the cluster's default without it."""
    size: Quantity = "20Gi"
    """Size."""
    access_modes: Annotated[
        tuple[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"], ...], Field(min_length=1, max_length=3)
    ] = ("ReadWriteOnce",)
    """Access modes; ReadWriteMany where the storage has it."""


class Storage(Section):
    """Claims of a namespace."""

    adapters: StorageClaim = StorageClaim()
    """Sealed versions, checkpoints, reports."""
    models: StorageClaim = StorageClaim(size="100Gi")
    """Base models and prepared data sets."""


class Limits(Section):
    """What a job may ask for at most."""

    max_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Most training.epochs."""
    max_gpus: Annotated[Annotated[int, Field(ge=0, le=1024)] | None, Field(alias="maxGPUs")] = None
    """Most GPUs of a run, over all nodes."""
    max_gpu_hours: Annotated[Decimal | None, Field(alias="maxGPUHours")] = None
    """Most GPU hours of a run; jobs without a budget get this one."""
    max_dataset_bytes: Annotated[int, Field(ge=1)] | None = None
    """Largest data set, in bytes."""
    allowed_methods: Annotated[tuple[MethodType, ...], Field(max_length=3)] = ()
    """Methods that may be used; empty: all."""


class Network(Section):
    """Egress of prepare pods, the only pods that have any."""

    prepare_egress: Annotated[tuple[CidrBlock, ...], Field(max_length=64)] = ()
    """CIDR blocks that prepare pods may reach; empty: none but DNS."""


class FineTuneProfileSpec(Section):
    """What is allowed and provided."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "size(self.models) > 0 || size(self.allowedModelURIs) > 0",
            lambda s: bool(s.models) or bool(s.allowed_model_uris),
            "a profile needs at least one model or one pattern in allowedModelURIs",
        ),
    )

    models: Annotated[tuple[CatalogueModel, ...], Field(max_length=128, json_schema_extra=_BY_NAME)] = ()
    """The catalogue."""
    allowed_model_uris: Annotated[tuple[UriPattern, ...], Field(max_length=64, alias="allowedModelURIs")] = ()
    """Patterns (`*` matches anything) of URIs that jobs may name besides the catalogue."""
    images: Images = Images()
    """Container images; the chart's own without them."""
    trainer: PodShape = PodShape()
    """Trainer pods."""
    server: PodShape = PodShape()
    """Server pods."""
    storage: Storage = Storage()
    """Claims."""
    limits: Limits = Limits()
    """Limits."""
    defaults: Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})] = {}
    """A partial FineTuneJob spec; jobs that leave a field out get it from here."""
    network: Network = Network()
    """Egress."""


class FineTuneProfile(Section):
    """What a platform team allows and provides for fine-tuning."""

    api_version: Literal["topcoat.dev/v1alpha1"] = API_VERSION
    """Version of the API."""
    kind: Literal["FineTuneProfile"] = "FineTuneProfile"
    """Kind of object."""
    metadata: ObjectMeta
    """Name."""
    spec: FineTuneProfileSpec
    """What is allowed and provided."""


LOCAL_PROFILE = FineTuneProfile(
    metadata=ObjectMeta(name="default"),
    spec=FineTuneProfileSpec(allowed_model_uris=("hf://*", "pvc://*", "file://*")),
)
"""The profile of local mode when the store has none of that name: everything the machine itself can do."""
