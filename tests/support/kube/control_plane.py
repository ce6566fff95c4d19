"""A real control plane without a node, for tests: etcd, API server, controllers, scheduler. Needs no root. Knows
nothing of Topcoat but where its CRDs are."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.kube import account, arguments, audit, folder, process, tools

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

STORAGE_CLASS = "standard"
CALL_SECONDS = 30


class ControlPlane:
    """One control plane in a folder of its own."""

    def __init__(
        self,
        owned: folder.Owned,
        place: arguments.Place | None = None,
        users: Mapping[str, Sequence[str]] | None = None,
        provisioner: str = "kubernetes.io/host-path",
    ) -> None:
        self.owned = owned
        self.place = place or arguments.Place()
        self.users = {account.ADMIN: (account.MASTERS,), **account.PROGRAMS, **account.PEOPLE, **(users or {})}
        self.provisioner = provisioner
        self.requests = audit.Log(owned.path / "audit.log")
        self.server = account.Server(
            f"https://127.0.0.1:{self.place.outside_port or self.place.api_port}", owned.path / "pki" / "ca.crt"
        )
        self.inner_server = account.Server(
            f"https://{self.place.address}:{self.place.api_port}", owned.path / "pki" / "ca.crt"
        )
        self.programs = {name: self._program(name, words) for name, words in self._commands().items()}

    def start(self) -> None:
        """Returns when pods could be created; 4 to 8 seconds on two cores."""
        self._write_files()
        self.programs["etcd"].start()
        self.start_api_server()
        for name in ("kube-controller-manager", "kube-scheduler"):
            self.programs[name].start()
        self.apply_objects([_storage_class(self.provisioner)])
        self.wait_for_account("default")

    def stop(self) -> None:
        """Ends every program, removes the volumes and the folder."""
        with contextlib.suppress(Exception):
            self.remove_volumes()
        folder.end_processes(self.owned.path)
        for program in self.programs.values():
            program.bury()
        self.owned.remove()

    # --- the API server, for tests of faults

    def start_api_server(self) -> None:
        server = self.programs["kube-apiserver"]
        server.start()
        process.wait_until("the API server", self.answers, [self.programs["etcd"], server])

    def stop_api_server(self) -> None:
        # It would wait a minute for its watchers, who have no reason to leave.
        self.programs["kube-apiserver"].stop(grace_seconds=2)

    def kill_api_server(self) -> None:
        self.programs["kube-apiserver"].kill()

    def restart_api_server(self) -> None:
        self.stop_api_server()
        self.start_api_server()

    def answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/readyz", timeout_seconds=2) == b"ok"
        return False

    # --- talking to it

    @property
    def kubeconfig(self) -> Path:
        """The admin's."""
        return self.kubeconfig_of(account.ADMIN)

    def kubeconfig_of(self, user: str, namespace: str = "default") -> Path:
        """For one of `users`; a new user is named when the control plane is made."""
        if user not in self.users:
            raise KeyError(f"{user} is none of {', '.join(self.users)}")
        path = self.kubeconfig_path(user, namespace)
        return account.write_kubeconfig(path, self.server, account.token(user), namespace)

    def kubeconfig_path(self, user: str, namespace: str = "default") -> Path:
        return self.owned.path / "kubeconfig" / f"{user.replace(':', '-')}-{namespace}"

    def service_account_kubeconfig(self, namespace: str, name: str, seconds: int = 3600) -> Path:
        """With a token as a pod of this ServiceAccount has it; the account is made if absent."""
        self.apply_objects([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named(name, namespace)}])
        secret = self.kubectl("create", "token", name, "-n", namespace, f"--duration={seconds}s").strip()
        path = self.owned.path / "kubeconfig" / f"account-{namespace}-{name}"
        return account.write_kubeconfig(path, self.server, secret, namespace)

    def kubectl(self, *words: str, stdin: str | None = None, timeout_seconds: float = 60) -> str:
        """What the real kubectl prints as admin. A failure carries its words."""
        command = [str(tools.program("kubectl")), f"--request-timeout={CALL_SECONDS}s", *words]
        environment = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.owned.path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, input=stdin, env=environment, timeout=timeout_seconds
        )
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def client(self, user: str = account.ADMIN) -> ApiClient:
        """The official client; give each call a `_request_timeout`."""
        from kubernetes import config

        made: ApiClient = config.new_client_from_config(config_file=str(self.kubeconfig_of(user)))
        return made

    def get(self, path: str, timeout_seconds: float = CALL_SECONDS) -> bytes:
        """A path of the API server, as admin, without any client in between."""
        url = self.server.url + path
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {account.token(account.ADMIN)}"})
        trust = ssl.create_default_context(cafile=str(self.server.authority))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with opener.open(request, timeout=timeout_seconds) as answer:
            body: bytes = answer.read()
        return body

    def read(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(path))
        return found

    def apply_objects(self, objects: Sequence[Mapping[str, Any]]) -> None:
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=body)

    def apply_crds(self) -> None:
        """Topcoat's own kinds, from crds/; returns when they are served."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(tools.ROOT / "crds"))
        self.kubectl("wait", "--for=condition=Established", "-f", str(tools.ROOT / "crds"), "--timeout=30s")

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Returns when pods can be created in it."""
        metadata = {"name": name, "labels": dict(labels or {})}
        self.apply_objects([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
        self.wait_for_account(name)

    def wait_for_account(self, namespace: str) -> None:
        """Until the controllers have made the namespace's default ServiceAccount."""

        def there() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return bool(self.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default", 5))
            return False

        process.wait_until(f"the default account of {namespace}", there, list(self.programs.values()))

    def remove_volumes(self) -> None:
        """Folders that the host-path provisioner made under the machine's temporary folder."""
        for volume in self.read("/api/v1/persistentvolumes")["items"]:
            path = Path(volume["spec"].get("hostPath", {}).get("path", "/nowhere"))
            if path.parent.name == "hostpath_pv":
                shutil.rmtree(path, ignore_errors=True)

    # --- files

    def _program(self, name: str, words: Sequence[str]) -> process.Program:
        command = [*self.place.enter, str(tools.program(name)), *words]
        return process.Program(name, self.owned.path, command)

    def _commands(self) -> dict[str, list[str]]:
        """In the order of their start."""
        root, place = self.owned.path, self.place
        controllers = self.inner_kubeconfig("system:kube-controller-manager")
        return {
            "etcd": arguments.etcd(root, place),
            "kube-apiserver": arguments.api_server(root, place),
            "kube-controller-manager": arguments.controllers(root, controllers),
            "kube-scheduler": arguments.scheduler(self.inner_kubeconfig("system:kube-scheduler")),
        }

    def inner_kubeconfig(self, user: str) -> Path:
        """For a program that runs beside the API server."""
        return self.owned.path / "pki" / f"kubeconfig-{user.replace(':', '-')}"

    def _write_files(self) -> None:
        pki = self.owned.make("pki")
        hosts = [
            "127.0.0.1",
            "localhost",
            self.place.address,
            arguments.SERVICE_ADDRESS,
            "kubernetes",
            "kubernetes.default",
        ]
        hosts += ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        subprocess.run([tools.program("certificates"), pki, *hosts], check=True, timeout=60)
        account.write_tokens(pki / "tokens.csv", self.users)
        (self.owned.path / "audit-policy.json").write_text(json.dumps(audit.POLICY))
        for user in account.PROGRAMS:
            account.write_kubeconfig(self.inner_kubeconfig(user), self.inner_server, account.token(user))


def _storage_class(provisioner: str) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": provisioner,
        "reclaimPolicy": "Delete",
    }


def _named(name: str, namespace: str) -> dict[str, str]:
    return {"name": name, "namespace": namespace}
