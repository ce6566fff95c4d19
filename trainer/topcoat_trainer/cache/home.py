"""Where a job's kept activations lie. Needs no torch, so that any stage may tidy them away."""

from __future__ import annotations

from pathlib import Path

from topcoat.api.run import RunFile


def home(run: RunFile) -> Path:
    """The job's own folder: kept activations are as sensitive as its data, so no other job's are beside them."""
    return Path(run.paths.cache) / "activations" / f"{run.name}-{run.uid}"
