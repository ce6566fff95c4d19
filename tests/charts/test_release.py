"""A release on a real API server: first install, upgrade, uninstall, install again, a second one beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support import charts
from tests.support.kube import control_plane as planes

pytestmark = pytest.mark.slow

RELEASE = (charts.RELEASE, "--namespace", charts.NAMESPACE)
JOB = {
    "apiVersion": "topcoat.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "kept", "namespace": "default"},
    "spec": {"baseModel": {"uri": "hf://a/b"}, "dataset": {"train": {"uri": "pvc://c/d.jsonl"}}},
}


@pytest.fixture
def plane(bare_plane: planes.ControlPlane) -> Iterator[planes.ControlPlane]:
    """What a test installs is gone afterwards but for the kinds: a kind that was changed a moment ago takes the API
    server minutes to take away when it is busy, and a release of the same name adopts it.
    """
    yield bare_plane
    if "finetunejobs" in bare_plane.kubectl("get", "crd", "-o", "name"):
        bare_plane.kubectl("delete", "finetunejobs", "--all", "-A", "--timeout=50s")
    for name, namespace in (RELEASE[::2], ("two", "second")):
        charts.run("uninstall", name, "--namespace", namespace, kubeconfig=bare_plane.kubeconfig)
    bare_plane.kubectl("delete", "namespace", charts.NAMESPACE, "second", "--ignore-not-found", "--timeout=60s")


def helm(plane: planes.ControlPlane, verb: str, *words: str) -> str:
    done = charts.run(verb, *words, kubeconfig=plane.kubeconfig)
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(plane: planes.ControlPlane, *words: str) -> str:
    return helm(plane, "install", *RELEASE, str(charts.CHART), "--create-namespace", *words)


def test_a_release_lives_and_leaves_the_jobs(plane: planes.ControlPlane) -> None:
    assert "STATUS: deployed" in install(plane)
    plane.kubectl("apply", "-f", str(charts.ROOT / "examples" / "profiles"))
    plane.apply_objects([JOB])
    assert "has been upgraded" in helm(plane, "upgrade", *RELEASE, str(charts.CHART), "--set", "replicas=2")
    assert (
        plane.kubectl("get", "deployment", "topcoat", "-n", charts.NAMESPACE, "-o", "jsonpath={.spec.replicas}") == "2"
    )
    assert "kept due to the resource policy" in helm(plane, "uninstall", *RELEASE)
    assert "kept" in plane.kubectl("get", "finetunejobs", "-A")
    assert not leftovers(plane)
    assert "STATUS: deployed" in install(plane)


def leftovers(plane: planes.ControlPlane) -> list[str]:
    """What still carries the release's label, besides the kinds."""
    kinds = "deploy,svc,sa,cm,role,rolebinding,netpol,clusterrole,clusterrolebinding"
    kinds += ",validatingadmissionpolicy,validatingadmissionpolicybinding"
    label = f"app.kubernetes.io/instance={charts.RELEASE}"
    return plane.kubectl("get", kinds, "-A", "-l", label, "-o", "name").split()


def test_uninstall_takes_the_kinds_away_where_that_is_wanted(plane: planes.ControlPlane) -> None:
    install(plane, "--set", "crds.keep=false")
    helm(plane, "uninstall", *RELEASE)
    plane.kubectl("wait", "--for=delete", "-f", str(charts.ROOT / "crds"), "--timeout=50s")
    assert "topcoat.dev" not in plane.kubectl("get", "crd")


def test_an_upgrade_changes_the_kinds(plane: planes.ControlPlane) -> None:
    """They are templates, so Helm treats them as everything else."""
    install(plane)
    crd = "crd/modelservers.topcoat.dev"
    columns = "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"
    before = plane.kubectl("get", crd, "-o", columns)
    older = [{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/0"}]
    plane.kubectl("patch", crd, "--type=json", "-p", json.dumps(older))
    assert plane.kubectl("get", crd, "-o", columns) != before
    helm(plane, "upgrade", *RELEASE, str(charts.CHART), "--force-conflicts")
    assert plane.kubectl("get", crd, "-o", columns) == before


def test_two_releases_stand_beside_each_other(plane: planes.ControlPlane) -> None:
    install(plane, "--set", "watchNamespaces={default}")
    words = ("--set", "crds.enabled=false", "--set", "watchNamespaces={kube-public}", "--create-namespace")
    helm(plane, "install", "two", str(charts.CHART), "--namespace", "second", *words)
    names = plane.kubectl("get", "clusterroles,validatingadmissionpolicies", "-o", "name")
    assert "topcoat-system-topcoat-view" in names
    assert "second-two-topcoat-view" in names
    helm(plane, "uninstall", "two", "--namespace", "second")
    assert len(leftovers(plane)) >= 15


def test_the_server_takes_everything_that_can_be_switched_on(plane: planes.ControlPlane) -> None:
    """But the Prometheus operator's kinds, which it does not have."""
    plane.create_namespace(charts.NAMESPACE)
    for team in ("team-a", "team-b"):
        plane.create_namespace(team)
    found = [one for one in charts.variant("everything") if not one["apiVersion"].startswith("monitoring.")]
    assert len(found) >= 25
    said = dry_run(plane, found)
    assert len(said.splitlines()) == len(found)


def dry_run(plane: planes.ControlPlane, found: list[dict[str, Any]]) -> str:
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    return plane.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=body)


def test_the_operators_pod_is_admitted_where_pod_security_is_restricted(plane: planes.ControlPlane) -> None:
    plane.create_namespace("second", {"pod-security.kubernetes.io/enforce": "restricted"})
    (template,) = charts.pod_templates(charts.variant("defaults"))
    spec = template["spec"] | {"serviceAccountName": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": "second"}, "spec": spec}
    assert "probe" in dry_run(plane, [pod])
    spec = spec | {"securityContext": {}}
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        dry_run(plane, [pod | {"spec": spec}])


def test_the_plain_manifest_is_applied_at_once(plane: planes.ControlPlane) -> None:
    for words in (("-f", "install.yaml"), ("-k", ".")):
        plane.kubectl("apply", "--server-side", words[0], str(charts.ROOT / "deploy" / words[1]))
    plane.kubectl("delete", "-f", str(charts.ROOT / "deploy" / "install.yaml"), "--timeout=60s", timeout_seconds=90)


def test_the_notes_profile_can_be_applied_as_it_is_shown(plane: planes.ControlPlane) -> None:
    said = install(plane)
    command = said[said.index("kubectl apply -f - <<'YAML'") :].split("\nYAML\n")[0].split("\n", 1)[1]
    plane.kubectl("apply", "-f", "-", stdin=command)
    (profile,) = yaml.safe_load(plane.kubectl("get", "finetuneprofiles", "-o", "yaml"))["items"]
    assert profile["metadata"]["name"] == "default"
    plane.kubectl("delete", "finetuneprofiles", "--all")


def test_a_namespace_that_is_not_there_is_named(plane: planes.ControlPlane) -> None:
    done = charts.run(
        "install", *RELEASE, str(charts.CHART), "--create-namespace", "--set", "watchNamespaces={nowhere}",
        kubeconfig=plane.kubeconfig,
    )  # fmt: skip
    assert done.returncode != 0
    assert 'namespaces "nowhere" not found' in done.stderr
