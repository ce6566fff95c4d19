"""Asking and reading through a pod of a real node: port-forward and exec by the official client. The pod's server is a
small stand-in that answers in the model server's shapes; the real one is asked end to end elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import operators, stores
from tests.support.cluster_cli import topcoat
from tests.support.kube import base_image, pod, process
from tests.support.kube import cluster as clusters
from topcoat.cli import store as stores_of_cli

Json = dict[str, Any]
pytestmark = pytest.mark.slow
SERVER = """
import http.server, json
class Model(http.server.BaseHTTPRequestHandler):
    def say(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('content-length', str(len(data)))
        self.send_header('x-topcoat-version', 'v1')
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        opened = self.headers.get('authorization') == 'Bearer open'
        alias = {'id': 'claims', 'parent': 'org/base', 'labels': ['home', 'motor']}
        self.say({'data': [{'id': 'org/base', 'parent': None}] + ([alias] if opened else [])})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['content-length'])))
        said = {'message': {'content': asked['model'] + ' heard ' + asked['messages'][0]['content'][-4:]}}
        if 'structured_outputs' in asked:
            top = [{'token': 'home', 'logprob': -0.1}, {'token': 'motor', 'logprob': -2.3}]
            said = {'message': {'content': 'home'}, 'logprobs': {'content': [{'top_logprobs': top}]}}
        self.say({'choices': [said], 'system_fingerprint': 'sha256:aa', 'usage': {'prompt_tokens': 3}})
http.server.ThreadingHTTPServer(('', 8000), Model).serve_forever()
"""


@pytest.fixture(scope="module")
def node(cluster: clusters.Cluster) -> clusters.Cluster:
    if not cluster.has_image(base_image.TAG):
        cluster.load(base_image.base_archive())
    return cluster


@pytest.fixture
def tenant(node: clusters.Cluster, new_namespace: Callable[..., str], tmp_path: Path) -> operators.Team:
    """A job with two sealed versions on a claim, and a pod of its model server."""
    namespace = new_namespace(pod.RESTRICTED)
    pods = pod.Pods(node, namespace)
    body = pod.pod("model-0", SERVER, readinessProbe={"tcpSocket": {"port": 8000}, "periodSeconds": 1})
    body["spec"]["containers"][0]["name"] = "server"
    body["metadata"]["labels"] = {"topcoat.dev/server": "model", "topcoat.dev/role": "server"}
    pods.create(
        pod.claim("topcoat-adapters"), pod.with_claim(body, "topcoat-adapters", "/topcoat/claims/topcoat-adapters")
    )
    pods.kubectl("wait", "--for=condition=Ready", "pod/model-0", "--timeout=60s")
    team = operators.Team(node, namespace, "default")
    _put_versions(node, team, tmp_path)
    return team


def _put_versions(node: clusters.Cluster, team: operators.Team, folder: Path) -> None:
    root = stores.promoted(folder / "store")
    job = stores_of_cli.Store(root).job("claims")
    assert job.status is not None
    uid = team.read("api/v1", "persistentvolumeclaims", "topcoat-adapters")["metadata"]["uid"]
    volume = node.owned.path / "volumes" / uid
    shutil.copytree(next((root / "jobs").iterdir()) / "versions", volume / "versions")
    status = job.status.as_json()
    for version in status["versions"]:
        version["path"] = f"pvc://topcoat-adapters/versions/{version['version']}"
    status["endpoint"] = {"url": f"http://model.{team.namespace}.svc:8000/v1", "modelName": "claims"}
    team.apply()
    patch = json.dumps({"status": status})
    words = ("--subresource=status", "--type=merge", "-p", patch)
    node.kubectl("patch", "finetunejob", "claims", "-n", team.namespace, *words)


def test_the_model_is_asked_through_its_pod(tenant: operators.Team) -> None:
    said = topcoat(tenant, "ask", "claims", "water came in", "--token", "open")
    assert said.code == 0, said.err
    assert said.out == "home\n"
    assert said.err.startswith("v1: home 90%, motor 10%")
    base = topcoat(tenant, "ask", "claims", "water came in", "--base", "-o", "json")
    assert base.body["answer"] == "org/base heard e in"
    both = topcoat(tenant, "compare", "claims", "water came in", "--token", "open", "-o", "json")
    assert (both.body["tuned"]["answer"], both.body["base"]["probabilities"]) == ("home", None)
    denied = topcoat(tenant, "ask", "claims", "water came in")
    assert "the model server does not answer as 'claims'" in denied.err
    assert "it has org/base; --token gives a bearer token" in denied.err


def test_the_report_is_read_through_the_pod_and_compared_with_its_seal(tenant: operators.Team, tmp_path: Path) -> None:
    said = topcoat(tenant, "report", "claims", "--version", "v1")
    assert said.code == 0, said.err
    assert "claims v1  Promote, now Promoted" in said.out
    assert "SUBJECT" in said.out
    assert "Report  pvc://topcoat-adapters/versions/v1/report.html" in said.out
    page = tmp_path / "page.html"
    assert topcoat(tenant, "report", "claims", "--version", "v1", "--save", page).code == 0
    assert page.read_text() == "<h1>report</h1>"
    assert "Wins" in topcoat(tenant, "compare", "claims", "--version", "v1").out
    assert "not on this machine" in topcoat(tenant, "compare", "claims", "--version", "v2", "--with", "v1").err


def test_logs_of_the_model_server_are_those_of_its_pod(tenant: operators.Team) -> None:
    topcoat(tenant, "ask", "claims", "water", "--token", "open")

    def heard() -> bool:
        return "POST /v1/chat/completions" in topcoat(tenant, "logs", "claims", "--role", "server").out

    process.wait_until("its log", heard, seconds=20)


def test_without_the_right_to_forward_or_to_exec_that_is_said(tenant: operators.Team) -> None:
    rules = ("--verb=get,list", "--resource=finetunejobs.topcoat.dev,pods")
    tenant.plane.kubectl("create", "role", "looker", "-n", tenant.namespace, *rules)
    tenant.plane.kubectl("create", "rolebinding", "looker", "-n", tenant.namespace, "--role=looker", "--user=eve")
    said = topcoat(tenant, "ask", "claims", "water", user="eve")
    assert said.code == 1
    assert "you may not port-forward to pods in this namespace" in said.err
    shown = topcoat(tenant, "report", "claims", user="eve")
    assert shown.code == 0, shown.err
    assert "It was not read: you may not exec to pods" in shown.err
