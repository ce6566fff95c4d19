"""Who may do what once the chart is installed: asked of the real API server, as the operator and as people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client

from tests.support import charts
from tests.support.kube import control_plane as planes

pytestmark = pytest.mark.slow

Question = tuple[str, str, str | None]  # verb, what, namespace
OWN, TENANT, SYSTEM = charts.NAMESPACE, "default", "kube-system"

NEEDED: tuple[Question, ...] = (
    ("list", "finetunejobs.topcoat.dev", None),
    ("watch", "finetunejobs.topcoat.dev", None),
    ("patch", "finetunejobs.topcoat.dev/status", TENANT),
    ("watch", "finetuneprofiles.topcoat.dev", None),
    ("create", "modelservers.topcoat.dev", TENANT),
    ("delete", "modelservers.topcoat.dev", TENANT),
    ("patch", "modelservers.topcoat.dev/status", TENANT),
    ("create", "jobs.batch", TENANT),
    ("watch", "jobs.batch", None),
    ("delete", "jobs.batch", TENANT),
    ("list", "pods", None),
    ("watch", "pods", None),
    ("get", "persistentvolumeclaims", TENANT),
    ("create", "persistentvolumeclaims", TENANT),
    ("patch", "configmaps", TENANT),
    ("delete", "configmaps", TENANT),
    ("create", "services", TENANT),
    ("patch", "deployments.apps", TENANT),
    ("watch", "deployments.apps", None),
    ("patch", "networkpolicies.networking.k8s.io", TENANT),
    ("create", "events", TENANT),
    ("create", "tokenreviews.authentication.k8s.io", None),
    ("create", "leases.coordination.k8s.io", OWN),
    ("update", "leases.coordination.k8s.io/topcoat-operator", OWN),
    ("create", "secrets", OWN),
    ("get", "secrets/topcoat-operator-key", OWN),
    ("list", "workloads.kueue.x-k8s.io", None),
)
FORBIDDEN: tuple[Question, ...] = (
    ("create", "pods", SYSTEM),
    ("create", "pods", TENANT),
    ("delete", "pods", TENANT),
    ("create", "pods/exec", TENANT),
    ("get", "pods/exec", TENANT),
    ("create", "pods/attach", TENANT),
    ("create", "pods/portforward", TENANT),
    ("create", "pods/ephemeralcontainers", TENANT),
    ("get", "pods/log", TENANT),
    ("get", "secrets", TENANT),
    ("list", "secrets", TENANT),
    ("watch", "secrets", None),
    ("create", "secrets", TENANT),
    ("get", "secrets/other", OWN),
    ("list", "secrets", OWN),
    ("update", "secrets/topcoat-operator-key", OWN),
    ("delete", "secrets/topcoat-operator-key", OWN),
    ("list", "configmaps", TENANT),
    ("delete", "persistentvolumeclaims", TENANT),
    ("list", "persistentvolumes", None),
    ("create", "serviceaccounts/token", TENANT),
    ("create", "serviceaccounts", TENANT),
    ("impersonate", "users", None),
    ("impersonate", "serviceaccounts", SYSTEM),
    ("escalate", "clusterroles.rbac.authorization.k8s.io", None),
    ("bind", "clusterroles.rbac.authorization.k8s.io", None),
    ("create", "rolebindings.rbac.authorization.k8s.io", TENANT),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io", None),
    ("get", "nodes", None),
    ("get", "nodes/proxy", None),
    ("create", "namespaces", None),
    ("delete", "namespaces", TENANT),
    ("patch", "finetunejobs.topcoat.dev", TENANT),
    ("delete", "finetunejobs.topcoat.dev", TENANT),
    ("create", "finetunejobs.topcoat.dev", TENANT),
    ("patch", "finetuneprofiles.topcoat.dev", None),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io", None),
    ("delete", "validatingadmissionpolicies.admissionregistration.k8s.io", None),
    ("create", "daemonsets.apps", SYSTEM),
    ("create", "cronjobs.batch", TENANT),
    ("update", "leases.coordination.k8s.io/kube-scheduler", SYSTEM),
    ("update", "leases.coordination.k8s.io/other", OWN),
    ("create", "certificatesigningrequests.certificates.k8s.io", None),
    ("*", "*", None),
)


def can_i(plane: planes.ControlPlane, question: Question, *who: str) -> bool:
    """A SubjectAccessReview by the real server: what `kubectl auth can-i` asks."""
    with plane.client() as api:
        reviews: Any = client.AuthorizationV1Api(api)
        review = reviews.create_subject_access_review(_review(*question, *who), _request_timeout=10)
    allowed: bool = review.status.allowed
    return allowed


def _review(verb: str, what: str, namespace: str | None, user: str, *groups: str) -> dict[str, Any]:
    kind, _, last = what.partition("/")
    plural, _, group = kind.partition(".")
    subresources = {"status", "exec", "attach", "portforward", "ephemeralcontainers", "log", "token", "proxy"}
    asked = {"verb": verb, "resource": plural, "group": group if plural != "*" else "*"}
    asked |= {"namespace": namespace} if namespace else {}
    asked |= {"subresource" if last in subresources else "name": last} if last else {}
    body = {"resourceAttributes": asked, "user": user, "groups": ["system:authenticated", *groups]}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": body}


OPERATOR = (f"system:serviceaccount:{OWN}:topcoat", "system:serviceaccounts", f"system:serviceaccounts:{OWN}")


def test_the_operator_may_do_what_it_needs(installed: planes.ControlPlane) -> None:
    assert len(NEEDED) >= 25
    assert [question for question in NEEDED if not can_i(installed, question, *OPERATOR)] == []


def test_the_operator_may_do_none_of_what_is_forbidden(installed: planes.ControlPlane) -> None:
    assert len(FORBIDDEN) >= 40
    assert [question for question in FORBIDDEN if can_i(installed, question, *OPERATOR)] == []
    assert can_i(installed, ("*", "*", None), "root", "system:masters")


def test_an_operator_of_some_namespaces_may_do_nothing_elsewhere(installed: planes.ControlPlane) -> None:
    plane, words = installed, ["--namespace", "second"]
    some = ("--set", "crds.enabled=false", "--set", "watchNamespaces={default}", "--create-namespace")
    done = charts.run("install", "two", str(charts.CHART), *words, *some, kubeconfig=plane.kubeconfig)
    assert done.returncode == 0, done.stderr
    account = ("system:serviceaccount:second:two-topcoat",)
    tenants = [question for question in NEEDED if question[2] == TENANT]
    elsewhere = [(verb, what, SYSTEM) for verb, what, _ in tenants]
    everywhere = [(verb, what, None) for verb, what, _ in tenants]
    assert len(tenants) >= 12
    assert [question for question in tenants if not can_i(plane, question, *account)] == []
    assert [question for question in [*elsewhere, *everywhere] if can_i(plane, question, *account)] == []
    assert can_i(plane, ("watch", "finetuneprofiles.topcoat.dev", None), *account)
    charts.run("uninstall", "two", *words, kubeconfig=plane.kubeconfig)


def bind(plane: planes.ControlPlane, namespace: str, role: str, user: str) -> None:
    plane.kubectl("create", "rolebinding", f"{user}-{role}", "-n", namespace, f"--clusterrole={role}", f"--user={user}")


def wait_for_aggregation(plane: planes.ControlPlane) -> None:
    """The controller adds our rules to `edit` within moments of the installation."""
    for _ in range(50):
        if "finetunejobs" in plane.kubectl("get", "clusterrole", "admin", "edit", "view", "-o", "json"):
            break
    plane.kubectl("wait", "clusterrole/edit", "--for=jsonpath={.aggregationRule}", "--timeout=10s")


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("view", ["get finetunejobs", "list modelservers", "get finetunejobs/status"], ["create finetunejobs"]),
        (
            "edit",
            ["create finetunejobs", "patch finetunejobs", "delete finetunejobs", "watch modelservers"],
            ["patch finetunejobs/status", "update finetunejobs/status", "create modelservers", "get finetuneprofiles",
             "patch finetuneprofiles"],
        ),
        (
            "admin",
            ["create finetunejobs", "create modelservers", "delete modelservers"],
            ["patch finetunejobs/status", "patch modelservers/status", "patch finetuneprofiles"],
        ),
    ],
)  # fmt: skip
def test_people_may_do_what_their_role_says(
    installed: planes.ControlPlane, team: Callable[[], str], role: str, may: list[str], may_not: list[str]
) -> None:
    namespace = team()
    bind(installed, namespace, role, "ann")
    wait_for_aggregation(installed)

    def ask(words: str) -> bool:
        verb, what = words.split()
        plural, slash, below = what.partition("/")
        return can_i(installed, (verb, f"{plural}.topcoat.dev{slash}{below}", namespace), "ann")

    assert [words for words in may if not ask(words)] == []
    assert [words for words in may_not if ask(words)] == []


def as_user(plane: planes.ControlPlane, user: str, *words: str, body: dict[str, Any] | None = None) -> str:
    kubeconfig = f"--kubeconfig={plane.kubeconfig_of(user)}"
    return plane.kubectl(kubeconfig, *words, stdin=json.dumps(body) if body else None)


def job(namespace: str, **spec: Any) -> dict[str, Any]:
    whole = {"baseModel": {"uri": "hf://a/b"}, "dataset": {"train": {"uri": "pvc://c/d.jsonl"}}} | spec
    meta = {"name": "mine", "namespace": namespace}
    return {"apiVersion": "topcoat.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": whole}


def test_an_editor_writes_jobs_but_neither_status_nor_profiles(
    installed: planes.ControlPlane, team: Callable[[], str]
) -> None:
    namespace = team()
    bind(installed, namespace, "edit", "ann")
    wait_for_aggregation(installed)
    assert "created" in as_user(installed, "ann", "apply", "-f", "-", body=job(namespace))
    status = '{"status": {"phase": "Ready"}}'
    words = ("patch", "ftj", "mine", "-n", namespace, "--type=merge", "-p", status)
    with pytest.raises(RuntimeError, match=r"[Ff]orbidden"):
        as_user(installed, "ann", *words, "--subresource=status")
    as_user(installed, "ann", *words)  # without the subresource, status is dropped
    assert as_user(installed, "ann", "get", "ftj", "mine", "-n", namespace, "-o", "jsonpath={.status}") == ""
    with pytest.raises(RuntimeError, match="cannot"):
        as_user(installed, "ann", "apply", "-f", str(charts.ROOT / "examples" / "profiles" / "default.yaml"))
    with pytest.raises(RuntimeError, match="cannot"):
        as_user(installed, "ben", "apply", "-f", "-", body=job(namespace))
