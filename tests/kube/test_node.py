"""The node of the test cluster is a real one: pods run, claims bind, Services and DNS answer, limits are enforced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.kube import base_image, folder, leftover, node, pod, process, sandbox
from tests.support.kube import cluster as clusters

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded(cluster: clusters.Cluster) -> clusters.Cluster:
    """The cluster, with the base image on its node."""
    if not cluster.has_image(base_image.TAG):
        cluster.load(base_image.base_archive())
    return cluster


@pytest.fixture
def pods(loaded: clusters.Cluster, new_namespace: Callable[..., str]) -> pod.Pods:
    """In a namespace that enforces Pod Security `restricted`."""
    return pod.Pods(loaded, new_namespace(pod.RESTRICTED))


def test_a_pod_runs_and_its_words_and_exit_code_arrive(pods: pod.Pods) -> None:
    script = "open('/dev/termination-log', 'w').write('the last word'); print('hello'); raise SystemExit(7)"
    pods.create(pod.pod("one", script))
    state, said = pods.ended("one")
    assert (state["exitCode"], state["message"], said) == (7, "the last word", "hello\n")


def test_what_one_pod_writes_to_a_claim_another_reads(pods: pod.Pods) -> None:
    write = "import os; print(os.getuid()); open('/data/file', 'w').write('kept')"
    pods.create(pod.claim("data"), pod.with_claim(pod.pod("writer", write), "data", "/data"))
    assert pods.ended("writer")[1] == "65532\n"
    pods.create(pod.with_claim(pod.pod("reader", "print(open('/data/file').read())"), "data", "/data"))
    assert pods.ended("reader")[1] == "kept\n"


def test_the_volume_goes_with_its_claim(loaded: clusters.Cluster, pods: pod.Pods) -> None:
    pods.create(pod.claim("short"), pod.with_claim(pod.pod("writer", "open('/data/x', 'w')"), "short", "/data"))
    pods.ended("writer")
    uid = json.loads(pods.kubectl("get", "pvc", "short", "-o", "json"))["metadata"]["uid"]
    volume = loaded.owned.path / "volumes" / uid
    assert (volume / "x").exists()
    pods.kubectl("delete", "pod/writer", "pvc/short")
    process.wait_until("the end of the volume", lambda: not volume.exists(), seconds=30)


def test_a_service_is_found_by_name_also_by_the_pod_behind_it(pods: pod.Pods) -> None:
    serve = "from http.server import *; ThreadingHTTPServer(('', 8000), SimpleHTTPRequestHandler).serve_forever()"
    service = {"ports": [{"port": 80, "targetPort": 8000}], "selector": {"app": "server"}}
    pods.create(
        pod.pod("server", serve, readinessProbe={"tcpSocket": {"port": 8000}, "periodSeconds": 1}),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": service},
    )
    pods.kubectl("wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
    url = f"http://web.{pods.namespace}.svc.cluster.local/"
    call = f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=20).status)"
    pods.create(pod.pod("caller", call))
    assert pods.ended("caller")[1] == "200\n"
    assert pods.kubectl("exec", "server", "--", "python3", "-c", call.replace(url, "http://web/")) == "200\n"


def test_a_pod_reaches_nothing_outside_its_cluster(pods: pod.Pods) -> None:
    # An address that the standards keep for documentation, so that nobody's machine is called.
    script = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=20)"
    pods.create(pod.pod("curious", script))
    assert "Network is unreachable" in pods.ended("curious")[1]


def test_a_pod_that_takes_too_much_memory_is_seen_as_such(pods: pod.Pods) -> None:
    limits = {"limits": {"memory": "64Mi"}}
    pods.create(pod.pod("greedy", "held = [bytearray(2**20) for _ in range(500)]", resources=limits))
    state, _ = pods.ended("greedy")
    assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)


def test_a_pod_is_told_before_its_end(pods: pod.Pods) -> None:
    script = """
import signal, sys, time
def leave(*_):
    print('saved', flush=True)
    time.sleep(8)  # with the pod its words go, too
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print('ready')
time.sleep(600)
"""
    pods.create(pod.pod("patient", script))
    pods.kubectl("wait", "--for=condition=Ready", "pod/patient", "--timeout=60s")
    process.wait_until("its first word", lambda: "ready" in pods.kubectl("logs", "patient"), seconds=20)
    pods.kubectl("delete", "pod", "patient", "--wait=false")
    process.wait_until("its last word", lambda: "saved" in logs_or_nothing(pods, "patient"), seconds=20)


def logs_or_nothing(pods: pod.Pods, name: str) -> str:
    try:
        return pods.kubectl("logs", name)
    except RuntimeError:
        return ""


def test_a_namespace_that_enforces_restricted_refuses_root(pods: pod.Pods) -> None:
    found = pod.pod("root", "pass")
    found["spec"]["securityContext"] = {}
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        pods.create(found)


def test_gpus_are_counted_without_a_gpu(loaded: clusters.Cluster, pods: pod.Pods) -> None:
    loaded.give_gpus(1)
    gpu: dict[str, Any] = {"resources": {"limits": {clusters.GPU: "1"}}}
    pods.create(pod.pod("first", "import time; time.sleep(600)", **gpu))
    pods.kubectl("wait", "--for=condition=Ready", "pod/first", "--timeout=60s")
    pods.create(pod.pod("second", "pass", **gpu))
    pods.kubectl("wait", "--for=condition=PodScheduled=false", "pod/second", "--timeout=30s")
    assert "Insufficient nvidia.com/gpu" in pods.status("second")["conditions"][0]["message"]
    pods.kubectl("delete", "pod", "first", "--now")
    assert pods.ended("second")[0]["exitCode"] == 0


def test_two_clusters_live_side_by_side_and_of_a_crashed_one_nothing_stays(loaded: clusters.Cluster) -> None:
    second = clusters.Cluster.in_sandbox(folder.Owned.new("cluster"))
    try:
        second.start()
        assert second.node.name in second.kubectl("get", "nodes")
        assert second.node.name not in loaded.kubectl("get", "nodes")
        second.load(base_image.base_archive())
        pods = pod.Pods(second, "default")
        pods.create(pod.pod("left", "import time; time.sleep(600)"))
        pods.kubectl("wait", "--for=condition=Ready", "pod/left", "--timeout=60s")
        recorded = [record.read_text().split()[0] for record in (second.owned.path / "pids").iterdir()]
        groups = list(node.CGROUPS.glob("**/k8s.io/*"))
        second.owned.close()  # as if this process had gone without a word
        assert leftover.clean() >= 1
    finally:
        second.stop()
    assert len(recorded) >= 10
    assert all(process.start_time(int(pid)) == "gone" for pid in recorded)
    assert second.owned.name not in Path("/proc/self/mountinfo").read_text()
    assert len(list(node.CGROUPS.glob("**/k8s.io/*"))) < len(groups)
    assert not second.owned.path.exists()
    assert loaded.node_ready()


def test_the_machine_itself_keeps_its_network(loaded: clusters.Cluster) -> None:
    assert sandbox.NODE_ADDRESS in loaded.box.run("ip", "address")
    assert sandbox.NODE_ADDRESS not in Path("/proc/net/fib_trie").read_text()
