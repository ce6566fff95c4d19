"""The control plane that other tests stand on: it starts, keeps its word about users and requests, survives faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kubernetes import client

from tests.support.kube import control_plane as planes
from tests.support.kube import folder, leftover, process, tools

CALL_SECONDS = 30


def config_map(name: str) -> client.V1ConfigMap:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data={"a": "b"})


def test_kubectl_finds_no_node_and_topcoats_kinds(control_plane: planes.ControlPlane) -> None:
    assert json.loads(control_plane.kubectl("get", "nodes", "-o", "json"))["items"] == []
    served = control_plane.kubectl("api-resources", "--api-group=topcoat.dev", "-o", "name").split()
    assert {"finetunejobs.topcoat.dev", "finetuneprofiles.topcoat.dev", "modelservers.topcoat.dev"} == set(served)
    assert json.loads(control_plane.get("/version"))["gitVersion"] == f"v{tools.KUBERNETES}"


def test_a_job_gets_its_pod_and_a_claim_gets_its_volume(control_plane: planes.ControlPlane, namespace: str) -> None:
    container = {"name": "main", "image": "any", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    control_plane.apply_objects(
        [
            {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": pod}}} | named("one", namespace),
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": claim} | named("data", namespace),
        ]
    )
    control_plane.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "pvc/data", "-n", namespace, "--timeout=20s")
    control_plane.kubectl(
        "wait", "--for=create", "pod", "-l", "batch.kubernetes.io/job-name=one", "-n", namespace, "--timeout=20s"
    )


def named(name: str, namespace: str) -> dict[str, dict[str, str]]:
    return {"metadata": {"name": name, "namespace": namespace}}


def test_a_person_without_a_role_is_refused(control_plane: planes.ControlPlane, namespace: str) -> None:
    with control_plane.client("ann") as ann, pytest.raises(client.ApiException, match="Forbidden"):
        client.CoreV1Api(ann).list_namespaced_config_map(namespace, _request_timeout=CALL_SECONDS)


def test_a_service_account_is_who_it_says(control_plane: planes.ControlPlane, namespace: str) -> None:
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "worker")
    said = control_plane.kubectl("auth", "whoami", "-o", "json", f"--kubeconfig={kubeconfig}")
    assert json.loads(said)["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:worker"


def test_requests_are_counted_by_user(control_plane: planes.ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "rolebinding", "ann", "--clusterrole=edit", "--user=ann", "-n", namespace)
    control_plane.requests.mark()
    with control_plane.client("ann") as ann:
        api = client.CoreV1Api(ann)
        for name in ("one", "two"):
            api.create_namespaced_config_map(namespace, config_map(name), _request_timeout=CALL_SECONDS)
        api.delete_namespaced_config_map("one", namespace, _request_timeout=CALL_SECONDS)
    control_plane.kubectl("get", "configmaps", "-n", namespace)
    assert control_plane.requests.counts("ann") == {("create", "configmaps"): 2, ("delete", "configmaps"): 1}
    assert control_plane.requests.counts("admin", namespace)["list", "configmaps"] == 1
    assert [one.code for one in control_plane.requests.requests("ann") if one.writes] == [201, 201, 200]


@pytest.mark.parametrize("end", ["stop_api_server", "kill_api_server"])
def test_objects_outlive_the_api_server(control_plane: planes.ControlPlane, namespace: str, end: str) -> None:
    control_plane.kubectl("create", "configmap", "kept", "-n", namespace)
    getattr(control_plane, end)()
    assert not control_plane.answers()
    control_plane.start_api_server()
    assert control_plane.kubectl("get", "configmap", "kept", "-n", namespace, "-o", "name") == "configmap/kept\n"
    # The controllers come back as well: a namespace gets its account.
    control_plane.create_namespace(f"{namespace}-next")
    control_plane.kubectl("delete", "namespace", f"{namespace}-next", "--wait=false")


def test_every_test_has_a_namespace_of_its_own(new_namespace: Callable[..., str], namespace: str) -> None:
    assert new_namespace() != namespace


# A process that starts a program in a folder of its own and is gone without a goodbye.
CRASH = """
import os, sys
from pathlib import Path
from tests.support.kube import folder, process
owned = folder.Owned.new("crash")
program = process.Program("sleeper", owned.path, ["sleep", "600"])
program.start()
print(owned.path, program.pid, flush=True)
os._exit(1)
"""


def test_what_a_crashed_run_left_is_ended() -> None:
    crashing = [sys.executable, "-c", CRASH]
    said = subprocess.run(crashing, check=False, cwd=tools.ROOT, capture_output=True, text=True, timeout=60)
    path, pid = said.stdout.split()
    assert process.start_time(int(pid)) != "gone"
    assert leftover.clean() >= 1
    assert process.start_time(int(pid)) == "gone"
    assert not Path(path).exists()


def test_the_folder_of_a_living_owner_is_left_alone() -> None:
    owned = folder.Owned.new("living")
    leftover.clean()
    assert owned.path.exists()
    owned.remove()


def test_a_record_whose_number_another_process_has_now_ends_nothing(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    record = tmp_path / "record"
    record.write_text(f"{other.pid} 12345")
    assert not process.end_recorded(record)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_program_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    program = process.Program("failing", tmp_path, ["sh", "-c", "echo the reason; exit 3"])
    program.start()
    with pytest.raises(process.NotReady, match=r"(?s)failing ended.*the reason"):
        process.wait_until("a failing program", lambda: False, [program], seconds=10)
