"""What the cluster shows of one FineTuneJob, as the planner's `Seen`. From memory alone; changes nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from topcoat.api import exits, finetunejob, names, profile, report
from topcoat.cluster import memory, queue, remembered, served
from topcoat.cluster.record import LONG_AGO, JobRecord, PodRecord
from topcoat.manifests import metadata
from topcoat.manifests.metadata import Role
from topcoat.plan import observed

Json = dict[str, Any]
State = observed.AttemptState


def seen(known: memory.Memory, job: finetunejob.FineTuneJob) -> observed.Seen:
    """All that is known of a job now."""
    uid, before = job.metadata.uid, job.status
    prepares = sorted(known.children_of(uid, Role.PREPARE), key=lambda record: (record.created_at, record.name))
    active = next((record for record in prepares if record.ended_at is None), None)
    attempt = _attempt(known, job)
    key = queue.Key("FineTuneJob", job.metadata.namespace, job.metadata.name)
    versions = _versions(known, job, attempt)
    trains = [record.run for record in known.children_of(uid, Role.TRAIN)]
    return observed.Seen(
        mode=observed.Mode.CLUSTER,
        profile=profile_of(known, job),
        profile_state=f"{job.spec.profile}@{known.digests.get(job.spec.profile, '')}",
        prepared=_prepared(known, job, prepares),
        preparing=active is not None,
        waiting=_waiting(known, active) if active else None,
        attempt=attempt,
        versions=versions,
        highest_run=max([0, *trains, *(names.run_of(version.version) for version in versions)]),
        alias=served.alias_or_none(known, job),
        server=served.server_or_none(known, job),
        blocked=known.blocked.get(key),
        # An edit of the manifest is how somebody asks for another try of a failed run.
        asked=bool(before and before.observed_generation != job.metadata.generation),
    )


def owner(job: finetunejob.FineTuneJob) -> metadata.Owner:
    meta = job.metadata
    return metadata.Owner("FineTuneJob", meta.name, meta.namespace, meta.uid)


def profile_of(known: memory.Memory, job: finetunejob.FineTuneJob) -> profile.FineTuneProfile | None:
    """The profile of today, or for a run that is going on the one that it started with."""
    current = known.profiles.get(job.spec.profile)
    run = job.status.run if job.status else None
    if run is None or run.completion_time or not run.profile:
        return current
    name, _, digest = run.profile.partition("@")
    if name != job.spec.profile:
        return current
    return known.snapshots.get((job.metadata.namespace, digest), current)


def _pods(known: memory.Memory, record: JobRecord) -> list[PodRecord]:
    return known.pods_of(record.namespace, record.name)


def _word(known: memory.Memory, record: JobRecord) -> report.Termination | None:
    """The last word of a Job: of its newest pod that left one; of several, the one that tells of a seal."""
    words = [pod.word for pod in reversed(_pods(known, record)) if pod.word]
    sealed = next((word for word in words if word.outcome is report.Outcome.SEALED), None)
    return sealed or next(iter(words), None)


def _exit_code(known: memory.Memory, record: JobRecord) -> int | None:
    """The pod's exit code; of several pods, the one that says most."""
    codes = [pod.exit_code for pod in reversed(_pods(known, record)) if pod.exit_code is not None]
    if record.succeeded:
        return 0
    told = [code for code in codes if code in exits.BY_CODE and code != exits.Exit.UNEXPECTED]
    failed = [code for code in codes if code]
    return next(iter(told or failed), None)


def _waiting(known: memory.Memory, record: JobRecord) -> observed.Waiting | None:
    """Why a Job has no running pod."""
    pods = [pod for pod in _pods(known, record) if pod.phase == "Pending"]
    told = next(
        (pod.waiting or known.stuck.get(pod.uid) for pod in pods if pod.waiting or pod.uid in known.stuck), None
    )
    if told is not None:
        return told
    if record.suspended:
        usual = observed.Waiting(observed.Wait.QUEUE, "the queue has not admitted it yet", record.created_at)
        return known.stuck.get(record.uid, usual)
    return None if pods else known.stuck.get(record.uid)


def _prepared(
    known: memory.Memory, job: finetunejob.FineTuneJob, prepares: list[JobRecord]
) -> observed.Prepared | None:
    """The newest answer: of a Job that is still there, else what status remembers."""
    known_before = remembered.prepared_or_none(job)
    ended = [record for record in prepares if record.ended_at]
    if not ended:
        return known_before
    newest = max(ended, key=lambda record: record.ended_at or LONG_AGO)
    at = newest.ended_at or LONG_AGO
    if known_before and known_before.key == newest.key and known_before.finished_at >= at:
        return known_before
    word, code = _word(known, newest), _exit_code(known, newest)
    found = word.prepared if word else None
    failures = sum(record.key == newest.key and not record.succeeded for record in ended)
    if newest.succeeded and found is None:
        code = exits.Exit.UNEXPECTED.value
    lost = report.Termination(outcome=report.Outcome.FAILED, message=_lost(known, newest)) if word is None else word
    return observed.Prepared(
        key=newest.key,
        finished_at=at,
        report=found,
        exit_code=0 if found else code or exits.Exit.UNEXPECTED.value,
        termination=lost,
        failures=failures,
    )


def _lost(known: memory.Memory, record: JobRecord) -> str:
    """What a Job without a last word shows from outside."""
    pods = _pods(known, record)
    because = next((pod.ended_because for pod in reversed(pods) if pod.ended_because), "")
    told = f" ({because})" if because else ""
    return f"the pod of {record.name} ended without a last word{told}; {record.problem}"[:1024]


def _attempt(known: memory.Memory, job: finetunejob.FineTuneJob) -> observed.Attempt | None:
    """The newest attempt at a run."""
    trains = sorted(known.children_of(job.metadata.uid, Role.TRAIN), key=lambda r: (r.run, r.attempt))
    if not trains:
        return None
    newest = trains[-1]
    same = [record for record in trains if record.run == newest.run]
    ended = newest.ended_at is not None
    inspected = _inspected(known, job, newest)
    word = _word(known, newest) or _killed(known, newest) or inspected
    code = _code_for_retry(known, newest)
    if inspected and inspected.outcome is report.Outcome.SEALED:
        code = 0
    state = State.ENDED if ended else State.RUNNING if _is_running(known, newest) else State.QUEUED
    run = job.status.run if job.status else None
    mine = run if run and run.number == newest.run else None
    return observed.Attempt(
        run=newest.run,
        number=newest.attempt,
        state=state,
        started_at=_started_at(known, newest),
        ended_at=newest.ended_at,
        input_hash=mine.input_hash if mine else newest.key,
        trigger=mine.trigger if mine else newest.trigger,
        progress=_progress(job, newest),
        exit_code=code if ended else None,
        termination=word if ended else None,
        exits=tuple(_code_for_retry(known, record) for record in same if record.ended_at),
        earlier_seconds=sum(_seconds(known, record) for record in same[:-1]),
        waiting=None if ended else _waiting(known, newest),
        word_lost=ended and word is None,
    )


def _killed(known: memory.Memory, record: JobRecord) -> report.Termination | None:
    """The word that a trainer could not say, because the kernel killed it for its memory."""
    if not any(pod.ended_because == "OOMKilled" for pod in _pods(known, record)):
        return None
    text = "the trainer reached the memory limit of its pod and was killed (OOMKilled)"
    code = exits.Exit.OUT_OF_MEMORY.value
    return report.Termination(outcome=report.Outcome.FAILED, exit_code=code, message=text)


def _code_for_retry(known: memory.Memory, record: JobRecord) -> int | None:
    killed = _killed(known, record) if _word(known, record) is None else None
    return killed.exit_code if killed else _exit_code(known, record)


def _is_running(known: memory.Memory, record: JobRecord) -> bool:
    """Its newest pod runs, or has just ended and the Job does not say so yet; one that was taken away is waited for."""
    pods = _pods(known, record)
    if any(pod.phase == "Running" for pod in pods):
        return True
    newest = max(pods, key=lambda pod: pod.created_at, default=None)
    return newest is not None and newest.ended_at is not None and not newest.disrupted


def _started_at(known: memory.Memory, record: JobRecord) -> datetime:
    """When its first pod ran; while it is queued, since when it waits."""
    moments = [pod.started_at for pod in _pods(known, record) if pod.started_at]
    return min(moments, default=record.created_at)


def _seconds(known: memory.Memory, record: JobRecord) -> float:
    return max(0.0, ((record.ended_at or record.created_at) - _started_at(known, record)).total_seconds())


def _inspected(known: memory.Memory, job: finetunejob.FineTuneJob, attempt: JobRecord) -> report.Termination | None:
    """What an inspect Job found on the volume for this attempt."""
    for record in known.children_of(job.metadata.uid, Role.INSPECT):
        if (record.run, record.attempt) != (attempt.run, attempt.attempt) or record.ended_at is None:
            continue
        word = _word(known, record)
        if word is None or word.outcome is report.Outcome.FAILED:
            message = word.message if word else _lost(known, record)
            return report.Termination(outcome=report.Outcome.FAILED, exit_code=1, message=message)
        if word.version:
            return word.model_copy(update={"outcome": report.Outcome.SEALED})
        said = word.message or "the trainer's pod is gone, and it left no version and no last word on the volume"
        return word.model_copy(update={"outcome": report.Outcome.FAILED, "message": said})
    return None


def _progress(job: finetunejob.FineTuneJob, newest: JobRecord) -> report.Progress | None:
    """What the trainer reported last: it is written into status as it comes."""
    said, run = (job.status.progress, job.status.run) if job.status else (None, None)
    if said is None or run is None or run.number != newest.run or said.progress_percentage is None:
        return None
    metrics = [report.ProgressMetric(name="loss", value=said.loss)] if said.loss else []
    return report.Progress(
        stage=said.stage,
        progress_percentage=said.progress_percentage,
        estimated_remaining_seconds=said.estimated_remaining_seconds,
        metrics=metrics,
        last_updated_time=said.last_updated_time or "",
        current_step=said.current_step or 0,
        total_steps=said.total_steps or 0,
        tokens_per_second=float(said.tokens_per_second or 0),
        seconds_per_step=float(said.seconds_per_step) if said.seconds_per_step else None,
        peak_memory_bytes=remembered.bytes_of(said.peak_memory) if said.peak_memory else None,
    )


def _versions(
    known: memory.Memory, job: finetunejob.FineTuneJob, attempt: observed.Attempt | None
) -> tuple[observed.SealedVersion, ...]:
    """What status remembers as sealed, and what the newest attempt sealed; without what was discarded."""
    said = job.status.versions if job.status else ()
    discards = (record for record in known.children_of(job.metadata.uid, Role.DISCARD) if record.succeeded)
    gone = {names.version_name(record.run) for record in discards}
    found = {
        entry.version: observed.SealedVersion(
            entry.version, entry.path, entry.digest, entry.input_hash, entry.verdict, None
        )
        for entry in said
        if entry.version not in gone
    }
    word = attempt.termination if attempt else None
    if attempt and word and word.outcome is report.Outcome.SEALED and word.version and word.digest:
        new = _sealed(known, job, attempt, word)
        old = found.get(new.version)
        found[new.version] = replace(old, evaluation=new.evaluation) if old else new
        if new.version in gone:
            del found[new.version]
    return tuple(sorted(found.values(), key=lambda version: names.run_of(version.version)))


def _sealed(
    known: memory.Memory, job: finetunejob.FineTuneJob, attempt: observed.Attempt, word: report.Termination
) -> observed.SealedVersion:
    version = word.version or ""
    digest = word.digest or ""
    return observed.SealedVersion(
        version=version,
        path=f"{_folder(known, job, attempt)}/{version}",
        digest=digest if digest.startswith("sha256:") else f"sha256:{digest}",
        input_hash=attempt.input_hash,
        verdict=word.evaluation.verdict if word.evaluation else None,
        evaluation=word.evaluation,
    )


def _folder(known: memory.Memory, job: finetunejob.FineTuneJob, attempt: observed.Attempt) -> str:
    trains = known.children_of(job.metadata.uid, Role.TRAIN)
    return next((r.versions for r in trains if (r.run, r.attempt) == (attempt.run, attempt.number)), "")
