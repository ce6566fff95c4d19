"""Conditions, phases and reasons: the tables. A reason that is not here cannot appear in a status.

Ready, Reconciling and Stalled follow kstatus, so that Argo CD, Flux and Helm understand them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from topcoat.api.exits import MEANINGS


class Condition(StrEnum):
    """Types of conditions."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    DATASET_VALID = "DatasetValid"
    ADMITTED = "Admitted"
    TRAINED = "Trained"
    EVALUATED = "Evaluated"
    PROMOTED = "Promoted"
    SERVING = "Serving"


CONDITION_MEANINGS: dict[Condition, str] = {
    Condition.READY: "what the manifest asks for is in place; a rejected candidate does not change that",
    Condition.RECONCILING: "something is being done",
    Condition.STALLED: "a person must act",
    Condition.DATASET_VALID: "the data set and the base model were checked and can be used",
    Condition.ADMITTED: "the run may use its resources",
    Condition.TRAINED: "the current run has trained its tail",
    Condition.EVALUATED: "the candidate was judged and sealed",
    Condition.PROMOTED: "the current run's candidate was promoted",
    Condition.SERVING: "an alias points to a sealed version",
}


class Phase(StrEnum):
    """One word for people. Programs read conditions."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    AWAITING_APPROVAL = "AwaitingApproval"
    ROLLING_OUT = "RollingOut"
    READY = "Ready"
    REJECTED = "Rejected"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


PHASE_MEANINGS: dict[Phase, str] = {
    Phase.PENDING: "seen, nothing done yet",
    Phase.PREPARING: "data set and base model are being checked",
    Phase.QUEUED: "waiting for resources",
    Phase.TRAINING: "the tail is being trained",
    Phase.EVALUATING: "the candidate is being judged",
    Phase.AWAITING_APPROVAL: "a winner waits for promotion.approvedVersion or `topcoat promote`",
    Phase.ROLLING_OUT: "traffic moves to another version",
    Phase.READY: "done; the promoted version serves (or is kept, where serving.mode is None)",
    Phase.REJECTED: "the candidate was not better and is kept aside; no version serves yet",
    Phase.FAILED: "the run failed and will not be tried again by itself",
    Phase.SUSPENDED: "spec.suspend is true",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: where it may appear and what it means."""

    name: str
    meaning: str
    conditions: tuple[Condition, ...]


_C = Condition
_OWN: tuple[Reason, ...] = (
    Reason("NotYetKnown", "nothing is known yet", tuple(Condition)),
    Reason("Preparing", "data set and base model are being checked", (_C.READY, _C.RECONCILING, _C.DATASET_VALID)),
    Reason("Checked", "every row was checked", (_C.DATASET_VALID,)),
    Reason("Queued", "the run waits for resources", (_C.READY, _C.RECONCILING, _C.ADMITTED)),
    Reason("Admitted", "the run has its resources", (_C.ADMITTED,)),
    Reason("Training", "the tail is being trained", (_C.READY, _C.RECONCILING, _C.TRAINED)),
    Reason("Evaluating", "the candidate is being judged", (_C.READY, _C.RECONCILING, _C.EVALUATED)),
    Reason("Retrying", "the last attempt failed; another one follows", (_C.READY, _C.RECONCILING, _C.TRAINED)),
    Reason("Completed", "done", (_C.TRAINED, _C.EVALUATED, _C.RECONCILING)),
    Reason("CandidatePromoted", "the candidate won and was promoted", (_C.READY, _C.PROMOTED)),
    Reason(
        "CandidateRejected",
        "the candidate was not better; what served before serves on (Stalled, where nothing did)",
        (_C.READY, _C.STALLED, _C.PROMOTED),
    ),
    Reason(
        "CandidateInconclusive",
        "the evidence does not decide; what served before serves on (Stalled, where nothing did)",
        (_C.READY, _C.STALLED, _C.PROMOTED),
    ),
    Reason("AwaitingApproval", "a winner waits for a person", (_C.READY, _C.PROMOTED, _C.STALLED)),
    Reason("PromotionOff", "promotion.policy is Never", (_C.READY, _C.PROMOTED)),
    Reason(
        "RolledBack",
        "an earlier version took its place: a person, or a failed canary, wants it so",
        (_C.READY, _C.PROMOTED),
    ),
    Reason("PromotedByHand", "a person promoted this version", (_C.READY, _C.PROMOTED)),
    Reason("AliasReady", "the alias points to a sealed version", (_C.SERVING,)),
    Reason("Pinned", "serving.pinnedVersion decides", (_C.SERVING, _C.READY)),
    Reason("NothingToServe", "no version was promoted yet", (_C.SERVING,)),
    Reason("ServingOff", "serving.mode is None", (_C.SERVING,)),
    Reason("RollingOut", "traffic moves to another version", (_C.READY, _C.RECONCILING, _C.SERVING)),
    Reason("Canary", "a new version is tried with a part of the traffic", (_C.SERVING,)),
    Reason(
        "CanaryHeld",
        "the version that is tried fails its analysis; rollout.autoRollback is false, so a person decides",
        (_C.READY, _C.STALLED, _C.SERVING),
    ),
    Reason("Suspended", "spec.suspend is true", (_C.READY, _C.RECONCILING, _C.ADMITTED)),
    Reason("Idle", "nothing needs to be done", (_C.RECONCILING, _C.STALLED)),
    Reason("ProfileMissing", "spec.profile names no FineTuneProfile", (_C.READY, _C.STALLED)),
    Reason("ProfileForbids", "the profile does not allow what the manifest asks for", (_C.READY, _C.STALLED)),
    Reason("PinnedVersionMissing", "serving.pinnedVersion names no sealed version", (_C.READY, _C.STALLED, _C.SERVING)),
    Reason("ApprovedVersionMissing", "promotion.approvedVersion names no sealed version", (_C.READY, _C.STALLED)),
    Reason(
        "VersionUnusable",
        "the version to serve is gone from the volume, not the one that was sealed, or refused by the server",
        (_C.READY, _C.STALLED, _C.SERVING),
    ),
    Reason(
        "AliasTaken",
        "serving.modelName belongs to another job, or is the base model's name",
        (_C.READY, _C.STALLED, _C.SERVING),
    ),
    Reason("BackoffLimitExceeded", "all attempts failed", (_C.READY, _C.STALLED, _C.TRAINED)),
    Reason("DeadlineExceeded", "lifecycle.activeDeadlineSeconds is over", (_C.READY, _C.STALLED, _C.TRAINED)),
    Reason("NotSealed", "the trainer ended without a sealed version", (_C.READY, _C.STALLED, _C.TRAINED, _C.EVALUATED)),
    Reason("Inspecting", "the trainer's last word was lost; the volume is read instead", (_C.READY, _C.RECONCILING)),
    Reason("Unschedulable", "no node has room for the pod now", (_C.READY, _C.RECONCILING, _C.ADMITTED)),
    Reason("VolumeUnbound", "a claim of the pod is not bound", (_C.READY, _C.RECONCILING, _C.STALLED, _C.ADMITTED)),
    Reason("ImageUnavailable", "the pod's image cannot be pulled", (_C.READY, _C.STALLED, _C.ADMITTED, _C.SERVING)),
    Reason(
        "PodMisconfigured",
        "the pod names a Secret, ConfigMap, key or claim that is not there",
        (_C.READY, _C.STALLED, _C.ADMITTED, _C.SERVING),
    ),
    Reason("QuotaExceeded", "the namespace's quota has no room", (_C.READY, _C.RECONCILING, _C.ADMITTED)),
    Reason("ClusterRefused", "the API server refuses what the run needs", (_C.READY, _C.STALLED, _C.ADMITTED)),
    Reason("ServerNotReady", "no server pod is ready", (_C.READY, _C.RECONCILING, _C.SERVING)),
    Reason("ScaledToZero", "serving.replicas is 0", (_C.READY, _C.SERVING)),
    Reason(
        "ScheduleInvalid", "retrain.schedule or its time zone cannot be read, or never comes", (_C.READY, _C.STALLED)
    ),
    Reason("UnsupportedHere", "the manifest asks for something that this mode cannot do", (_C.READY, _C.STALLED)),
)
_FROM_EXITS: tuple[Reason, ...] = tuple(
    Reason(meaning.reason, meaning.meaning, (_C.READY, _C.STALLED, _C.DATASET_VALID, _C.TRAINED))
    for meaning in MEANINGS
)

REASONS: dict[str, Reason] = {reason.name: reason for reason in (*_OWN, *_FROM_EXITS)}
