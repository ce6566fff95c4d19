"""The chart as Helm spells it: valid by the schemas of two versions of Kubernetes, whatever is switched on."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import charts
from tests.support.kube import tools

VERSIONS = ("1.31.0", "1.37.0")
PACKAGE = importlib.util.find_spec("kubernetes_validate")
SCHEMAS = Path(str(PACKAGE and PACKAGE.origin)).parent / "kubernetes-json-schema"
# The Prometheus operator's kinds; nothing here has their schemas.
UNKNOWN = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule")
TEMPLATES = charts.CHART / "templates"


def schemas(version: str, into: Path) -> Path:
    """A copy that kubeconform can follow: without addresses of schemas, references lie beside the file."""
    for path in (SCHEMAS / f"v{version}-local-strict").glob("*.json"):
        body = json.loads(path.read_text().replace('"/api/_definitions.json', '"_definitions.json'))
        body.pop("$id", None)
        (into / path.name).write_text(json.dumps(body))
    return into


@pytest.fixture(scope="module", params=VERSIONS)
def offline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """kubeconform's command for one version of Kubernetes."""
    place = schemas(request.param, tmp_path_factory.mktemp("schemas"))
    location = f"{place}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    words = ["-strict", "-summary", "-output", "json", "-schema-location", location, "-skip", ",".join(UNKNOWN)]
    yield [str(tools.program("kubeconform")), "-kubernetes-version", request.param, *words]
    shutil.rmtree(place)


def conform(command: list[str], text: str) -> dict[str, Any]:
    done = subprocess.run([*command, "-"], check=False, capture_output=True, text=True, input=text, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_lint_has_nothing_to_say() -> None:
    for name, values in charts.VARIANTS.items():
        words = ["--set-json", *(f"{key}={json.dumps(value)}" for key, value in values.items())]
        flat = [word for pair in words[1:] for word in ("--set-json", pair)]
        done = charts.run("lint", "--strict", str(charts.CHART), *flat)
        assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout, (name, done.stdout, done.stderr)


@pytest.mark.parametrize("name", charts.VARIANTS)
def test_every_object_is_valid_by_the_schemas_of_kubernetes(name: str, offline: list[str]) -> None:
    text = charts.template(charts.VARIANTS[name])
    said = conform(offline, text)
    assert said.get("resources") in (None, []), said["resources"]
    unknown = 2 if name == "everything" else 0
    expected = len(charts.objects(text)) - unknown
    assert said["summary"] == {"valid": expected, "invalid": 0, "errors": 0, "skipped": unknown}
    assert expected >= {"nothing": 2}.get(name, 20)


def test_a_misspelt_field_is_caught(offline: list[str]) -> None:
    text = charts.template({}).replace("enableServiceLinks", "enableServiceLinkz")
    assert conform(offline, text)["summary"]["invalid"] == 1


def test_no_key_stands_twice() -> None:
    assert all(charts.variant(name) for name in charts.VARIANTS)
    with pytest.raises(yaml.constructor.ConstructorError, match="twice"):
        charts.objects("a: 1\na: 2")


def test_everything_turns_every_template_on() -> None:
    text = charts.template(charts.EVERYTHING)
    written = {str(path.relative_to(charts.CHART.parent)) for path in TEMPLATES.rglob("*.yaml")}
    assert len(written) >= 12
    assert set(re.findall(r"^# Source: (.*)$", text, re.MULTILINE)) == written


def test_there_are_no_hooks_and_no_webhooks() -> None:
    found = charts.variant("everything")
    assert not [one for one in found if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    assert not [one for one in found if one["kind"].endswith("WebhookConfiguration")]


def test_two_releases_share_no_name_but_those_of_the_kinds() -> None:
    second = charts.EVERYTHING | {"crds": {"enabled": False}, "watchNamespaces": ["team-c"]}
    first = {_identity(one) for one in charts.variant("everything")}
    assert len(first) >= 25
    for release, namespace in (("topcoat", "elsewhere"), ("other", charts.NAMESPACE)):
        account = {"serviceAccount": {"name": f"{release}-tuner"}}
        assert not first & {
            _identity(one) for one in charts.objects(charts.template(second | account, release, namespace))
        }


def _identity(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]


def test_everything_stands_in_a_namespace_or_is_named_after_it() -> None:
    """The release's own, or one that is watched."""
    wide = {"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    for one in charts.variant("everything"):
        if one["kind"] in wide:
            assert one["metadata"]["name"].startswith(f"{charts.NAMESPACE}-")
        elif one["kind"] != "CustomResourceDefinition":
            assert one["metadata"]["namespace"] in {charts.NAMESPACE, "team-a", "team-b"}


def test_kinds_are_those_of_crds_and_are_kept() -> None:
    written = {path.name: yaml.safe_load(path.read_text()) for path in (charts.ROOT / "crds").glob("*.yaml")}
    shipped = charts.of_kind(charts.variant("defaults"), "CustomResourceDefinition")
    assert {one["metadata"]["name"]: one["spec"] for one in shipped} == {
        one["metadata"]["name"]: one["spec"] for one in written.values()
    }
    assert [one["metadata"]["annotations"] for one in shipped] == [{"helm.sh/resource-policy": "keep"}] * 3
    let_go = charts.objects(charts.template({"crds": {"keep": False}}))
    assert [one["metadata"].get("annotations") for one in charts.of_kind(let_go, "CustomResourceDefinition")] == [
        None
    ] * 3


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((charts.ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((charts.CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert chart["kubeVersion"] == ">=1.31.0-0"
    kinds = yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    shipped = charts.of_kind(charts.variant("defaults"), "CustomResourceDefinition")
    assert {(kind["name"], kind["kind"], kind["version"]) for kind in kinds} == {
        (one["metadata"]["name"], one["spec"]["names"]["kind"], one["spec"]["versions"][0]["name"]) for one in shipped
    }


def test_an_old_kubernetes_is_refused() -> None:
    done = charts.run("template", "topcoat", str(charts.CHART), "--kube-version", "1.30.9")
    assert done.returncode != 0
    assert "requires kubeVersion: >=1.31.0-0" in done.stderr


def test_the_notes_say_that_a_profile_is_missing_and_show_one() -> None:
    done = charts.run("install", "topcoat", str(charts.CHART), "--dry-run=client", "--hide-notes=false")
    assert "A FINETUNEJOB NEEDS A PROFILE, AND THIS CHART MAKES NONE" in done.stdout, done.stderr
    shown = done.stdout.split("<<'YAML'\n")[1].split("\nYAML")[0]
    assert yaml.safe_load(shown) == yaml.safe_load((charts.ROOT / "examples/profiles/default.yaml").read_text())


def test_the_plain_manifest_is_the_chart_with_its_defaults() -> None:
    written = charts.objects((charts.ROOT / "deploy" / "install.yaml").read_text())
    assert written[0]["kind"] == "Namespace"
    assert _unlabelled(written[1:]) == _unlabelled(charts.variant("defaults"))
    assert "helm" not in (charts.ROOT / "deploy" / "install.yaml").read_text().lower().replace("charts/", "")


def _unlabelled(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what Helm's own release needs."""
    bodies = [one | {"metadata": {key: one["metadata"].get(key) for key in ("name", "namespace")}} for one in found]
    return sorted(bodies, key=_identity)


def test_the_plain_manifest_is_up_to_date() -> None:
    command = [str(charts.ROOT / "tools" / "install_manifest.py"), "--check"]
    environment = {"HELM": str(tools.program("helm")), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_kustomize_builds_the_same() -> None:
    command = [str(tools.program("kubectl")), "kustomize", str(charts.ROOT / "deploy")]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    written = charts.objects((charts.ROOT / "deploy" / "install.yaml").read_text())
    assert {_identity(one) for one in charts.objects(text)} == {_identity(one) for one in written}
