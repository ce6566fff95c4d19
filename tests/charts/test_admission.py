"""Who may not read a Secret cannot have it read by naming it in a manifest: the policy on a real API server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pydantic
import pytest

from tests.support import charts
from tests.support.kube import control_plane as planes
from topcoat.api import base_model, finetunejob, modelserver

pytestmark = pytest.mark.slow

Json = dict[str, Any]
# Ann may edit and read Secrets (`edit` of Kubernetes itself may), Ben may write jobs and servers and read one Secret.
RULES = [
    {"apiGroups": ["topcoat.dev"], "resources": ["finetunejobs", "modelservers"], "verbs": ["get", "create", "patch"]},
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["open"], "verbs": ["get"]},
]
REF = {"secretRef": {"name": "closed"}}
TRAIN = {"uri": "s3://bucket/rows.jsonl"}
PLACES: dict[str, Json] = {
    "spec.baseModel.secretRef": {"baseModel": {"uri": "hf://a/b"} | REF},
    "spec.dataset.train.secretRef": {"dataset": {"train": TRAIN | REF}},
    "spec.dataset.evaluation.secretRef": {"dataset": {"train": TRAIN, "evaluation": TRAIN | REF}},
    "spec.dataset.guards[].source.secretRef": {
        "dataset": {"train": TRAIN, "guards": [{"name": "a", "source": TRAIN}, {"name": "b", "source": TRAIN | REF}]}
    },
    "spec.serving.authentication.secretRef": {"serving": {"authentication": REF}},
    "spec.tracking[].secretRef": {"tracking": [{"type": "TensorBoard"}, {"type": "WandB"} | REF]},
}


def places(model: type[pydantic.BaseModel], path: str) -> Iterator[str]:
    """Every field below that names a Secret."""
    for name, field in model.model_fields.items():
        for inner, listed in _models(field.annotation):
            place = f"{path}{field.alias or name}"
            if inner is base_model.SecretReference:
                yield place
            else:
                yield from places(inner, f"{place}[]." if listed else f"{place}.")


def _models(annotation: Any, listed: bool = False) -> Iterator[tuple[type[pydantic.BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation, listed
    for part in get_args(annotation):
        yield from _models(part, listed or getattr(annotation, "__origin__", None) in {list, tuple})


def test_every_place_of_the_api_that_names_a_secret_is_tried_here() -> None:
    assert set(places(finetunejob.FineTuneJob, "")) == set(PLACES)
    assert set(places(modelserver.ModelServer, "")) == {"spec.baseModel.secretRef"}


def manifest(kind: str, namespace: str, change: Json, name: str) -> Json:
    spec: Json = {"baseModel": {"uri": "hf://a/b"}}
    spec |= {"dataset": {"train": TRAIN}} if kind == "FineTuneJob" else {}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "topcoat.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec | change}


@pytest.fixture
def apply(installed: planes.ControlPlane, team: Callable[[], str]) -> Callable[..., str]:
    """Applies a manifest as somebody; the reply, or an error with the server's words."""
    namespace = team()
    meta = {"name": "tuner", "namespace": namespace}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": RULES}
    installed.apply_objects([role])
    installed.kubectl("create", "rolebinding", "ben", "-n", namespace, "--role=tuner", "--user=ben")
    installed.kubectl("create", "rolebinding", "ann", "-n", namespace, "--clusterrole=admin", "--user=ann")

    def run(user: str, change: Json, kind: str = "FineTuneJob", name: str = "mine") -> str:
        body = json.dumps(manifest(kind, namespace, change, name))
        kubeconfig = f"--kubeconfig={installed.kubeconfig_of(user)}"
        return installed.kubectl(kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=body)

    wait_until_enforced(lambda: run("ben", PLACES["spec.baseModel.secretRef"], name="probe"))
    return run


def wait_until_enforced(attempt: Callable[[], str]) -> None:
    """A policy and an aggregated role count some moments after they are there."""
    for _ in range(100):
        try:
            attempt()
        except RuntimeError as error:
            if "you may not read" in str(error):
                return
        time.sleep(0.1)
    pytest.fail("the policy never came into force")


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_that_one_may_not_read_is_refused_by_name(place: str, apply: Callable[..., str]) -> None:
    with pytest.raises(
        RuntimeError, match=r"you may not read the Secret closed of namespace .* for you: ask for the right"
    ):
        apply("ben", PLACES[place])
    readable = json.loads(json.dumps(PLACES[place]).replace("closed", "open"))
    assert "serverside-applied" in apply("ben", readable)


def all_at_once() -> Json:
    """As many references as a manifest can hold, each to another Secret."""
    names = iter(range(100))

    def reference() -> Json:
        return {"secretRef": {"name": f"secret-{next(names)}"}}

    guards = [{"name": f"guard-{number}", "source": TRAIN | reference()} for number in range(8)]
    data = {"train": TRAIN | reference(), "evaluation": TRAIN | reference(), "guards": guards}
    trackers = [{"type": "WandB"} | reference() for _ in range(4)]
    base = {"uri": "hf://a/b"} | reference()
    return {"baseModel": base, "dataset": data, "serving": {"authentication": reference()}, "tracking": trackers}


def test_who_may_read_secrets_may_name_as_many_as_there_is_room_for(apply: Callable[..., str]) -> None:
    most = all_at_once()
    assert json.dumps(most).count("secretRef") == 16
    assert "serverside-applied" in apply("ann", most)
    last = json.loads(json.dumps(most).replace("secret-", "open-").replace("open-15", "closed"))
    opened = json.loads(re.sub(r"open-\d+", "open", json.dumps(last)))
    assert json.dumps(opened).count("closed") == 1
    with pytest.raises(RuntimeError, match="you may not read the Secret closed"):
        apply("ben", opened, name="almost")


def test_no_manifest_can_name_more_secrets_than_the_policy_asks_about(apply: Callable[..., str]) -> None:
    most = all_at_once()
    for part, key in ((most, "tracking"), (most["dataset"], "guards")):
        more = [*part[key], {**part[key][0], "name": "another"} if key == "guards" else part[key][0]]
        kept, part[key] = part[key], more
        with pytest.raises(RuntimeError, match="must have at most"):
            apply("ann", most, name="more")
        part[key] = kept


def test_servers_are_asked_about_as_well(apply: Callable[..., str]) -> None:
    change = PLACES["spec.baseModel.secretRef"]
    with pytest.raises(RuntimeError, match="you may not read the Secret closed"):
        apply("ben", change, kind="ModelServer")
    assert "serverside-applied" in apply("ann", change, kind="ModelServer")
    assert "serverside-applied" in apply("ben", {}, kind="ModelServer", name="plain")


def test_a_reference_cannot_be_kept_and_its_surroundings_changed(
    installed: planes.ControlPlane, apply: Callable[..., str]
) -> None:
    """Else the next run would carry Ann's token to an address of Ben's."""
    said = apply("ann", {"tracking": [{"type": "MLflow", "uri": "https://ours.example.com"} | REF]})
    # Those of earlier tests may still be going.
    found = "jsonpath={.items[?(@.metadata.name=='mine')].metadata.namespace}"
    *_, namespace = installed.kubectl("get", "ftj", "-A", "--sort-by=.metadata.creationTimestamp", "-o", found).split()
    assert "mine" in said
    ben = f"--kubeconfig={installed.kubeconfig_of('ben')}"
    patch = [{"op": "replace", "path": "/spec/tracking/0/uri", "value": "https://bens.example.com"}]
    with pytest.raises(RuntimeError, match="you may not read the Secret closed"):
        installed.kubectl(ben, "patch", "ftj", "mine", "-n", namespace, "--type=json", "-p", json.dumps(patch))
    label = ["patch", "ftj", "mine", "-n", namespace, "--type=merge", "-p", '{"metadata": {"labels": {"a": "b"}}}']
    assert "patched" in installed.kubectl(ben, *label)
    drop = [{"op": "remove", "path": "/spec/tracking"}]
    assert "patched" in installed.kubectl(
        ben, "patch", "ftj", "mine", "-n", namespace, "--type=json", "-p", json.dumps(drop)
    )


def test_the_operator_makes_servers_for_jobs_that_were_admitted(
    installed: planes.ControlPlane, apply: Callable[..., str]
) -> None:
    apply("ann", PLACES["spec.baseModel.secretRef"])
    account = installed.service_account_kubeconfig(charts.NAMESPACE, "topcoat")
    body = json.dumps(manifest("ModelServer", "default", PLACES["spec.baseModel.secretRef"], "made"))
    words = (f"--kubeconfig={account}", "create", "-f", "-")
    assert "created" in installed.kubectl(*words, stdin=body)
    installed.kubectl("delete", "modelserver", "made", "-n", "default")


def test_the_policy_is_well_typed(installed: planes.ControlPlane) -> None:
    found = json.loads(installed.kubectl("get", "validatingadmissionpolicies", "-o", "json"))["items"]
    assert len(found) == 2
    for policy in found:
        assert not policy["status"].get("typeChecking", {}).get("expressionWarnings")
        assert "check('get').allowed()" in policy["spec"]["validations"][1]["expression"]
