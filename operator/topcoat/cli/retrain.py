"""`topcoat retrain`: one run now, although the manifest did not change. An edit of the spec in a cluster."""

from __future__ import annotations

from topcoat.cli import cluster, edit, option, place


@place.given_cluster
def retrain(name: option.Job, *, here: cluster.Cluster) -> None:
    """Ask the operator for one run now: data set and base model are read again. The gate decides as always.

    Sets retrain.requestedAt. Where nothing changed since the last run, the same inputs are trained once more.
    """
    edit.retrain(here, here.job(name))
