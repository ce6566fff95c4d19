"""What is remembered of Jobs and pods: the few facts that decide something, so that other news costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic

from topcoat.api import report
from topcoat.manifests import metadata
from topcoat.plan import observed, shown

Json = dict[str, Any]

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
CONFIGURATION_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A Job of ours."""

    name: str
    namespace: str
    uid: str
    owner_uid: str
    role: str
    run: int
    attempt: int
    key: str
    versions: str
    """Address of its versions folder."""
    trigger: str
    """Why its run started."""
    created_at: datetime
    suspended: bool
    ended_at: datetime | None
    succeeded: bool
    problem: str
    """Why it failed, in the Job controller's words."""
    deleting: bool
    expires: bool
    """It has a time to live."""
    started: bool
    """The Job controller has pods for it, or had."""


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod of ours."""

    name: str
    namespace: str
    uid: str
    owner: str
    """Name of the Job, or of the ModelServer."""
    role: str
    created_at: datetime
    phase: str
    ready: bool
    ip: str
    waiting: observed.Waiting | None
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    ended_because: str
    """The kubelet's word: OOMKilled, Error, Completed …; or the pod's own: Evicted …"""
    disrupted: bool
    """The cluster took it away."""
    word: report.Termination | None
    deleting: bool
    creating_since: datetime | None
    """Scheduled, but its container does not start yet."""
    claims: frozenset[str] = frozenset()
    """Claims that it mounts."""


def job(body: Json) -> JobRecord:
    """The facts of a Job."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    over = next((c for c in status.get("conditions") or () if _is_end(c)), None)
    return JobRecord(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        owner_uid=next((owner["uid"] for owner in meta.get("ownerReferences") or () if owner.get("controller")), ""),
        role=labels.get(metadata.ROLE, ""),
        run=_whole(labels.get(metadata.RUN)),
        attempt=_whole(labels.get(metadata.ATTEMPT)),
        key=annotations.get(metadata.KEY, ""),
        versions=annotations.get(metadata.VERSIONS, ""),
        trigger=annotations.get(metadata.TRIGGER, ""),
        created_at=_moment(meta.get("creationTimestamp")) or LONG_AGO,
        suspended=bool(spec.get("suspend")),
        ended_at=_moment(over.get("lastTransitionTime")) or LONG_AGO if over else None,
        succeeded=bool(over and over["type"] == "Complete"),
        problem=f"{over.get('reason', '')}: {over.get('message', '')}" if over and over["type"] == "Failed" else "",
        deleting="deletionTimestamp" in meta,
        expires=spec.get("ttlSecondsAfterFinished") is not None,
        started=bool(status.get("active") or status.get("failed") or status.get("succeeded")),
    )


def _is_end(condition: Json) -> bool:
    return condition["type"] in ("Complete", "Failed") and condition["status"] == "True"


def pod(body: Json) -> PodRecord:
    """The facts of a pod."""
    meta, status = body["metadata"], body.get("status") or {}
    labels = meta.get("labels") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    container: Json = next(iter(status.get("containerStatuses") or ()), {})
    state = container.get("state") or {}
    ended, running = state.get("terminated") or {}, state.get("running") or {}
    started = _moment(running.get("startedAt") or ended.get("startedAt"))
    return PodRecord(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        owner=labels.get("batch.kubernetes.io/job-name") or labels.get(metadata.SERVER, ""),
        role=labels.get(metadata.ROLE, ""),
        created_at=_moment(meta.get("creationTimestamp")) or LONG_AGO,
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        ip=status.get("podIP", ""),
        waiting=_waiting(body, conditions, state.get("waiting") or {}),
        started_at=started,
        ended_at=_ended_at(status, ended, conditions),
        exit_code=ended.get("exitCode"),
        ended_because=status.get("reason") or ended.get("reason") or "",
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        word=_word(ended.get("message")),
        deleting="deletionTimestamp" in meta,
        creating_since=_creating_since(conditions, status, state),
        claims=_claims(body.get("spec") or {}),
    )


def _claims(spec: Json) -> frozenset[str]:
    found = (volume.get("persistentVolumeClaim") for volume in spec.get("volumes") or ())
    return frozenset(claim["claimName"] for claim in found if claim)


def _ended_at(status: Json, ended: Json, conditions: dict[str, Json]) -> datetime | None:
    if status.get("phase") not in ("Succeeded", "Failed"):
        return None
    known = _moment(ended.get("finishedAt"))
    return known or _moment(conditions.get("Ready", {}).get("lastTransitionTime")) or LONG_AGO


def _creating_since(conditions: dict[str, Json], status: Json, state: Json) -> datetime | None:
    scheduled = conditions.get("PodScheduled", {})
    waits = state.get("waiting", {}).get("reason") == "ContainerCreating"
    if status.get("phase") != "Pending" or scheduled.get("status") != "True" or not waits:
        return None
    return _moment(scheduled.get("lastTransitionTime"))


def _waiting(body: Json, conditions: dict[str, Json], waiting: Json) -> observed.Waiting | None:
    """Why a pod does not run, if the cluster says so."""
    since = _moment(body["metadata"].get("creationTimestamp")) or LONG_AGO
    reason, message = waiting.get("reason", ""), str(waiting.get("message", ""))[:600]
    if reason in IMAGE_REASONS:
        # The kubelet goes to and fro between two reasons; only the image stays the same.
        containers: list[Json] = body.get("spec", {}).get("containers") or [{}]
        image = containers[0].get("image", "")
        return observed.Waiting(observed.Wait.IMAGE, f"the image {image} cannot be pulled", since)
    if reason in CONFIGURATION_REASONS:
        return observed.Waiting(observed.Wait.CONFIGURATION, message or reason, since)
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        text = str(scheduled.get("message", ""))[:600]
        unbound = "PersistentVolumeClaim" in text or "persistentvolumeclaim" in text
        kind = observed.Wait.VOLUME if unbound else observed.Wait.UNSCHEDULABLE
        return observed.Waiting(kind, text, since)
    return None


def _word(message: str | None) -> report.Termination | None:
    """A trainer's last word; anything else in its place is no word."""
    if not message or not message.lstrip().startswith("{"):
        return None
    try:
        return report.Termination.model_validate_json(message)
    except pydantic.ValidationError:
        return None


def _moment(text: str | None) -> datetime | None:
    return shown.moment(text)


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
