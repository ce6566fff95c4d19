"""One job at one moment: what every stage reads. Holds no decisions, only the look-ups that several stages need."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from topcoat.api import base_model as base_models
from topcoat.api import conditions, finetunejob, lifecycle, status
from topcoat.plan import observed


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing may be started for this manifest."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wish:
    """The spec with the profile's defaults and limits applied."""

    spec: finetunejob.FineTuneJobSpec
    base_model: base_models.BaseModel
    base_digest: str | None = None
    budget: lifecycle.Budget | None = None
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """The object, the world, the time, and what was said last."""

    job: finetunejob.FineTuneJob
    seen: observed.Seen
    now: datetime
    before: status.FineTuneJobStatus

    @property
    def edited(self) -> bool:
        """True on the first look at a new generation of the manifest."""
        return self.job.metadata.generation != self.before.observed_generation

    @property
    def active_run(self) -> int:
        """Number of the run whose attempt is queued or running; 0 when none is."""
        attempt = self.seen.attempt
        return attempt.run if attempt and attempt.state is not observed.AttemptState.ENDED else 0

    def condition(self, kind: conditions.Condition) -> status.ConditionStatus:
        return next(condition for condition in self.before.conditions if condition.type == kind)

    def recorded_or_none(self, name: str | None) -> status.VersionStatus | None:
        return next((version for version in self.before.versions if version.version == name), None)

    def usable_or_none(self, name: str | None) -> observed.SealedVersion | None:
        """The version, if it is on the volume, whole, and the very one that was recorded."""
        found, recorded = self.seen.version_or_none(name), self.recorded_or_none(name)
        if found is None or not found.valid or (recorded is not None and recorded.digest != found.digest):
            return None
        return found

    def problem_with(self, name: str) -> str:
        """Why a version cannot be used, in words."""
        found, recorded = self.seen.version_or_none(name), self.recorded_or_none(name)
        if found is None:
            return f"{name} is not among the sealed versions on the volume"
        if not found.valid:
            return f"{name} is not whole: {found.problem or 'its manifest does not hold'}"
        if recorded is not None and recorded.digest != found.digest:
            return f"{name} has digest {found.digest}, recorded is {recorded.digest}"
        return ""

    def held(self, spec: finetunejob.FineTuneJobSpec) -> bool:
        """True when nothing may run: suspended, or stopped at the terminal."""
        return spec.suspend or self.seen.stopping
