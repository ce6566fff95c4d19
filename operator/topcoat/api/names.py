"""Names that are made from other names. Deterministic, so that the same child is never made twice."""

from __future__ import annotations


def run_name(run: int) -> str:
    """Name of a run, as r1."""
    return f"r{run}"


def version_name(run: int) -> str:
    """Name of the version that a run seals: its own number, so that v7 came from r7."""
    return f"v{run}"


def run_of(version: str) -> int:
    """Number of the run that sealed a version."""
    return int(version.removeprefix("v"))


def job_folder(name: str, uid: str) -> str:
    """Folder of a job on a volume: its name for people, its UID so that a namesake never finds it."""
    return f"{name}-{uid[:8]}"
