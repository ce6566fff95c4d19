"""Carries out what was planned, on the API server. Decides nothing; every action may be carried out twice.

What the server refuses for good (quota, policy, a bad reference) is remembered and told, not raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from topcoat.api import finetunejob, lifecycle, names, profile
from topcoat.cluster import client, clock, memory, namespace, observe, record, rollout, snapshot
from topcoat.cluster.queue import Key
from topcoat.manifests import job as jobs
from topcoat.manifests import pod
from topcoat.manifests.metadata import Role
from topcoat.plan import intent, observed

Json = dict[str, Any]


@dataclass(slots=True)
class Hands:
    """The client, the memory, and what the installation decides."""

    api: client.Client
    known: memory.Memory
    platform: pod.Platform

    async def carry_out(  # noqa: PLR0911 - a table
        self, job: finetunejob.FineTuneJob, found: profile.FineTuneProfile, action: intent.Action
    ) -> bool:
        """Does it; true where that wrote anything."""
        match action:
            case intent.StartPrepare():
                return await self._start(job, found, _prepare(self.known, job, found, action))
            case intent.StartTraining():
                return await self._start(job, found, _training(job, found, action.order, Role.TRAIN))
            case intent.Inspect():
                return await self._start(job, found, _training(job, found, action.order, Role.INSPECT))
            case intent.DeleteVersion():
                return await self._start(job, found, _discard(job, found, action))
            case intent.StopTraining():
                return await self._stop(job, action)
            case intent.Expire():
                return await self._expire(job, action)
            case intent.WriteAlias():
                return await rollout.write_alias(self.api, self.known, job, action)
            case intent.DropAlias():
                return await rollout.drop_alias(self.api, self.known, job, action.alias)
            case intent.PointAlias():
                return False  # local mode's: a cluster writes alias files

    async def _start(self, job: finetunejob.FineTuneJob, found: profile.FineTuneProfile, child: jobs.Child) -> bool:
        """Creates a Job, unless it is there."""
        name = names.child_name(child.owner.name, child.suffix)
        key = Key("FineTuneJob", job.metadata.namespace, job.metadata.name)
        if name in self.known.children.get(job.metadata.uid, {}):
            return False
        try:
            await namespace.ready(self.api, self.known, self.platform, job.metadata.namespace, found)
            if child.role is Role.TRAIN:
                await snapshot.keep(self.api, self.known, job.metadata.namespace, found)
            if child.nodes > 1:
                await self.api.apply(jobs.headless_service(child))
            made = await self.api.create(jobs.job(self.platform, child))
        except client.ApiError as error:
            return self._refused(key, error)
        self.known.blocked.pop(key, None)
        self.known.put_job(record.job(made))
        return True

    def _refused(self, key: Key, error: client.ApiError) -> bool:
        """An answer that another try will not change is told to the user; 409 means that the watch will bring it."""
        if error.status == 409 and error.reason == "AlreadyExists":
            return False
        if error.passing or error.status == 404:
            raise error
        quota = error.status == 403 and "quota" in error.message
        why = observed.Wait.QUOTA if quota else observed.Wait.REFUSED
        before = self.known.blocked.get(key)
        since = before.since if before and before.why is why else clock.now()
        self.known.blocked[key] = observed.Waiting(why, error.message[:600], since)
        return False

    async def _stop(self, job: finetunejob.FineTuneJob, action: intent.StopTraining) -> bool:
        """Deletes the Job: its pods get SIGTERM, save a checkpoint and end; the Job stays until they are gone."""
        for found in self.known.children_of(job.metadata.uid, Role.TRAIN):
            if (found.run, found.attempt) == (action.run, action.attempt) and not found.deleting:
                await self.api.delete("Job", found.namespace, found.name, uid=found.uid)
                return True
        return False

    async def _expire(self, job: finetunejob.FineTuneJob, action: intent.Expire) -> bool:
        """Gives the finished Jobs of a run, and the prepare Jobs, a time to live."""
        patch = {"spec": {"ttlSecondsAfterFinished": action.seconds}}
        wrote = False
        for found in list(self.known.children.get(job.metadata.uid, {}).values()):
            if found.ended_at is None or found.expires or found.run > action.run:
                continue
            await self.api.merge("Job", found.namespace, found.name, patch)
            wrote = True
        return wrote


def _prepare(
    known: memory.Memory,
    job: finetunejob.FineTuneJob,
    found: profile.FineTuneProfile,
    action: intent.StartPrepare,
) -> jobs.Child:
    earlier = [child for child in known.children_of(job.metadata.uid, Role.PREPARE) if child.key == action.key]
    suffix = f"prepare-{action.key[:8]}-{len(earlier) + 1}"
    return _child(job, found, action.order, Role.PREPARE, suffix, key=action.key)


def _training(
    job: finetunejob.FineTuneJob, found: profile.FineTuneProfile, order: intent.Order, role: Role
) -> jobs.Child:
    suffix = names.attempt_suffix(order.run, order.attempt)
    if role is Role.INSPECT:
        suffix += "-inspect"
    return _child(job, found, order, role, suffix, key=order.input_hash)


def _discard(job: finetunejob.FineTuneJob, found: profile.FineTuneProfile, action: intent.DeleteVersion) -> jobs.Child:
    arguments = ("--version", action.version, "--digest", action.digest)
    return _child(job, found, action.order, Role.DISCARD, f"discard-{action.version}", arguments=arguments)


def _child(  # noqa: PLR0913 - one Job's worth
    job: finetunejob.FineTuneJob,
    found: profile.FineTuneProfile,
    order: intent.Order,
    role: Role,
    suffix: str,
    *,
    key: str = "",
    arguments: tuple[str, ...] = (),
) -> jobs.Child:
    return jobs.Child(
        owner=observe.owner(job),
        role=role,
        suffix=suffix,
        run_file=order.run_file(jobs.paths(role, order.run), allow_local_files=False),
        profile=found,
        output=order.spec.output,
        trainer=order.spec.trainer if role is Role.TRAIN else lifecycle.Trainer(),
        queue_name=order.spec.queue_name,
        key=key,
        arguments=arguments,
    )
