"""Ends what a crashed run left behind: the processes recorded in folders that nobody owns now, then the folders."""

from __future__ import annotations

import sys

from tests.support.kube import folder, node


def clean() -> int:
    """How many abandoned clusters were ended."""
    found = folder.abandoned()
    for owned in found:
        print(f"Ended {end(owned)} processes of {owned.name}, which an earlier run left behind", file=sys.stderr)
    return len(found)


def end(owned: folder.Owned) -> int:
    """Ends a cluster that this process did not start; how many of its processes were still running."""
    ended = folder.end_processes(owned.path)
    node.Node(owned.path / "node", owned.name).remove_cgroups()
    owned.remove()
    return ended
