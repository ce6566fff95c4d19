"""The kernel's own box around a node: network, mount and process namespaces that one process holds. What runs in it
cannot touch the machine's network or mounts; when the holder ends, the kernel ends and unmounts all of it. For root."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.kube import process

NODE_ADDRESS = "10.20.0.1"
POD_NETWORK = "10.244.0.0/16"
# A bridge, because not every kernel has a `dummy` link. Services have a route, so that the node itself reaches them;
# nothing else has one: calls to the world fail at once.
NETWORK = """
ip link set lo up
ip link add node0 type bridge
ip address add {address}/24 dev node0
ip link set node0 up
ip route add {services} dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
# Folders whose places are fixed in the programs. The holder ignores the end of children, so the kernel reaps orphans.
MOUNTS = """
for each in /run /var/lib/kubelet /var/lib/cni; do mkdir -p $each; mount -t tmpfs tmpfs $each; done
exec env --ignore-signal=CHLD sleep infinity
"""


def enter_network(holder: int) -> list[str]:
    """Not `ip netns exec`, which mounts /sys anew: the kubelet would find no cgroups there."""
    return ["nsenter", f"--net=/proc/{holder}/ns/net", "--"]


class Sandbox:
    """Started first and stopped last; `enter_network` and `enter` are prefixes of commands that run inside."""

    def __init__(self, folder: Path, services: str) -> None:
        self.services = services
        unshare = ["unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]
        self.holder = process.Program("sandbox", folder, [*unshare, "--kill-child", "sh", "-ec", MOUNTS], forks=True)

    def start(self) -> None:
        self.holder.start()
        process.wait_until("the sandbox", self._mounted, [self.holder])
        set_up = NETWORK.format(address=NODE_ADDRESS, services=self.services)
        self.run("sh", "-ec", set_up)

    def _mounted(self) -> bool:
        """The holder has gone on from its script to its sleep."""
        return Path(f"/proc/{self.holder.pid}/comm").read_text().strip() == "sleep"

    @property
    def enter_network(self) -> list[str]:
        return enter_network(self.holder.pid)

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--mount", "--pid", "--"]

    def run(self, *command: str, seconds: float = 60) -> str:
        """A command in the network of the sandbox; what it prints."""
        return self._run([*self.enter_network, *command], seconds)

    def run_inside(self, *command: str, seconds: float = 60) -> str:
        """A command that sees the mounts and processes of the sandbox too."""
        return self._run([*self.enter, *command], seconds)

    def _run(self, command: Sequence[str], seconds: float) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout
