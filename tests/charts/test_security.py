"""Pods of the chart pass Pod Security `restricted`, by its rules; test_cluster.py asks a real API server as well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import charts

Json = dict[str, Any]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
POD_RULES: dict[str, Callable[[Json], bool]] = {
    "no namespace of the host": lambda pod: not {"hostNetwork", "hostPID", "hostIPC"} & set(pod),
    "only harmless volumes": lambda pod: all(set(one) - {"name"} <= VOLUMES for one in pod.get("volumes", [])),
}
# A container's own word counts before its pod's.
CONTAINER_RULES: dict[str, Callable[[Json, Json], bool]] = {
    "no escalation": lambda own, pod: own.get("allowPrivilegeEscalation") is False,
    "not privileged": lambda own, pod: not own.get("privileged"),
    "no capability": lambda own, pod: own.get("capabilities") == {"drop": ["ALL"]},
    "not root": lambda own, pod: {**pod, **own}.get("runAsNonRoot") is True and {**pod, **own}.get("runAsUser") != 0,
    "seccomp": lambda own, pod: {**pod, **own}.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
    # Ours, beyond the standard.
    "read-only root": lambda own, pod: own.get("readOnlyRootFilesystem") is True,
}


def broken_rules(template: Json) -> tuple[list[str], int]:
    pod = template["spec"]
    broken = [name for name, rule in POD_RULES.items() if not rule(pod)]
    containers = [*pod["containers"], *pod.get("initContainers", [])]
    for one in containers:
        rules = CONTAINER_RULES.items()
        context, outer = one.get("securityContext", {}), pod.get("securityContext", {})
        broken += [f"{one['name']}: {name}" for name, rule in rules if not rule(context, outer)]
        broken += [f"{one['name']}: port of the node" for port in one.get("ports", []) if port.get("hostPort")]
    return broken, len(POD_RULES) + len(containers) * len(CONTAINER_RULES)


@pytest.mark.parametrize("name", charts.VARIANTS)
def test_every_pod_is_restricted(name: str) -> None:
    (template,) = charts.pod_templates(charts.variant(name))
    assert broken_rules(template) == ([], 8)
    spec = template["spec"]
    assert {one["mountPath"] for one in spec["containers"][0]["volumeMounts"]} == {"/tmp"}
    assert spec["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("hostNetwork",), True, "no namespace of the host"),
        (("volumes",), [{"name": "x", "hostPath": {"path": "/"}}], "only harmless volumes"),
        (("securityContext",), {}, "operator: not root"),
        (
            ("containers", 0, "securityContext", "capabilities"),
            {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
            "no capability",
        ),
        (("containers", 0, "securityContext", "runAsUser"), 0, "operator: not root"),
        (("containers", 0, "securityContext"), {}, "operator: no escalation"),
        (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}], "operator: port of the node"),
    ],
)
def test_a_pod_that_is_not_is_caught(place: tuple[str | int, ...], value: object, said: str) -> None:
    (template,) = charts.pod_templates(copy.deepcopy(charts.variant("defaults")))
    part: Any = template["spec"]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    assert any(said in problem for problem in broken_rules(template)[0])


def test_nothing_but_the_operators_pod_gets_a_token_and_the_chart_holds_no_secret() -> None:
    found = charts.variant("everything")
    assert [one["automountServiceAccountToken"] for one in charts.of_kind(found, "ServiceAccount")] == [False]
    assert not charts.of_kind(found, "Secret")
    (template,) = charts.pod_templates(found)
    assert template["spec"]["automountServiceAccountToken"] is True
    assert template["spec"]["enableServiceLinks"] is False
