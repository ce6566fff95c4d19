"""The chart as the real Helm spells it, for tests; and the values that turn everything on."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.kube import tools

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "topcoat"
RELEASE = "topcoat"
NAMESPACE = "topcoat-system"
HELM_SECONDS = 120

EVERYTHING: Json = {
    "replicas": 2,
    "watchNamespaces": ["team-a", "team-b"],
    "image": {"registry": "registry.example.com/ml", "digest": "sha256:" + "0" * 64},
    "trainerImage": {"registry": "other.example.com", "tag": "1.2", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "first"}, {"name": "second"}],
    "serviceAccount": {"name": "tuner", "annotations": {"example.com/a": "b"}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "watch"}}}]},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "runbookURL": "https://example.com/x"},
    },
    "grafana": {"dashboards": {"enabled": True, "annotations": {"folder": "Topcoat"}}},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "high",
    # Labels that would come twice.
    "podLabels": {"cost-centre": "ml", "app.kubernetes.io/name": "other"},
    "podAnnotations": {"example.com/a": "b", "kubectl.kubernetes.io/default-container": "other"},
    "extraEnv": [
        {"name": "HTTPS_PROXY", "value": "http://proxy.example.com"},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ],
}
"""Every switch on, every empty value filled."""

VARIANTS: dict[str, Json] = {
    "defaults": {},
    "everything": EVERYTHING,
    "nothing": {
        "crds": {"enabled": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False},
        "userRoles": {"create": False},
        "admissionPolicy": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "progress": {"enabled": False},
        "resources": {},
    },
    "cluster rights, some namespaces": {"watchNamespaces": ["team-a"], "rbac": {"scope": "Cluster"}},
}


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice; Helm's server-side apply does, too."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> Json:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
    return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def run(*words: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Helm with a home of its own; the caller looks at the exit code."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.environ["PATH"]}
        environment |= {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
        command = [str(tools.program("helm")), *words]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=HELM_SECONDS
        )


def template(values: Mapping[str, Any], release: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """`helm template`; fails with Helm's words."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        done = run("template", release, str(CHART), "--namespace", namespace, "--values", file.name)
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def objects(text: str) -> list[Json]:
    """The objects of a rendered text, each key once."""
    return [found for found in yaml.load_all(text, _Strict) if found]


@functools.cache
def _variant(name: str) -> str:
    return template(VARIANTS[name])


def variant(name: str) -> list[Json]:
    """Objects of one of VARIANTS."""
    return objects(_variant(name))


def of_kind(found: list[Json], kind: str) -> list[Json]:
    return [one for one in found if one["kind"] == kind]


def pod_templates(found: list[Json]) -> Iterator[Json]:
    """Every pod template, whatever holds it."""
    for one in found:
        if "template" in one.get("spec", {}):
            yield one["spec"]["template"]
