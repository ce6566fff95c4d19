"""Kubeflow Trainer's manager as a subject: the same release, kinds, rights, runtime and configuration as it ships.

One TrainJob becomes one ConfigMap, the snapshot of its runtime, and one JobSet, both written by the manager. JobSet's
own controller, another process, would make the Jobs and a Service from it; it does not run here, and nothing of what
it costs is counted. No admission webhooks either.
"""

from __future__ import annotations

import json
import re
import shutil
import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from benchmarks.operator import subject
from tests.support import operators
from tests.support.kube import control_plane as planes
from tests.support.kube import port, process, tools

Json = dict[str, Any]

PROGRAM = "trainer-controller-manager"
# The only user without rights that no test binds to anything.
USER = "trainer-manager"
HOME = "kubeflow-system"
GROUP = "trainer.kubeflow.org/v1alpha1"
RUNTIME = "torch-distributed"
LOOKS = re.compile(r'^controller_runtime_reconcile_total\{controller="trainjob_controller".*\} (\S+)', re.MULTILINE)
# Its configuration refuses "no limit", so a limit that nothing reaches.
UNLIMITED = {"qps": 100_000, "burst": 100_000}


class Process(process.Program):
    """The manager's process."""

    user = USER
    health_port = 0
    metrics_port = 0

    def launch(self) -> None:
        self.start()

    def ready(self) -> bool:
        return _get(f"http://127.0.0.1:{self.health_port}/readyz") == "ok"

    def looks(self) -> int:
        found = LOOKS.findall(_get(f"https://127.0.0.1:{self.metrics_port}/metrics"))
        return sum(int(float(count)) for count in found)


class Kubeflow:
    """TrainJobs; each becomes a JobSet."""

    collection = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{subject.NAMESPACE}/jobsets"

    def __init__(self, *, limited: bool = True) -> None:
        self.limited = limited
        self.name = "kubeflow" if limited else "kubeflow, no rate limit"

    def install(self, plane: planes.ControlPlane) -> Process:
        files = _sources()
        kinds = sorted(str(path) for folder, pattern in files.kinds for path in folder.glob(pattern))
        plane.kubectl("apply", "--server-side", *(f"--filename={path}" for path in kinds))
        plane.kubectl("wait", "--for=condition=Established", *(f"--filename={path}" for path in kinds))
        plane.create_namespace(HOME)
        plane.kubectl("apply", "--server-side", f"--filename={files.role}", f"--filename={files.runtime}")
        role = yaml.safe_load(files.role.read_text())["metadata"]["name"]
        plane.apply_objects([_binding(role)])
        return self._process(plane, files.configuration)

    def _process(self, plane: planes.ControlPlane, shipped: Path) -> Process:
        owned = plane.owned
        # Its webhook server always starts, and looks for its certificate there.
        serving = owned.make("tmp/k8s-webhook-server/serving-certs")
        for kind in ("crt", "key"):
            shutil.copy(owned.path / "pki" / f"server.{kind}", serving / f"tls.{kind}")
        ports = [port.reserve() for _ in range(4)]
        file = owned.path / "trainer.yaml"
        file.write_text(json.dumps(_configuration(shipped, ports, limited=self.limited)))
        # The log level is the one of the shipped Deployment.
        command = [str(tools.program(PROGRAM)), f"--config={file}", "--zap-log-level=2"]
        environment = {"KUBECONFIG": str(plane.kubeconfig_of(USER)), "TMPDIR": str(owned.path / "tmp")}
        made = Process("trainer", owned.path, command, environment)
        made.health_port, made.metrics_port = ports[:2]
        return made

    def job(self, number: int) -> tuple[str, Json]:
        return f"/apis/{GROUP}/namespaces/{subject.NAMESPACE}/trainjobs", {
            "apiVersion": GROUP,
            "kind": "TrainJob",
            "metadata": {"name": f"job-{number:07d}", "namespace": subject.NAMESPACE},
            "spec": {
                "runtimeRef": {"name": RUNTIME},
                "trainer": {"image": operators.IMAGE, "command": ["true"]},
            },
        }

    def old_job(self, number: int) -> tuple[str, Json]:
        return self.job(number)

    def learn(self, plane: planes.ControlPlane, controller: subject.Controller) -> None:
        """How it ends is written in its source: the JobSet's condition Completed, under another name."""

    def finished(self, made: Json) -> Json:
        """As after the JobSet's end, once the JobSet itself is gone."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = {"reason": "AllJobsCompleted", "message": "jobset completed successfully"}
        return {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": at, **said}]}


class _Files:
    """What is read from the modules that Go keeps; nothing of it is in this project."""

    def __init__(self, trainer: Path, jobset: Path) -> None:
        base = trainer / "manifests" / "base"
        crds = jobset / "config" / "components" / "crd" / "bases"
        self.kinds = ((base / "crds", "trainer.kubeflow.org_*.yaml"), (crds, "*_jobsets.yaml"))
        self.role = base / "rbac" / "role.yaml"
        self.runtime = base / "runtimes" / "torch_distributed.yaml"
        self.configuration = base / "manager" / "controller_manager_config.yaml"


def _sources() -> _Files:
    package, _, version = tools.INSTALLED[PROGRAM].partition("@")
    trainer = tools.module(f"{package.partition('/cmd/')[0]}@{version}")
    wanted = re.search(r"^\s+(sigs\.k8s\.io/jobset) (\S+)", (trainer / "go.mod").read_text(), re.MULTILINE)
    if wanted is None:
        raise tools.NoTools("Kubeflow Trainer asks for no JobSet")
    return _Files(trainer, tools.module(f"{wanted[1]}@{wanted[2]}"))


def _configuration(shipped: Path, ports: list[int], *, limited: bool) -> Json:
    """As shipped, but for ports, certificates and the namespace of its Lease; and its rate limit, where lifted."""
    found: Json = yaml.safe_load(shipped.read_text())
    health, metrics, webhook, status = ports
    found["health"]["healthProbeBindAddress"] = f"127.0.0.1:{health}"
    found["metrics"]["bindAddress"] = f"127.0.0.1:{metrics}"
    found["webhook"].update(host="127.0.0.1", port=webhook)
    found["statusServer"]["port"] = status
    found["certManagement"]["enable"] = False
    found["leaderElection"]["resourceNamespace"] = HOME
    if not limited:
        found["clientConnection"] = dict(UNLIMITED)
    return found


def _binding(role: str) -> Json:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": USER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    }


def _get(url: str) -> str:
    """A probe's or metric's answer, or nothing. Its certificate is of its own making."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(url, timeout=5) as answer:
            text: str = answer.read().decode()
    except OSError:
        return ""
    return text
