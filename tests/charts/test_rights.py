"""The operator's rights are those of golden-rbac.yaml, whatever the scope; nobody gets a wildcard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import charts

Rights = dict[str, list[str]]
GOLDEN: dict[str, Rights] = yaml.safe_load((Path(__file__).parent / "golden-rbac.yaml").read_text())
OPERATOR = "topcoat-system-topcoat"


def rights(role: dict[str, Any]) -> Rights:
    """`plural.group/subresource name` -> verbs, all rules of a role together."""
    found: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for key in _keys(rule):
            found.setdefault(key, set()).update(rule["verbs"])
    return {key: sorted(verbs) for key, verbs in found.items()}


def _keys(rule: dict[str, Any]) -> Iterator[str]:
    assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}, rule
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            plural, _, below = resource.partition("/")
            key = plural + (f".{group}" if group else "") + (f"/{below}" if below else "")
            yield from (f"{key} {name}" for name in rule["resourceNames"]) if "resourceNames" in rule else (key,)


def granted(values: dict[str, Any]) -> dict[str, Rights]:
    """Where -> rights, by following the bindings of the operator's account alone."""
    found = charts.objects(charts.template(values))
    roles = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one for one in found}
    result: dict[str, Rights] = {}
    for binding in [one for one in found if one["kind"] in {"ClusterRoleBinding", "RoleBinding"}]:
        account = {"kind": "ServiceAccount", "name": "topcoat", "namespace": charts.NAMESPACE}
        assert binding["subjects"] == [account]
        space, reference = binding["metadata"].get("namespace"), binding["roleRef"]
        role = roles[(reference["kind"], space if reference["kind"] == "Role" else None, reference["name"])]
        result[space or "*"] = result.get(space or "*", {}) | rights(role)
    return result


def test_rights_of_a_release_for_all_namespaces_are_the_golden_ones() -> None:
    assert granted({}) == {"*": GOLDEN["cluster"] | GOLDEN["watched"], charts.NAMESPACE: GOLDEN["own"]}
    assert sum(len(verbs) for part in GOLDEN.values() for verbs in part.values()) == 53


def test_rights_of_a_release_for_some_namespaces_end_at_them() -> None:
    watched = {"watchNamespaces": ["team-a", "team-b"]}
    expected = {
        "*": GOLDEN["cluster"],
        "team-a": GOLDEN["watched"],
        "team-b": GOLDEN["watched"],
        charts.NAMESPACE: GOLDEN["own"],
    }
    assert granted(watched) == expected
    assert granted(watched | {"rbac": {"scope": "Namespace"}}) == expected
    assert granted(watched | {"rbac": {"scope": "Cluster"}})["*"] == GOLDEN["cluster"] | GOLDEN["watched"]


def test_a_release_that_watches_its_own_namespace_keeps_both_roles() -> None:
    """Two roles and two bindings in one namespace, with names of their own."""
    assert granted({"watchNamespaces": [charts.NAMESPACE]})[charts.NAMESPACE] == GOLDEN["own"] | GOLDEN["watched"]


def test_a_wider_rule_is_caught() -> None:
    wider = {"rules": [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "update"]}]}
    assert rights(wider) == {"jobs.batch": ["get", "update"]}
    assert rights(wider)["jobs.batch"] != GOLDEN["watched"]["jobs.batch"]


@pytest.mark.parametrize("name", charts.VARIANTS)
def test_there_is_no_wildcard_and_no_way_to_more_rights(name: str) -> None:
    roles = [one for one in charts.variant(name) if one["kind"] in {"Role", "ClusterRole"}]
    words = [word for role in roles for rule in role["rules"] for part in rule.values() for word in part]
    assert len(words) >= 100 or name == "nothing"
    assert not {"*", "escalate", "bind", "impersonate", "pods/exec", "nodes/proxy"} & set(words)
    secrets = [rule for role in roles for rule in role["rules"] if "secrets" in rule["resources"]]
    assert all(set(rule["verbs"]) <= {"get", "create"} for rule in secrets)
    assert all("resourceNames" in rule for rule in secrets if "get" in rule["verbs"])


def test_people_write_no_status_and_only_profile_editors_write_profiles() -> None:
    roles = {
        one["metadata"]["name"].removeprefix(f"{OPERATOR}-"): one
        for one in charts.of_kind(charts.variant("defaults"), "ClusterRole")
        if one["metadata"]["name"] != OPERATOR
    }
    assert set(roles) == {"view", "edit", "admin", "profile-view", "profile-edit"}
    for name, role in roles.items():
        found = rights(role)
        assert all(verbs == ["get"] for key, verbs in found.items() if key.endswith("/status"))
        writes = {key for key, verbs in found.items() if {"create", "update", "patch", "delete"} & set(verbs)}
        expected = {
            "edit": {"finetunejobs.topcoat.dev"},
            "admin": {"modelservers.topcoat.dev", "modelservers.topcoat.dev/scale"},
            "profile-edit": {"finetuneprofiles.topcoat.dev"},
        }
        assert writes == expected.get(name, set())


def test_roles_of_people_are_added_to_those_of_kubernetes() -> None:
    added = {
        one["metadata"]["name"].removeprefix(f"{OPERATOR}-"): {
            label.rpartition("-")[2] for label in one["metadata"]["labels"] if "/aggregate-to-" in label
        }
        for one in charts.of_kind(charts.variant("defaults"), "ClusterRole")
    }
    assert added == {
        OPERATOR: set(),
        "view": {"view", "edit", "admin"},
        "edit": {"edit", "admin"},
        "admin": {"admin"},
        "profile-view": set(),
        "profile-edit": set(),
    }
