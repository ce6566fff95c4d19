"""Names that are made from other names. Deterministic, so that the same child is never made twice."""

from __future__ import annotations

import hashlib
import re


def run_name(run: int) -> str:
    """Name of a run, as r1."""
    return f"r{run}"


def version_name(run: int) -> str:
    """Name of the version that a run seals: its own number, so that v7 came from r7."""
    return f"v{run}"


def attempt_suffix(run: int, attempt: int) -> str:
    """What follows the job's name in the name of an attempt's Job."""
    return f"{run_name(run)}-a{attempt}"


LIKE_A_VERSION = "--v[0-9]+$"
"""How names end by which servers know versions, as `claims--v7`. A model name that does would stand in front of one."""


def is_like_a_version(name: str) -> bool:
    """Whether a model name could be that of some job's version."""
    return re.search(LIKE_A_VERSION, name) is not None


def run_of(version: str) -> int:
    """Number of the run that sealed a version."""
    return int(version.removeprefix("v"))


def job_folder(name: str, uid: str) -> str:
    """Folder of a job on a volume: its name for people, its UID so that a namesake never finds it."""
    return f"{name}-{uid[:8]}"


LONGEST_CHILD_NAME = 57
"""A Job's pods add an index and five letters of their own, and a host name has 63 letters at most."""
LONGEST_LABEL = 63


def child_name(owner: str, suffix: str) -> str:
    """Name of a child object: its owner's name and what it is for; a long name is cut and told apart by a hash."""
    room = LONGEST_CHILD_NAME - len(suffix) - 1
    if len(owner) <= room:
        return f"{owner}-{suffix}"
    return f"{owner[: room - 7].rstrip('-')}-{hashlib.sha256(owner.encode()).hexdigest()[:6]}-{suffix}"


def label(text: str) -> str:
    """The text as a label's value."""
    return text if len(text) <= LONGEST_LABEL else f"{text[:56]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def server_name(base_id: str, base_digest: str, engine: str) -> str:
    """Name of the server that many jobs share: one per base model and engine. A Service's name starts with a letter."""
    words = re.sub(r"[^a-z0-9]+", "-", base_id.rsplit("/", 1)[-1].lower()).strip("-") or "model"
    told_apart = hashlib.sha256(f"{base_digest}/{engine}".encode()).hexdigest()[:8]
    return f"{words if words[0].isalpha() else f'm-{words}'}"[:40].rstrip("-") + f"-{told_apart}"
