"""How the programs of a control plane are started: places and flags, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.kube import port

SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
SERVICE_NAMES = [f"kubernetes{rest}" for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
# A test of a thousand jobs measures the operator, not these programs' own brakes.
UNBRAKED = ["--kube-api-qps=1000", "--kube-api-burst=2000"]


@dataclass(frozen=True)
class Place:
    """Where the programs run: on this machine's own loopback, or inside a network namespace that `enter` enters."""

    address: str = "127.0.0.1"
    enter: Sequence[str] = ()
    etcd_port: int = field(default_factory=port.reserve)
    peer_port: int = field(default_factory=port.reserve)
    api_port: int = field(default_factory=port.reserve)
    # Where this machine reaches the API server, when that is another port than inside.
    outside_port: int | None = None

    @property
    def etcd(self) -> str:
        return f"http://127.0.0.1:{self.etcd_port}"


def etcd(root: Path, place: Place) -> list[str]:
    peer = f"http://127.0.0.1:{place.peer_port}"
    return [
        f"--data-dir={root / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={place.etcd}",
        f"--advertise-client-urls={place.etcd}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def api_server(root: Path, place: Place) -> list[str]:
    pki = root / "pki"
    # The Service `kubernetes` cannot lead to a loopback address; without a node nobody follows it.
    unpublished = ["--endpoint-reconciler-type=none"] if place.address.startswith("127.") else []
    return [
        *unpublished,
        f"--etcd-servers={place.etcd}",
        f"--bind-address={place.address}",
        f"--advertise-address={place.address}",
        f"--secure-port={place.api_port}",
        f"--tls-cert-file={pki / 'server.crt'}",
        f"--tls-private-key-file={pki / 'server.key'}",
        f"--token-auth-file={pki / 'tokens.csv'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki / 'accounts.key'}",
        f"--service-account-signing-key-file={pki / 'accounts.key'}",
        "--authorization-mode=RBAC,Node",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={root / 'audit-policy.json'}",
        f"--audit-log-path={root / 'audit.log'}",
        "--profiling=false",
    ]


def controllers(root: Path, kubeconfig: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--use-service-account-credentials=false",
        "--enable-hostpath-provisioner=true",
        f"--service-account-private-key-file={root / 'pki' / 'accounts.key'}",
        f"--root-ca-file={root / 'pki' / 'ca.crt'}",
        "--secure-port=0",
        *UNBRAKED,
    ]


def scheduler(kubeconfig: Path) -> list[str]:
    return [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0", *UNBRAKED]
