"""The store of local mode: a folder that mirrors a namespace. Its objects and where their files lie.

```
finetunejobs/<name>.json   aliases.json   profiles/<name>.yaml   jobs/<name>-<uid>/{runs,versions}/   cache/   locks/
```
"""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pydantic

from topcoat.api import finetunejob, names
from topcoat.api import profile as profiles
from topcoat.cli import durable, place, terminal
from topcoat.plan import shown


@dataclass(frozen=True, slots=True)
class Store:
    """A store folder. Reading never changes it, and a store that is not there is an empty one.

    Each file is whole at any time. Whoever reads an object to write it back holds `changing` meanwhile.
    """

    root: Path

    @property
    def objects(self) -> Path:
        return self.root / "finetunejobs"

    def names(self) -> list[str]:
        """Names of all jobs."""
        return sorted(path.stem for path in self.objects.glob("*.json"))

    def jobs(self) -> list[finetunejob.FineTuneJob]:
        return [self.job(name) for name in self.names()]

    def job(self, name: str) -> finetunejob.FineTuneJob:
        """The job of that name, or of `finetunejob.topcoat.dev/name`. Fails with what the store has instead."""
        name = name.rpartition("/")[2]
        if name not in (known := self.names()):
            begin = "`topcoat run -f job.yaml --local` makes the first one; another store is named with --store DIR"
            place.unknown(name, known, f"the store {self.root}", begin)
        path = self.objects / f"{name}.json"
        try:
            return finetunejob.FineTuneJob.model_validate_json(path.read_bytes())
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            terminal.fail(f"{field}: {first['msg']}", where=str(path), hint="restore the file from a back-up")

    def job_folder(self, job: finetunejob.FineTuneJob) -> Path:
        """Where a job's runs and versions lie."""
        return self.root / "jobs" / names.job_folder(job.metadata.name, job.metadata.uid)

    def version_folder(self, job: finetunejob.FineTuneJob, version: str) -> Path:
        return self.job_folder(job) / "versions" / version

    def aliases(self) -> dict[str, dict[str, str]]:
        """Alias -> job, version, digest and path."""
        path = self.root / "aliases.json"
        if not path.exists():
            return {}
        try:
            found: dict[str, dict[str, str]] = json.loads(path.read_bytes())
        except ValueError:
            terminal.fail("the aliases cannot be read", where=str(path), hint="restore the file from a back-up")
        return found

    def changing(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Inside it nobody else changes the object. For milliseconds only."""
        return durable.locked(self.root / "locks" / f"{name}.object")

    def run_lock(self, name: str) -> Path:
        """The lock of whoever carries out the plans of a job: one `topcoat run` at a time."""
        return self.root / "locks" / f"{name}.run"

    def write(self, job: finetunejob.FineTuneJob) -> None:
        """Keeps the object. The spec stays as it was written, so that later defaults reach it."""
        body = job.as_json()
        body["spec"] = job.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
        durable.write_json(self.objects / f"{job.metadata.name}.json", body)

    def apply(self, wanted: finetunejob.FineTuneJob, now: datetime) -> finetunejob.FineTuneJob:
        """Makes the object what the manifest says; a change of the spec is a new generation, status stays."""
        with self.changing(wanted.metadata.name):
            made = self.merged(wanted, now)
            self.write(made)
        return made

    def merged(self, wanted: finetunejob.FineTuneJob, now: datetime) -> finetunejob.FineTuneJob:
        """The object that `apply` would keep."""
        name = wanted.metadata.name
        if name not in self.names():
            fresh = {"uid": str(uuid.uuid4()), "generation": 1, "creation_timestamp": shown.time(now)}
            return wanted.model_copy(update={"metadata": wanted.metadata.model_copy(update=fresh), "status": None})
        known = self.job(name)
        was, now_is = (one.spec.model_dump(mode="json", by_alias=True, exclude_unset=True) for one in (known, wanted))
        generation = known.metadata.generation + (was != now_is)
        kept = {"uid": known.metadata.uid, "creation_timestamp": known.metadata.creation_timestamp}
        metadata = wanted.metadata.model_copy(update={**kept, "generation": generation})
        return wanted.model_copy(update={"metadata": metadata, "status": known.status})

    def point(self, alias: str, entry: dict[str, str]) -> None:
        """Lets the alias, and no other alias of the same job, point to a version (a path starts at the store)."""
        with durable.locked(self.root / "locks" / ".aliases"):
            others = {name: one for name, one in self.aliases().items() if one.get("job") != entry["job"]}
            durable.write_json(self.root / "aliases.json", {**others, alias: entry})

    def drop(self, alias: str) -> None:
        """Lets the alias point nowhere."""
        with durable.locked(self.root / "locks" / ".aliases"):
            left = {name: one for name, one in self.aliases().items() if name != alias}
            durable.write_json(self.root / "aliases.json", left)

    def profile_or_none(self, name: str) -> profiles.FineTuneProfile | None:
        """The profile of that name; `default` is there even where nobody wrote one."""
        path = self.root / "profiles" / f"{name}.yaml"
        if "/" in name or not path.is_file():
            return profiles.LOCAL_PROFILE if name == "default" else None
        import yaml

        try:
            return profiles.FineTuneProfile.read(yaml.safe_load(path.read_bytes()))
        except (yaml.YAMLError, pydantic.ValidationError, UnicodeDecodeError, TypeError) as error:
            said = error.errors(include_input=False)[0] if isinstance(error, pydantic.ValidationError) else None
            field = ".".join(map(str, said["loc"])) if said else "the file"
            text = said["msg"] if said else "this is not YAML"
            terminal.fail(f"{field}: {text}", str(path), "`topcoat explain ftp.spec` says what a profile takes")
