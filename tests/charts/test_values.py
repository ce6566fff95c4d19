"""Values: each is used and explained, wrong ones are refused with their place, the operator knows what it is told."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support import charts
from topcoat.api import server
from topcoat.handlers import settings
from topcoat.manifests import metadata, networkpolicy

SCHEMA: dict[str, Any] = json.loads((charts.CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((charts.CHART / "values.yaml").read_text())
TEXT = "\n".join(path.read_text() for path in sorted((charts.CHART / "templates").rglob("*")) if path.is_file())
# Helm's own, for charts that are part of others.
UNUSED = {"global"}


def leaves(node: dict[str, Any], place: str = "") -> list[str]:
    """Keys of the schema that hold no further keys."""
    found = []
    for key, part in node["properties"].items():
        found += leaves(part, f"{place}{key}.") if part.get("properties") else [f"{place}{key}"]
    return found


def used(key: str) -> bool:
    """Whether a template reads the value: by its whole path, below a `with` of its parent, or as an image."""
    parent, _, last = key.rpartition(".")
    if parent.endswith(("image", "Image")):
        return f".image.{last}" in TEXT or f".Values.{key}" in TEXT
    below = f"with .Values.{parent}" in TEXT and re.search(rf"(?<![\w$])\.{last}\b", TEXT)
    return f".Values.{key}" in TEXT or bool(parent and below)


def test_every_value_is_used() -> None:
    keys = leaves(SCHEMA)
    assert len(keys) >= 50
    assert [key for key in keys if not used(key)] == sorted(UNUSED)
    assert not used("replicaz")
    assert not used("metrics.serviceMonitor.scheme")


def test_no_template_reads_a_value_that_is_not_there() -> None:
    keys = set(leaves(SCHEMA))
    groups = {key.rsplit(".", depth)[0] for key in keys for depth in (1, 2) if "." in key}
    read = set(re.findall(r"\.Values\.([A-Za-z.]+)", TEXT))
    assert len(read) >= 30
    assert not {name for name in read if name not in keys | groups}


def test_values_yaml_holds_the_schemas_defaults_and_explains_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(DEFAULTS, SCHEMA)
    lines = (charts.CHART / "values.yaml").read_text().splitlines()
    explained = 0
    for number, line in enumerate(lines):
        if (key := re.match(r"( *)([A-Za-z]+):", line)) and key[2] in _own_keys(SCHEMA):
            above = [text.strip() for text in lines[max(0, number - 5) : number]]
            explained += any(text.startswith("# -- ") for text in above)
    assert explained >= len(leaves(SCHEMA))
    readme = (charts.CHART / "README.md").read_text()
    assert not [key for key in leaves(SCHEMA) if f"`{key}`" not in readme]


def _own_keys(node: dict[str, Any]) -> set[str]:
    return {name for key, part in node.get("properties", {}).items() for name in {key} | _own_keys(part)}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 3}, "at '/replicas': maximum: got 3, want 2"),
        ({"replica": 1}, "additional properties 'replica' not allowed"),
        ({"image": {"tga": "1"}}, "at '/image': additional properties 'tga' not allowed"),
        ({"image": {"tag": "a b"}}, "at '/image/tag': 'a b' does not match pattern"),
        ({"image": {"digest": "sha256:12"}}, "at '/image/digest'"),
        (
            {"trainerImage": {"pullPolicy": "Sometimes"}},
            "at '/trainerImage/pullPolicy': value must be one of '', 'Always'",
        ),
        ({"imagePullSecrets": ["mine"]}, "at '/imagePullSecrets/0': got string, want object"),
        ({"watchNamespaces": "team-a"}, "at '/watchNamespaces': got string, want array"),
        ({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces': items at 0 and 1 are equal"),
        ({"watchNamespaces": ["Team"]}, "at '/watchNamespaces/0': 'Team' does not match pattern"),
        ({"rbac": {"scope": "Namespace"}}, "at '/watchNamespaces': minItems: got 0, want 1"),
        ({"crds": {"enabled": "yes"}}, "at '/crds/enabled': got string, want boolean"),
        ({"log": {"level": "loud"}}, "at '/log/level': value must be one of 'debug', 'info', 'warning', 'error'"),
        ({"lease": {"seconds": 1}}, "at '/lease/seconds': minimum: got 1, want 5"),
        ({"podLabels": {"a": 1}}, "at '/podLabels/a': got number, want string"),
        ({"extraEnv": [{"value": "x"}]}, "at '/extraEnv/0': missing property 'name'"),
        ({"extraEnv": [{"name": "TOPCOAT_LOG_LEVEL"}]}, "extraEnv: TOPCOAT_LOG_LEVEL belongs to the chart"),
        ({"extraEnv": [{"name": "A"}, {"name": "A"}]}, "extraEnv: A is there twice"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        charts.template(values)


def container(values: dict[str, Any]) -> dict[str, Any]:
    (deployment,) = charts.of_kind(charts.objects(charts.template(values)), "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def environment(values: dict[str, Any]) -> dict[str, str]:
    entries = container(values)["env"]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"]: entry.get("value", "<from>") for entry in entries}


@pytest.mark.parametrize(
    ("image", "spelled"),
    [
        ({}, "topcoat/operator:0.1.0"),
        ({"tag": "2"}, "topcoat/operator:2"),
        ({"registry": "r.example.com:5000/ml"}, "r.example.com:5000/ml/topcoat/operator:0.1.0"),
        ({"repository": "a/b", "digest": "sha256:" + "1" * 64}, "a/b:0.1.0@sha256:" + "1" * 64),
    ],
)
def test_an_image_is_spelled_from_its_parts(image: dict[str, str], spelled: str) -> None:
    assert container({"image": image})["image"] == spelled


def test_the_trainers_image_comes_from_the_operators_registry_unless_it_has_its_own() -> None:
    assert environment({"image": {"registry": "a.b"}})["TOPCOAT_TRAINER_IMAGE"] == "a.b/topcoat/trainer:0.1.0"
    own = {"image": {"registry": "a.b"}, "trainerImage": {"registry": "c.d"}}
    assert environment(own)["TOPCOAT_TRAINER_IMAGE"] == "c.d/topcoat/trainer:0.1.0"


@pytest.mark.parametrize(
    ("values", "operator", "trainer"),
    [
        ({}, "Never", "Never"),
        ({"image": {"registry": "a.b"}}, "IfNotPresent", "IfNotPresent"),
        ({"trainerImage": {"registry": "a.b"}}, "Never", "IfNotPresent"),
        ({"image": {"pullPolicy": "Always"}}, "Always", "Never"),
    ],
)
def test_an_image_without_a_registry_is_never_pulled(values: dict[str, Any], operator: str, trainer: str) -> None:
    """`topcoat/operator` on a public registry may be somebody else's, and would run with the operator's rights."""
    assert container(values)["imagePullPolicy"] == operator
    assert environment(values)["TOPCOAT_IMAGE_PULL_POLICY"] == trainer


def test_the_operator_gets_its_settings() -> None:
    found = environment(charts.EVERYTHING | {"log": {"level": "debug", "format": "text"}, "resyncSeconds": 60})
    assert found.pop("TOPCOAT_POD_NAME") == found.pop("TOPCOAT_POD_NAMESPACE") == found.pop("POD_UID") == "<from>"
    assert found == {
        "TOPCOAT_WATCH_NAMESPACES": "team-a,team-b",
        "TOPCOAT_TRAINER_IMAGE": "other.example.com/topcoat/trainer:1.2",
        "TOPCOAT_IMAGE_PULL_POLICY": "Always",
        "TOPCOAT_IMAGE_PULL_SECRETS": "first,second",
        "TOPCOAT_WORKERS": "16",
        "TOPCOAT_LEASE_NAME": "topcoat-operator",
        "TOPCOAT_LEASE_SECONDS": "15",
        "TOPCOAT_RESYNC_SECONDS": "60",
        "TOPCOAT_HTTP_PORT": "8080",
        "TOPCOAT_PROGRESS_PORT": "8082",
        "TOPCOAT_PROGRESS_URL": "http://topcoat-progress.topcoat-system.svc:8082",
        "TOPCOAT_PROGRESS_AUDIENCE": "topcoat-progress",
        "TOPCOAT_LOG_LEVEL": "debug",
        "TOPCOAT_LOG_FORMAT": "text",
        "HTTPS_PROXY": "http://proxy.example.com",
    }


def test_without_progress_there_is_no_address_and_no_service() -> None:
    values = {"progress": {"enabled": False}}
    assert environment(values)["TOPCOAT_PROGRESS_URL"] == ""
    names = {one["metadata"]["name"] for one in charts.of_kind(charts.objects(charts.template(values)), "Service")}
    assert names == {"topcoat-metrics"}


def test_the_operator_knows_every_setting_that_the_chart_gives_and_no_other() -> None:
    for values in ({}, charts.EVERYTHING):
        given = environment(values)
        found = settings.read(given | {"TOPCOAT_POD_NAME": "one", "TOPCOAT_POD_NAMESPACE": charts.NAMESPACE})
        assert {f"TOPCOAT_{name.upper()}" for name in settings.Settings.model_fields} == {
            name for name in given if name.startswith("TOPCOAT_")
        }
        assert found.namespaces == tuple(values.get("watchNamespaces", ()))


def test_defaults_are_those_that_the_operator_has_itself() -> None:
    given = environment({})
    fields = {name: field for name, field in settings.Settings.model_fields.items() if not field.is_required()}
    same = {
        name: str(field.default)
        for name, field in fields.items()
        if name not in {"pod_name", "progress_url", "image_pull_policy"}
    }
    assert len(same) >= 9
    given |= {"TOPCOAT_POD_NAMESPACE": charts.NAMESPACE}
    assert {name: given[f"TOPCOAT_{name.upper()}"] for name in same} == same


def test_policies_of_other_namespaces_mean_this_operator() -> None:
    for values in ({}, charts.EVERYTHING | {"nameOverride": "other"}):
        (template,) = charts.pod_templates(charts.objects(charts.template(values)))
        assert networkpolicy.OPERATOR.items() <= template["metadata"]["labels"].items()


def test_the_operators_policy_means_pods_of_topcoat() -> None:
    (policy,) = charts.of_kind(charts.variant("everything"), "NetworkPolicy")
    ports = {port["port"]: rule for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert set(ports) == {8080, networkpolicy.PROGRESS_PORT}
    agents = next(rule for rule in policy["spec"]["egress"] if rule["ports"] == [{"port": server.AGENT_PORT}])
    for rule, role in (
        (ports[networkpolicy.PROGRESS_PORT]["from"], metadata.Role.TRAIN),
        (agents["to"], metadata.Role.SERVER),
    ):
        (peer,) = rule
        assert peer["podSelector"]["matchLabels"] == {metadata.MANAGED_BY: metadata.MANAGER, metadata.ROLE: role.value}
        assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["team-a", "team-b"]
