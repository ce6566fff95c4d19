"""What was seen of the world: all that the planner may know besides the object itself.

Plain data, filled in by whoever observes (local mode, later the cluster). Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from topcoat.api import profile as profiles
from topcoat.api import promotion
from topcoat.api import report as reports


class Mode(StrEnum):
    """Where the plan is carried out."""

    LOCAL = "Local"
    CLUSTER = "Cluster"


class AttemptState(StrEnum):
    """How far one attempt at a run is."""

    QUEUED = "Queued"
    RUNNING = "Running"
    ENDED = "Ended"


class Wait(StrEnum):
    """What keeps a pod, or a Job, from starting. Named as the reason in conditions."""

    QUEUE = "Queued"
    UNSCHEDULABLE = "Unschedulable"
    VOLUME = "VolumeUnbound"
    IMAGE = "ImageUnavailable"
    CONFIGURATION = "PodMisconfigured"
    QUOTA = "QuotaExceeded"
    REFUSED = "ClusterRefused"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why something does not start, in the cluster's own words, and since when."""

    why: Wait
    message: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Prepared:
    """The last word of the prepare stage, and what it was asked about."""

    key: str
    """The question: `dataset.key` of the spec that it was started for."""
    finished_at: datetime
    report: reports.PrepareReport | None = None
    exit_code: int = 0
    termination: reports.Termination | None = None
    failures: int = 0
    """Failures in a row on this question since somebody last asked."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The newest attempt at a run."""

    run: int
    number: int
    state: AttemptState
    started_at: datetime
    ended_at: datetime | None = None
    input_hash: str = ""
    trigger: str = ""
    progress: reports.Progress | None = None
    exit_code: int | None = None
    """None when it ended without one (killed with its parent, node lost)."""
    termination: reports.Termination | None = None
    exits: tuple[int | None, ...] = ()
    """Exit codes of this run's attempts since somebody last asked for it, oldest first, this one included."""
    earlier_seconds: float = 0.0
    """How long the run's earlier attempts took together."""
    waiting: Waiting | None = None
    """Why it is queued."""
    word_lost: bool = False
    """It ended, and nothing tells how: only the volume can."""


@dataclass(frozen=True, slots=True)
class SealedVersion:
    """A version found on the volume."""

    version: str
    path: str
    digest: str
    """`sha256:` and the digest of its manifest.json."""
    input_hash: str = ""
    verdict: promotion.Verdict | None = None
    evaluation: reports.EvaluationSummary | None = None
    valid: bool = True
    """False when it is not whole: it is then never served."""
    problem: str = ""
    """Why it is not valid."""


@dataclass(frozen=True, slots=True)
class Alias:
    """Where the alias points now, and whose it is."""

    job: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """How one version answered on all pods while a canary is watched. `p95_seconds`: None before the first answer."""

    requests: int = 0
    failed: int = 0
    empty: int = 0
    p95_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """The model server that answers, or is to answer, for this job (cluster only)."""

    name: str
    ready_pods: int = 0
    desired_pods: int = 0
    written: Mapping[str, str] = field(default_factory=dict)
    """Versions that its alias file asks for: digests by name. Empty: no file yet."""
    target: str | None = None
    """Version that its alias file points to."""
    proved: frozenset[str] = frozenset()
    """Digests that every ready pod has loaded and proved; empty without a ready pod."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why a pod refused a version: words by digest. A pod without the version's claim cannot tell."""
    answers: str | None = None
    """Version that the alias answers with on every ready pod; during a canary the one from before."""
    alone: bool = True
    """No ready pod answers with another version besides."""
    outdated: bool = False
    """A ready pod is without the claim on which a wanted version lies: others are about to take its place."""
    watched: str | None = None
    """Version that its alias file has watched."""
    weight: int = 0
    """Per cent of the traffic that its alias file gives to the watched version."""
    weight_in_force: int | None = None
    """The same, as every ready pod has it; None where they differ."""
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    """By version, while one is watched."""
    waiting: Waiting | None = None
    """Why pods do not start."""
    url: str = ""
    """Base address for clients."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The world at one moment."""

    mode: Mode = Mode.LOCAL
    profile: profiles.FineTuneProfile | None = None
    profile_state: str = ""
    """Name and digest of the profile as it is today; a run remembers those that it started with."""
    prepared: Prepared | None = None
    preparing: bool = False
    recheck: bool = False
    """Somebody wants the sources looked at again (each `topcoat run` does)."""
    attempt: Attempt | None = None
    versions: tuple[SealedVersion, ...] = ()
    highest_run: int = 0
    """Highest run number that ever left a trace on the volume."""
    alias: Alias | None = None
    asked: bool = False
    """Somebody asks for another try of a failed run."""
    waiting: Waiting | None = None
    """Why the prepare stage does not start."""
    blocked: Waiting | None = None
    """Why the cluster did not take what was to be started."""
    server: Server | None = None
    """The model server (cluster only)."""
    stopping: bool = False
    """Somebody at the terminal wants everything to stop at a checkpoint."""

    def version_or_none(self, name: str | None) -> SealedVersion | None:
        return next((version for version in self.versions if version.version == name), None)
