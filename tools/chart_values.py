"""All that one can say to the chart, described once. values.yaml, its schema and its pages are spelled from here.

A default that the operator has itself is repeated here; tests/charts compares the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)]
DnsNameOrEmpty = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$", max_length=253)]
ShortNameOrEmpty = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", max_length=40)]
Port = Annotated[int, Field(ge=1, le=65535)]
Texts = dict[str, str]
Json = dict[str, Any]
PullPolicy = Literal["", "Always", "IfNotPresent", "Never"]


class Values(BaseModel):
    """A group of values; what it does not know is refused."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", use_attribute_docstrings=True)


class Image(Values):
    registry: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._/-]+)?)?$")] = ""
    """Registry, with a path if there is one: `registry.example.com/ml`. Empty: the image is on the nodes already."""
    repository: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/-]*$")]
    """Repository."""
    tag: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$")] = ""
    """Tag. Empty: the chart's appVersion."""
    digest: Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest, `sha256:…`. It decides, whatever the tag says."""
    pull_policy: PullPolicy = ""
    """Pull policy. Empty: `IfNotPresent` with a registry; without one `Never`, as the name could be anybody's on a
    public registry."""


class TrainerImage(Image):
    registry: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._/-]+)?)?$")] = ""
    """Registry. Empty: `image.registry`."""


class PullSecret(Values):
    name: DnsName
    """Name of the Secret."""


class Crds(Values):
    enabled: bool = True
    """Install the three CustomResourceDefinitions. Only one release of a cluster may have them."""
    keep: bool = True
    """Leave them, and so every FineTuneJob, when the release is uninstalled."""


class Rbac(Values):
    create: bool = True
    """Create the operator's roles and bindings."""
    scope: Literal["Auto", "Cluster", "Namespace"] = "Auto"
    """`Cluster`: one ClusterRole. `Namespace`: a Role in each of `watchNamespaces` (which must exist), and a
    ClusterRole for profiles and token reviews alone. `Auto`: `Namespace` where `watchNamespaces` is set."""


class ServiceAccount(Values):
    create: bool = True
    """Create the operator's ServiceAccount."""
    name: DnsNameOrEmpty = ""
    """Its name. Empty: the release's full name."""
    annotations: Texts = {}
    """Its annotations."""


class UserRoles(Values):
    create: bool = True
    """Create ClusterRoles for people, aggregated to Kubernetes' own `view`, `edit` and `admin`."""


class AdmissionPolicy(Values):
    enabled: bool = True
    """Refuse FineTuneJobs and ModelServers that name a Secret which their author may not read. Keep it on where people
    who may create FineTuneJobs may not read every Secret of their namespace."""


class NetworkPolicy(Values):
    enabled: bool = True
    """Let the operator's pods be reached, and reach others, only as they must."""
    api_server_ports: Annotated[list[Port], Field(min_length=1)] = [443, 6443]
    """Ports at which the Kubernetes API answers."""
    metrics_from: list[Json] = []
    """Who may fetch metrics: NetworkPolicy peers. Empty: every pod of the cluster."""


class Progress(Values):
    enabled: bool = True
    """Let trainer pods report progress to the operator, on port 8082."""


class Lease(Values):
    seconds: Annotated[int, Field(ge=5, le=300)] = 15
    """How long, in seconds, a lost leader is waited for before another replica takes over."""


class Log(Values):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message that is logged."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""


class ServiceMonitor(Values):
    enabled: bool = False
    """Create a ServiceMonitor. Needs the Prometheus operator's CRDs."""
    interval: Annotated[str, StringConstraints(pattern=r"^[0-9]+(s|m)$")] = "30s"
    """How often metrics are fetched."""
    labels: Texts = {}
    """More labels, by which your Prometheus finds it."""


class PrometheusRule(Values):
    enabled: bool = False
    """Create alerts. Needs the Prometheus operator's CRDs."""
    labels: Texts = {}
    """More labels, by which your Prometheus finds them."""
    runbook_url: Annotated[str, Field(alias="runbookURL")] = ""
    """Where you publish `docs/how-to/answer-alerts.md`; alerts link to its sections. Empty: they name the file."""


class Metrics(Values):
    service_monitor: ServiceMonitor = ServiceMonitor()
    """ServiceMonitor."""
    prometheus_rule: PrometheusRule = PrometheusRule()
    """Alerts."""


class Dashboards(Values):
    enabled: bool = False
    """Create a ConfigMap with two dashboards: the operator's, and one for people who tune models."""
    labels: Texts = {"grafana_dashboard": "1"}
    """Labels by which your Grafana's sidecar finds it."""
    annotations: Texts = {}
    """Annotations, such as the sidecar's folder."""


class Grafana(Values):
    dashboards: Dashboards = Dashboards()
    """Dashboards."""


class EnvironmentVariable(Values):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name."""
    value: str | None = None
    """Value."""
    value_from: Json | None = None
    """Source of the value, as Kubernetes has it."""


class Chart(Values):
    """Values of the chart."""

    name_override: ShortNameOrEmpty = ""
    """Replaces the chart's name in the names of objects."""
    fullname_override: ShortNameOrEmpty = ""
    """Replaces the full name of the release."""
    replicas: Annotated[int, Field(ge=0, le=2)] = 1
    """Operator pods. With 2, one works and the other waits for its lease. Runs and servers need none of them."""
    watch_namespaces: Annotated[list[DnsLabel], Field(json_schema_extra={"uniqueItems": True})] = []
    """Namespaces whose FineTuneJobs are looked after. Empty: all."""
    image: Image = Image(repository="topcoat/operator")
    """The operator's image."""
    trainer_image: TrainerImage = TrainerImage(repository="topcoat/trainer")
    """Image of the pods that prepare, train, inspect and serve, where a profile names none."""
    image_pull_secrets: Annotated[list[PullSecret], Field(json_schema_extra={"uniqueItems": True})] = []
    """Secrets for pulling images. Trainer pods name them too: they must exist in the namespaces of your jobs."""
    crds: Crds = Crds()
    """CustomResourceDefinitions."""
    rbac: Rbac = Rbac()
    """The operator's rights."""
    service_account: ServiceAccount = ServiceAccount()
    """The operator's ServiceAccount."""
    user_roles: UserRoles = UserRoles()
    """Rights of people."""
    admission_policy: AdmissionPolicy = AdmissionPolicy()
    """ValidatingAdmissionPolicy on references to Secrets."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """NetworkPolicy of the operator's pods."""
    progress: Progress = Progress()
    """Progress of runs."""
    lease: Lease = Lease()
    """Lease of the working replica."""
    resync_seconds: Annotated[int, Field(ge=10, le=86400)] = 300
    """How often, in seconds, everything is looked at although nothing was heard of it."""
    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Objects looked at at the same time."""
    log: Log = Log()
    """Logs."""
    metrics: Metrics = Metrics()
    """Metrics, on port 8080."""
    grafana: Grafana = Grafana()
    """Grafana."""
    resources: Json = {"requests": {"cpu": "100m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}}
    """Requests and limits of an operator pod. It has no limit of CPU: throttled probes restart a healthy pod."""
    node_selector: Texts = {}
    """Nodes for operator pods."""
    tolerations: list[Json] = []
    """Taints that operator pods tolerate."""
    affinity: Json = {}
    """Affinity of operator pods."""
    priority_class_name: DnsNameOrEmpty = ""
    """PriorityClass of operator pods."""
    pod_annotations: Texts = {}
    """Annotations of operator pods."""
    pod_labels: Texts = {}
    """Labels of operator pods."""
    pod_security_context: Json = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    """Security context of operator pods. The default passes Pod Security `restricted`."""
    security_context: Json = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    """Security context of the container. The default passes Pod Security `restricted`."""
    extra_env: list[EnvironmentVariable] = []
    """More environment variables of the operator, such as proxies. `TOPCOAT_…` belongs to the chart."""
    global_: Annotated[Json, Field(alias="global")] = {}
    """Helm passes it to charts that are part of others; nothing reads it."""


NEEDS_NAMESPACES = {
    "if": {"properties": {"rbac": {"required": ["scope"], "properties": {"scope": {"const": "Namespace"}}}}},
    "then": {"required": ["watchNamespaces"], "properties": {"watchNamespaces": {"minItems": 1}}},
}
"""Roles in namespaces need namespaces."""
