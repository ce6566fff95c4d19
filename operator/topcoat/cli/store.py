"""The store of local mode: a folder that mirrors a namespace. Its objects and where their files lie.

```
finetunejobs/<name>.json   aliases.json   profiles/<name>.yaml   jobs/<name>-<uid>/{runs,versions}/   cache/
```
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import pydantic

from topcoat.api import finetunejob, names
from topcoat.cli import terminal


@dataclass(frozen=True, slots=True)
class Store:
    """A store folder. Reading never changes it, and a store that is not there is an empty one."""

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
            self._unknown(name, known)
        path = self.objects / f"{name}.json"
        try:
            return finetunejob.FineTuneJob.model_validate_json(path.read_bytes())
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            terminal.fail(f"{field}: {first['msg']}", where=str(path), hint="restore the file from a back-up")

    def _unknown(self, name: str, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, 1)
        hint = (
            f"`topcoat get` lists the jobs there: {', '.join(known[:8])}"
            if known
            else "`topcoat run -f job.yaml --local` makes the first one; another store is named with --store DIR"
        )
        meant = f"; did you mean {near[0]!r}?" if near else ""
        terminal.fail(f"there is no job {name!r} in the store {self.root}{meant}", hint=hint)

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
