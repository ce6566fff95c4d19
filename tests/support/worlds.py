"""A world for the planner, small and obedient: holds what is seen, carries out what is planned. For tests only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from topcoat.api import finetunejob, profile, promotion, report, status
from topcoat.plan import intent, observed, plan

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "baseModel": {"uri": "file://models/base"},
    "dataset": {"train": {"uri": "file://claims.jsonl"}},
}


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def job(spec: dict[str, Any] | None = None, generation: int = 1, **fields: Any) -> finetunejob.FineTuneJob:
    return finetunejob.FineTuneJob.model_validate(
        {
            "metadata": {"name": "claims", "uid": "0123456789ab", "generation": generation},
            "spec": {**SPEC, **(spec or {}), **fields},
        }
    )


def prepare_report(data: str = "d1", base: str = "b" * 64, samples: int = 600) -> report.PrepareReport:
    return report.PrepareReport.model_validate(
        {
            "baseModel": {
                "id": "org/base", "uri": "file://models/base", "path": "/m", "revision": "r", "digest": base,
                "configDigest": "c" * 64, "architecture": "LlamaForCausalLM", "layers": 5, "hiddenSize": 32,
                "parameters": 1000, "bytes": 4000,
            },
            "dataset": {
                "digest": data, "format": "Chat", "task": "Classification", "rows": samples + 300,
                "trainSamples": samples, "holdoutSamples": 300, "holdoutDigest": "h", "splitRule": "by hash",
            },
            "trainPath": "/d", "estimate": {"memoryBytes": 1 << 30, "durationSeconds": 60.0, "trainedParameters": 10,
                                            "totalParameters": 1000}, "seconds": 0.1,
        }
    )  # fmt: skip


def summary(verdict: promotion.Verdict, candidate: float = 0.82) -> report.EvaluationSummary:
    return report.EvaluationSummary(
        metric="Accuracy", base=0.39, candidate=candidate, delta=candidate - 0.39, lower_bound=0.38, samples=300,
        verdict=verdict, reasons=["because"],
    )  # fmt: skip


def in_cluster(**spec: Any) -> World:
    """A job whose sources lie on claims, where servers are pods."""
    told = profile.LOCAL_PROFILE.spec.model_copy(update={"allowed_model_uris": ("pvc://*",)})
    seen = observed.Seen(
        mode=observed.Mode.CLUSTER, profile=profile.LOCAL_PROFILE.model_copy(update={"spec": told})
    )  # fmt: skip
    sources = {"baseModel": {"uri": "pvc://m/base"}, "dataset": {"train": {"uri": "pvc://d/claims.jsonl"}}}
    return World(job=job(sources, **spec), seen=seen)


def sealed(
    number: int, verdict: promotion.Verdict = promotion.Verdict.PROMOTE, input_hash: str = ""
) -> observed.SealedVersion:
    name = f"v{number}"
    return observed.SealedVersion(
        name, f"/versions/{name}", digest(name), input_hash or f"1:{number}", verdict, summary(verdict)
    )


Trainer = Callable[[intent.Order], tuple[int | None, promotion.Verdict | None]]
"""What a trainer does with an order: exit code, and the verdict of the version it sealed, if it sealed one."""


def winner(order: intent.Order) -> tuple[int | None, promotion.Verdict | None]:
    return 0, promotion.Verdict.PROMOTE


def ends_with(code: int | None, verdict: promotion.Verdict | None = None) -> Trainer:
    return lambda order: (code, verdict)


@dataclass
class World:
    """One job and all that is seen of it. `settle` plans and obeys until there is nothing left to do."""

    job: finetunejob.FineTuneJob = field(default_factory=job)
    seen: observed.Seen = field(default_factory=lambda: observed.Seen(profile=profile.LOCAL_PROFILE))
    now: datetime = START
    trainer: Trainer = winner
    prepared: report.PrepareReport | None = field(default_factory=prepare_report)
    orders: list[intent.Order] = field(default_factory=list)
    done: list[intent.Action] = field(default_factory=list)
    events: list[intent.Event] = field(default_factory=list)

    @property
    def status(self) -> status.FineTuneJobStatus:
        assert self.job.status is not None
        return self.job.status

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(condition for condition in self.status.conditions if condition.type == kind)
        return found.status, found.reason

    def change(self, **spec: Any) -> None:
        """Edits the manifest."""
        written = {**self.job.spec.model_dump(mode="json", by_alias=True, exclude_unset=True), **spec}
        edited = finetunejob.FineTuneJobSpec.model_validate(written)
        metadata = self.job.metadata.model_copy(update={"generation": self.job.metadata.generation + 1})
        self.job = self.job.model_copy(update={"spec": edited, "metadata": metadata})

    def run_again(self) -> None:
        """Somebody calls `topcoat run` once more."""
        self.seen = replace(self.seen, recheck=True, asked=True)
        self.settle()

    def step(self) -> intent.Plan:
        planned = plan.plan(self.job, self.seen, self.now)
        self.job = self.job.model_copy(update={"status": planned.status})
        self.events += planned.events
        for action in planned.actions:
            self.done.append(action)
            self._obey(action)
        self.now += timedelta(seconds=1)
        return planned

    def settle(self, limit: int = 60) -> intent.Plan:
        for _ in range(limit):
            before = self.job.status
            planned = self.step()
            if not planned.actions and planned.status == before:
                if planned.look_again_seconds is None or planned.status.phase in ("Ready", "Rejected", "Failed"):
                    return planned
                self.now += timedelta(seconds=planned.look_again_seconds)
        raise AssertionError(f"does not converge: {self.done[-4:]}")

    def steps(self) -> Iterator[finetunejob.FineTuneJob]:
        """The object after each step, until nothing is left to do."""
        for _ in range(60):
            before = self.job.status
            planned = self.step()
            yield self.job
            if not planned.actions and planned.status == before:
                return

    def _obey(self, action: intent.Action) -> None:
        match action:
            case intent.StartPrepare():
                made = observed.Prepared(action.key, self.now, self.prepared)
                self.seen = replace(self.seen, prepared=made, recheck=False)
            case intent.StartTraining():
                self._train(action.order)
            case intent.StopTraining() if self.seen.attempt:
                ended = replace(
                    self.seen.attempt, state=observed.AttemptState.ENDED, ended_at=self.now, exit_code=19,
                    exits=(*self.seen.attempt.exits, 19),
                )  # fmt: skip
                self.seen = replace(self.seen, attempt=ended)
            case intent.PointAlias():
                alias = observed.Alias(self.job.metadata.name, action.version, action.digest)
                self.seen = replace(self.seen, alias=alias)
            case intent.WriteAlias():
                self._serve(action)
            case intent.DropAlias():
                self.seen = replace(self.seen, alias=None, server=None)
            case intent.DeleteVersion():
                left = tuple(version for version in self.seen.versions if version.version != action.version)
                self.seen = replace(self.seen, versions=left)

    def _serve(self, action: intent.WriteAlias) -> None:
        """A server with one pod, which follows and proves at once."""
        written = {held.version: held.digest for held in action.versions}
        name, target = self.job.metadata.name, action.target
        share = 100 if action.watched == action.target else action.weight
        self.seen = replace(
            self.seen,
            alias=observed.Alias(name, target, written[target]) if target else None,
            server=observed.Server(
                "model", ready_pods=1, desired_pods=1, written=written, target=action.target,
                proved=frozenset(written.values()), answers=action.target, watched=action.watched,
                alone=not action.watched or share == 100,
                weight=share if action.watched else 0, weight_in_force=share if action.watched else 0,
                url="http://model:8000",
            ),
        )  # fmt: skip

    def _train(self, order: intent.Order) -> None:
        self.orders.append(order)
        code, verdict = self.trainer(order)
        last = self.seen.attempt
        exits = last.exits if last and last.run == order.run and not self.seen.asked else ()
        attempt = observed.Attempt(
            order.run, order.attempt, observed.AttemptState.ENDED, self.now, self.now, order.input_hash, order.trigger,
            exit_code=code, exits=(*exits, code),
        )  # fmt: skip
        versions = self.seen.versions
        if verdict is not None:
            versions = (*versions, sealed(order.run, verdict, order.input_hash))
        self.seen = replace(
            self.seen, attempt=attempt, versions=versions, asked=False,
            highest_run=max(self.seen.highest_run, order.run),
        )  # fmt: skip
