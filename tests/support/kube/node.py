"""What makes a control plane's sandbox a node: configurations and commands of containerd, kubelet, kube-proxy, CoreDNS
and the registry. Spells files and arguments; cluster.py starts them."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.kube import sandbox

PAUSE = "localhost/pause:1"
DOMAIN = "cluster.local"
CNI_PLUGINS = Path("/usr/lib/cni")
REGISTRY = "localhost:5000"
CGROUPS = Path("/sys/fs/cgroup")
CONTAINERD = """version = 2
root = "{root}/containerd"
state = "{root}/state"
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{root}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""
COREDNS = """.:53 {{
    bind {address}
    errors
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
    }}
}}
"""


@dataclass(frozen=True)
class Node:
    """One node's folder and name."""

    root: Path
    name: str

    @property
    def socket(self) -> Path:
        return self.root / "containerd.sock"

    def remove_cgroups(self) -> None:
        """The groups of this node's containers, when those are gone: the kernel keeps empty ones for ever."""
        for container in (self.root / "state" / "io.containerd.runtime.v2.task" / "k8s.io").glob("*"):
            for group in [CGROUPS / "k8s.io" / container.name, *CGROUPS.glob(f"*/k8s.io/{container.name}")]:
                for path, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(path).rmdir()

    def write(self, proxy: Path, dns: Path, registry_store: Path) -> None:
        """All configuration files; `proxy` and `dns` are kubeconfigs."""
        (self.root / "cni").mkdir(parents=True, exist_ok=True)
        (self.root / "resolv.conf").write_text("")
        (self.root / "containerd.toml").write_text(CONTAINERD.format(root=self.root, pause=PAUSE, plugins=CNI_PLUGINS))
        (self.root / "Corefile").write_text(COREDNS.format(address=sandbox.NODE_ADDRESS, domain=DOMAIN, kubeconfig=dns))
        for name, content in (
            ("cni/10-ptp.conflist", self._network()),
            ("kubelet.json", self._kubelet()),
            ("proxy.json", self._proxy(proxy)),
            ("registry.json", _registry(registry_store)),
        ):
            (self.root / name).write_text(json.dumps(content, indent=1))

    def commands(self, kubeconfig: Path) -> dict[str, list[str]]:
        """Arguments by program, in the order of their start."""
        return {
            "containerd": ["--config", str(self.root / "containerd.toml")],
            "docker-registry": ["serve", str(self.root / "registry.json")],
            "kubelet": [
                f"--config={self.root / 'kubelet.json'}",
                f"--kubeconfig={kubeconfig}",
                f"--root-dir={self.root / 'kubelet'}",
                f"--hostname-override={self.name}",
                f"--node-ip={sandbox.NODE_ADDRESS}",
            ],
            "kube-proxy": [f"--config={self.root / 'proxy.json'}"],
            "coredns": ["-conf", str(self.root / "Corefile")],
        }

    def _network(self) -> dict[str, Any]:
        # ptp, not bridge: with a bridge the replies between pods of one node bypass NAT, and Services hang.
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": sandbox.POD_NETWORK}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.root / "cni-state"),
        }
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": addresses}]}

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": sandbox.NODE_ADDRESS,
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "podLogsDir": str(self.root / "pod-logs"),
            "clusterDNS": [sandbox.NODE_ADDRESS],
            "clusterDomain": DOMAIN,
            "resolvConf": str(self.root / "resolv.conf"),
            # Nobody but this cluster reaches the sandbox.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "readOnlyPort": 0,
            # The machine's own cgroups are left as they are, whichever version they have.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            # A test machine's disk is fuller than a node's: evict only when it is really full, never drop an image.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
        }

    def _proxy(self, kubeconfig: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": sandbox.POD_NETWORK,
            "detectLocalMode": "ClusterCIDR",
            # These sysctls belong to the whole machine.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "healthzBindAddress": f"{sandbox.NODE_ADDRESS}:10256",
        }


def _registry(store: Path) -> dict[str, Any]:
    return {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(store)}, "delete": {"enabled": True}},
        "http": {"addr": REGISTRY.replace("localhost", "127.0.0.1")},
    }
