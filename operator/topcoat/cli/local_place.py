"""The local store as a place to work in: what `place.Place` asks for, with files and processes of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from topcoat.api import finetunejob
from topcoat.api import status as statuses
from topcoat.cli import durable, follow, observe, option, place, sealed, store, terminal

Json = dict[str, Any]
LOOK_SECONDS = 0.5
LONGEST_START_SECONDS = 2.0


class LocalPlace:
    """A store on this machine."""

    runner = ("topcoat run -f job.yaml --local", "goes on where it stopped")

    def __init__(self, root: Path) -> None:
        self.store = store.Store(root)
        self.words = option.at(root)

    def describe(self) -> str:
        return f"the store {self.store.root}"

    def bodies(self) -> list[Json]:
        return [job.as_json() for job in self.store.jobs()]

    def body(self, name: str) -> Json:
        return self.job(name).as_json()

    def job(self, name: str) -> finetunejob.FineTuneJob:
        return self.store.job(name)

    def changes(self, name: str) -> Iterator[finetunejob.FineTuneJob]:
        """Looks at the object again and again; whoever carries the job on writes it."""
        since = time.monotonic()
        while True:
            job = self.job(name)
            yield job
            carried_on = durable.is_taken(self.store.run_lock(job.metadata.name))
            if not carried_on and time.monotonic() - since > (0 if place.settled(job) else LONGEST_START_SECONDS):
                return
            time.sleep(LOOK_SECONDS)

    def progress(self, job: finetunejob.FineTuneJob) -> follow.Source:
        return follow.Files(observe.Places(self.store.job_folder(job)))

    def files(self, job: finetunejob.FineTuneJob, entry: statuses.VersionStatus) -> sealed.Files:
        return sealed.Folder(self.store.version_folder(job, entry.version).resolve())

    def served(self, job: finetunejob.FineTuneJob) -> str | None:
        alias = self.store.aliases().get(job.alias, {})
        return alias.get("version") if alias.get("job") == job.metadata.name else None

    def promote(self, job: finetunejob.FineTuneJob, version: str) -> None:
        from topcoat.cli import by_hand

        name = job.metadata.name
        if job.status is not None and job.status.promoted_version == version:
            terminal.say(f"{version} is promoted already.")
            terminal.next_step(f"topcoat status {name}{self.words}")
            return
        by_hand.by_hand(self.store, name, version, "PromotedByHand", f"{version} was promoted by a person")
        terminal.next_step(f"topcoat rollback {name}{self.words}", "takes it back")

    def rollback(self, job: finetunejob.FineTuneJob, previous: str) -> None:
        from topcoat.cli import by_hand

        name = job.metadata.name
        now = job.status.promoted_version if job.status else None
        by_hand.by_hand(self.store, name, previous, "RolledBack", f"a person went back from {now} to {previous}")
        terminal.next_step(f"topcoat rollback {name}{self.words}", f"goes forward to {now} again")

    def unpin(self, job: finetunejob.FineTuneJob) -> None:
        hint = "take serving.pinnedVersion out of the manifest and run it again"
        terminal.fail("a pin stands in the manifest, which a local store does not change", hint=hint)

    def ask(self, job: finetunejob.FineTuneJob, text: str, who: Sequence[place.Asked], token: str) -> list[Json]:
        from topcoat.cli import local_answer

        return local_answer.answers(self, job, text, who)
