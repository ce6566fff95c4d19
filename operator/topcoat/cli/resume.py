"""`topcoat resume`: let a suspended job go on. An edit of the spec in a cluster."""

from __future__ import annotations

from topcoat.cli import cluster, edit, option, place


@place.given_cluster
def resume(name: option.Job, *, here: cluster.Cluster) -> None:
    """Let a suspended job go on from its checkpoint. Sets suspend: false."""
    edit.suspend(here, here.job(name), wanted=False)
