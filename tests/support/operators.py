"""The real operator as a process against a control plane, with just the rights that the chart gives it."""

from __future__ import annotations

import json
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.support import charts
from tests.support.kube import control_plane, port, process

Json = dict[str, Any]
IMAGE = "registry.example.com/topcoat/trainer:test"
PROFILE: Json = {"allowedModelURIs": ["pvc://*", "hf://*", "file://*", "s3://*"]}


class Operator:
    """One installation: its own namespace, ServiceAccount and Lease; it watches the namespaces that it is given."""

    def __init__(
        self,
        plane: control_plane.ControlPlane,
        watched: list[str],
        settings: Mapping[str, str] | None = None,
        gate: str = "",
    ) -> None:
        """`gate`: an address to go through instead of straight to the API server."""
        self.plane, self.gate = plane, gate
        self.namespace = f"op-{secrets.token_hex(4)}"
        self.watched = watched
        self.settings = dict(settings or {})
        self.http_port, self.progress_port = port.reserve(), port.reserve()
        self._program: process.Program | None = None

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:topcoat"

    @property
    def log(self) -> str:
        assert self._program is not None
        return self._program.log.read_text()

    def install(self) -> None:
        """Namespace, account and rights, as the chart has them."""
        self.plane.create_namespace(self.namespace)
        values: Json = {"watchNamespaces": self.watched, "crds": {"enabled": False}}
        found = charts.objects(charts.template(values, release="topcoat", namespace=self.namespace))
        kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
        self.plane.apply_objects([body for body in found if body["kind"] in kinds])
        kubeconfig = self.plane.service_account_kubeconfig(self.namespace, "topcoat")
        if self.gate:
            path = kubeconfig.with_name(f"{kubeconfig.name}-gate")
            path.write_text(kubeconfig.read_text().replace(self.plane.server.url, self.gate))
            kubeconfig = path
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "TOPCOAT_POD_NAME": "operator-0",
            "TOPCOAT_POD_NAMESPACE": self.namespace,
            "TOPCOAT_WATCH_NAMESPACES": ",".join(self.watched),
            "TOPCOAT_TRAINER_IMAGE": IMAGE,
            "TOPCOAT_HTTP_PORT": str(self.http_port),
            "TOPCOAT_PROGRESS_PORT": str(self.progress_port),
            "TOPCOAT_PROGRESS_URL": f"http://127.0.0.1:{self.progress_port}",
            "TOPCOAT_LOG_FORMAT": "text",
            **self.settings,
        }
        command = [sys.executable, "-m", "topcoat.handlers"]
        folder = self.plane.owned.path
        name = f"operator-{self.namespace}-{environment['TOPCOAT_POD_NAME']}"
        self._program = process.Program(name, folder, command, environment)

    def start(self) -> None:
        """Returns when it leads and has seen everything."""
        if self._program is None:
            self.install()
        assert self._program is not None
        self._program.start()
        process.wait_until("the operator", self.ready, [self._program])

    def start_waiting(self) -> None:
        """Returns when it answers, whoever has the Lease."""
        assert self._program is not None
        self._program.start()
        process.wait_until("the operator", lambda: self.get("/healthz")[0] == 200, [self._program])

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()

    def kill(self) -> None:
        if self._program is not None:
            self._program.kill()

    @property
    def pid(self) -> int:
        assert self._program is not None
        return self._program.pid

    @property
    def alive(self) -> bool:
        return self._program is not None and self._program.alive

    def ready(self) -> bool:
        return self.get("/readyz") == (200, "ok") and "topcoat_api_requests" in self.get("/metrics")[1]

    def get(self, path: str) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def remove(self) -> None:
        self.stop()
        self.plane.kubectl("delete", "namespace", self.namespace, "--wait=false", "--ignore-not-found")
        name = f"{self.namespace}-topcoat"
        self.plane.kubectl("delete", "clusterrole,clusterrolebinding", name, "--ignore-not-found")


class Team:
    """A tenant's namespace as a test sees it: applies jobs, reads them, waits for what they say."""

    def __init__(self, plane: control_plane.ControlPlane, namespace: str, profile: str) -> None:
        self.plane, self.namespace, self.profile = plane, namespace, profile

    def apply(self, name: str = "claims", **spec: Any) -> Json:
        """Applies a FineTuneJob; what is left out is a small valid one without a server."""
        self.apply_all([name], **spec)
        return self.job(name)

    def apply_all(self, names: Sequence[str], **spec: Any) -> None:
        """Applies many that are alike, with one call."""
        usual: Json = {
            "profile": self.profile,
            "baseModel": {"uri": "pvc://models/base"},
            "dataset": {"train": {"uri": "pvc://data/train.jsonl"}},
            "serving": {"mode": "None"},
        }
        kind = {"apiVersion": "topcoat.dev/v1alpha1", "kind": "FineTuneJob", "spec": {**usual, **spec}}
        self.plane.apply_objects([{**kind, "metadata": {"name": name, "namespace": self.namespace}} for name in names])

    def job(self, name: str = "claims") -> Json:
        return self.read("apis/topcoat.dev/v1alpha1", "finetunejobs", name)

    def read(self, group: str, plural: str, name: str = "") -> Json:
        path = f"/{group}/namespaces/{self.namespace}/{plural}"
        return self.plane.read(f"{path}/{name}" if name else path)

    def children(self, role: str = "") -> list[Json]:
        found = self.read("apis/batch/v1", "jobs")["items"]
        return [body for body in found if role in ("", body["metadata"]["labels"]["topcoat.dev/role"])]

    def pods(self, job: str) -> list[Json]:
        """Pods of one of our Jobs that were not decided about yet, newest last."""
        found = self.read("api/v1", "pods")["items"]
        mine = [body for body in found if body["metadata"]["labels"].get("batch.kubernetes.io/job-name") == job]
        open_ = [body for body in mine if body["status"].get("phase") not in ("Failed", "Succeeded")]
        return sorted(open_, key=lambda body: str(body["metadata"]["creationTimestamp"]))

    def events(self) -> list[Json]:
        found = self.read("api/v1", "events")["items"]
        return [event for event in found if event["involvedObject"]["kind"] == "FineTuneJob"]

    def until(self, what: str, holds: Callable[[Json], bool], name: str = "claims", seconds: float = 30) -> Json:
        """Waits until a job's status says something; a failure shows all that it says."""
        deadline = time.monotonic() + seconds
        while True:
            body = self.job(name)
            try:
                if holds(body.get("status") or {}):
                    return body
            except (KeyError, IndexError, TypeError):
                pass  # not said yet
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not after {seconds} s\n{json.dumps(body.get('status'), indent=1)}")
            time.sleep(0.05)

    def condition(self, kind: str, name: str = "claims") -> Json:
        said = (self.job(name).get("status") or {}).get("conditions") or []
        return next((condition for condition in said if condition["type"] == kind), {})


def condition(status: Json, kind: str) -> Json:
    return next((found for found in status.get("conditions") or () if found["type"] == kind), {})


def make_profile(plane: control_plane.ControlPlane, name: str, spec: Mapping[str, Any] | None = None) -> None:
    body = {
        "apiVersion": "topcoat.dev/v1alpha1",
        "kind": "FineTuneProfile",
        "metadata": {"name": name},
        "spec": {**PROFILE, **(spec or {})},
    }
    plane.apply_objects([body])
