"""The test cluster by hand: `python -m tests.support.kube up`, `down`, `tools`. For people; tests use the fixtures."""

from __future__ import annotations

import argparse
import sys

from tests.support.kube import cluster as clusters
from tests.support.kube import control_plane as planes
from tests.support.kube import folder, images, leftover, node, sandbox, tools

HOW_TO = """# {name} runs until `make cluster-down`. Use it in this shell:
export KUBECONFIG={kubeconfig}
export PATH={programs}:$PATH
# then: kubectl get nodes"""


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.support.kube", description=__doc__)
    verbs = words.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start a cluster that stays until `down`; prints its KUBECONFIG")
    up.add_argument("--control-plane-only", action="store_true", help="no node: no pod runs; needs no root")
    down = verbs.add_parser("down", help="end every cluster that `up` started, and what crashed runs left")
    down.add_argument("names", nargs="*", help="only these")
    verbs.add_parser("prepare", help="build what the tests of this machine need: minutes at first, then nothing")
    verbs.add_parser("images", help="build Topcoat's images and write the lists of their contents to build/sbom/")
    verbs.add_parser("push", help="put the images into the registries of the clusters that `up` started")
    said = words.parse_args()
    return {"up": _up, "down": _down, "prepare": _prepare, "images": _images, "push": _push}[said.verb](said)


def _up(said: argparse.Namespace) -> int:
    if not said.control_plane_only and (why := clusters.missing()):
        print(f"Cannot start a cluster: {why}. Without a node: --control-plane-only", file=sys.stderr)
        return 1
    tools.prepare()
    leftover.clean()
    if said.control_plane_only:
        plane = planes.ControlPlane(owned := folder.Owned.new("plane"))
    else:
        plane = clusters.Cluster.in_sandbox(owned := folder.Owned.new("cluster"))
    try:
        plane.start()
        plane.apply_crds()
    except BaseException:
        plane.stop()
        raise
    owned.keep()
    print(HOW_TO.format(name=owned.name, kubeconfig=plane.kubeconfig, programs=tools.program("kubectl").parent))
    return 0


def _down(said: argparse.Namespace) -> int:
    for path in folder.kept():
        if said.names and path.name not in said.names:
            continue
        leftover.end(folder.Owned(path))
        print(f"{path.name} is gone", file=sys.stderr)
    leftover.clean()
    return 0


def _prepare(said: argparse.Namespace) -> int:
    """Without these the tests that need them are left out, and say so; so this is no failure."""
    try:
        tools.prepare()
        if not clusters.missing():
            clusters.prepare()
    except (tools.NoTools, RuntimeError) as why:
        print(why, file=sys.stderr)
    return 0


def _images(said: argparse.Namespace) -> int:
    try:
        for part in images.PARTS:
            print(f"Building {images.name(part)} with {images.builder()} (the first time takes minutes)", flush=True)
            images.build(part)
            print(f"  contents: {images.write_sbom(part, tools.ROOT / 'build' / 'sbom')}")
    except images.NoImages as why:
        print(why, file=sys.stderr)
        return 1
    return 0


def _push(said: argparse.Namespace) -> int:
    for path in folder.kept():
        holder = path / "pids" / "sandbox"
        if holder.exists():
            enter = sandbox.enter_network(int(holder.read_text().split()[0]))
            for part in images.PARTS:
                print(f"{path.name}: {images.push(part, node.REGISTRY, enter)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
