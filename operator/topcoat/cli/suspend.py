"""`topcoat suspend`: stop a job's run at a checkpoint. An edit of the spec in a cluster."""

from __future__ import annotations

from topcoat.cli import cluster, edit, option, place


@place.given_cluster
def suspend(name: option.Job, *, here: cluster.Cluster) -> None:
    """Stop a run at a checkpoint and start none; what serves goes on serving. `topcoat resume` goes on.

    Sets suspend: true.
    """
    edit.suspend(here, here.job(name), wanted=True)
