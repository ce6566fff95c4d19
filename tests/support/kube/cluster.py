"""A real one-node Kubernetes in a sandbox of its own: the control plane, and a node that runs pods. Needs root and
Debian's packages (`missing` says which)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.kube import (
    account,
    archive,
    arguments,
    base_image,
    folder,
    images,
    node,
    port,
    process,
    sandbox,
    storage,
    tools,
)
from tests.support.kube import control_plane as planes

# Program -> the Debian package that has it.
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "docker-registry": "docker-registry",
    "nsenter": "util-linux",
}
GPU = "nvidia.com/gpu"
STORAGE_USER = "storage"


def missing(free_bytes: int = 5 * 10**9) -> str:
    """Why this machine cannot run a node, or nothing."""
    if sys.platform != "linux":
        return "a node needs Linux"
    if os.geteuid() != 0:
        return "a node needs root"
    packages = {package for name, package in PACKAGES.items() if not shutil.which(name)}
    if not (node.CNI_PLUGINS / "ptp").exists():
        packages.add("containernetworking-plugins")
    if packages:
        return f"a node needs the packages {' '.join(sorted(packages))} (.ci/run installs them)"
    if subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        return "a node needs the right to make namespaces"
    free = shutil.disk_usage(folder.cache()).free
    if free < free_bytes:
        return f"{free_bytes // 10**9} GB of free disk are needed, here are {free // 10**9}"
    return ""


def prepare() -> None:
    """Builds what the first start of a node would build."""
    for name in ("coredns", "pause"):
        tools.program(name)
    base_image.base_archive()


class Cluster(planes.ControlPlane):
    """A control plane with a node. Everything that it starts and mounts is gone after `stop`."""

    def __init__(self, owned: folder.Owned, box: sandbox.Sandbox) -> None:
        """`box` has been started: the programs' commands enter it."""
        self.box = box
        self.node = node.Node(owned.make("node"), owned.name)
        place = arguments.Place(
            address=sandbox.NODE_ADDRESS,
            enter=box.enter_network,
            etcd_port=2379,
            peer_port=2380,
            api_port=6443,
            outside_port=port.reserve(),
        )
        kubelet = {f"system:node:{owned.name}": ("system:nodes",)}
        super().__init__(owned, place, kubelet, storage.PROVISIONER)
        inside = {"containerd", "kubelet"}
        for name, words in self.node.commands(self.inner_kubeconfig(*kubelet)).items():
            path = tools.program(name) if name in {*tools.LINKED, *tools.INSTALLED} else shutil.which(name)
            enter = box.enter if name in inside else box.enter_network
            self.programs[name] = process.Program(name, owned.path, [*enter, str(path), *words], forks=name in inside)
        self.programs["doorway"] = self._doorway(place)
        self.programs["storage"] = self._storage()

    @classmethod
    def in_sandbox(cls, owned: folder.Owned) -> Cluster:
        box = sandbox.Sandbox(owned.path, arguments.SERVICE_NETWORK)
        box.start()
        return cls(owned, box)

    def start(self) -> None:
        """Returns when the node is Ready."""
        self._write_node_files()
        for name in ("doorway", "containerd", "docker-registry"):
            self.programs[name].start()
        self._load_pause()
        super().start()
        for name in ("storage", "kubelet", "kube-proxy", "coredns"):
            self.programs[name].start()
        process.wait_until("the node", self.node_ready, list(self.programs.values()), seconds=90)

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.box.holder.kill()
        self.node.remove_cgroups()
        super().stop()

    def node_ready(self) -> bool:
        with contextlib.suppress(OSError):
            conditions = self.read(f"/api/v1/nodes/{self.node.name}")["status"].get("conditions", [])
            return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        return False

    # --- for tests

    def load(self, image: Path) -> None:
        """An image archive into the node's own store: pods of its name start without any pull."""
        self._ctr("images", "import", str(image), seconds=300)

    def push(self, part: str) -> str:
        """One of Topcoat's images into the cluster's registry; the name that pods ask for."""
        return images.push(part, node.REGISTRY, self.box.enter_network)

    def has_image(self, name: str) -> bool:
        return name in self._ctr("images", "list", "-q").split()

    def give_gpus(self, count: int) -> None:
        """The scheduler counts them; there is no device behind them. The kubelet keeps what is written here once."""
        amounts = {"capacity": {GPU: str(count)}, "allocatable": {GPU: str(count)}}
        body = json.dumps({"status": amounts})
        self.kubectl("patch", "node", self.node.name, "--subresource=status", "--type=merge", "-p", body)

    def _ctr(self, *words: str, seconds: float = 60) -> str:
        command = ["ctr", "--address", str(self.node.socket), "--namespace", "k8s.io", *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    # --- how it is made

    def _write_node_files(self) -> None:
        store = folder.cache() / "registry"
        store.mkdir(exist_ok=True)
        proxy, dns = self.inner_kubeconfig("system:kube-proxy"), self.inner_kubeconfig("system:coredns")
        self.node.write(proxy, dns, store)

    def _write_files(self) -> None:
        super()._write_files()
        user = f"system:node:{self.node.name}"
        account.write_kubeconfig(self.inner_kubeconfig(user), self.inner_server, account.token(user))
        self.kubeconfig_of(STORAGE_USER)

    def _load_pause(self) -> None:
        process.wait_until("containerd", self._containerd_answers, [self.programs["containerd"]])
        image = archive.one_program(self.owned.path / "pause.tar", node.PAUSE, tools.program("pause"))
        self.load(image)
        image.unlink()

    def _containerd_answers(self) -> bool:
        with contextlib.suppress(RuntimeError):
            return bool(self._ctr("version"))
        return False

    def _doorway(self, place: arguments.Place) -> process.Program:
        script = Path(__file__).with_name("doorway.py")
        inner = [f"/proc/{self.box.holder.pid}/ns/net", place.address, str(place.api_port)]
        command = [sys.executable, "-S", str(script), str(place.outside_port), *inner]
        return process.Program("doorway", self.owned.path, command)

    def _storage(self) -> process.Program:
        kubeconfig = self.kubeconfig_path(STORAGE_USER)
        words = [str(kubeconfig), str(self.owned.path / "volumes"), self.node.name]
        command = [sys.executable, "-m", "tests.support.kube.storage", *words]
        return process.Program("storage", self.owned.path, command, {"PYTHONPATH": str(tools.ROOT)})
