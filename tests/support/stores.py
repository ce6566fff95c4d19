"""Store folders as local mode leaves them, written by the API classes; the command line in process. For tests only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tests.support import sealing, worlds
from tests.trainer.report import reports
from topcoat.api import finetunejob, names, promotion, report
from topcoat.cli import app
from topcoat_trainer import files


@dataclass(frozen=True, slots=True)
class Said:
    """What a command wrote and its exit code."""

    code: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        return json.loads(self.out)

    @property
    def last(self) -> str:
        return self.out.strip().splitlines()[-1]


def topcoat(*arguments: object, store: Path | None = None, **environment: str) -> Said:
    """A command line, in this process, as from a pipe."""
    options = ["--store", str(store)] if store else []
    words = [*map(str, arguments), *options]
    done = CliRunner().invoke(app.app, words, env={"TOPCOAT_STORE": None, "TOPCOAT_DEBUG": None, **environment})
    return Said(done.exit_code, done.stdout, done.stderr)


def write_job(root: Path, job: finetunejob.FineTuneJob) -> Path:
    """The job's object and its folder."""
    folder = root / "jobs" / names.job_folder(job.metadata.name, job.metadata.uid)
    folder.mkdir(parents=True, exist_ok=True)
    (root / "finetunejobs").mkdir(exist_ok=True)
    files.write_json(root / "finetunejobs" / f"{job.metadata.name}.json", job.as_json())
    return folder


def with_digests(job: finetunejob.FineTuneJob, digests: dict[str, str]) -> finetunejob.FineTuneJob:
    """The job, its status naming the digests of the manifests that were really written."""
    assert job.status is not None
    entries = tuple(
        entry.model_copy(update={"digest": f"sha256:{digests[entry.version]}"}) for entry in job.status.versions
    )
    return job.model_copy(update={"status": job.status.model_copy(update={"versions": entries})})


def seal(folder: Path, evidence: report.EvaluationReport) -> str:
    """A sealed version with this evidence; its digest."""
    candidate = sealing.candidate(folder.parent / f".{folder.name}")
    files.write_json(candidate / "evaluation.json", evidence.as_json())
    (candidate / "report.html").write_text("<h1>report</h1>")
    from topcoat_trainer import seal as seals

    lineage = sealing.facts().lineage.model_copy(update={"version": folder.name})
    facts = sealing.facts().model_copy(update={"version": folder.name, "lineage": lineage})
    return seals.seal(candidate, folder, facts)


def promoted(root: Path, name: str = "claims") -> Path:
    """A store with one job whose v1 won and serves, and whose v2 lost."""
    world = worlds.World(job=worlds.job())
    world.settle()
    world.trainer = worlds.ends_with(0, promotion.Verdict.REJECT)
    world.prepared = worlds.prepare_report(data="d2")
    world.run_again()
    job = world.job.model_copy(update={"metadata": world.job.metadata.model_copy(update={"name": name})})
    folder = write_job(root, job)
    trials = reports.promoted(layer_trials=reports.layer_trials(), sweep_trials=reports.sweep_trials())
    digests = {
        "v1": seal(folder / "versions" / "v1", trials),
        "v2": seal(folder / "versions" / "v2", reports.promoted(verdict=promotion.Verdict.REJECT)),
    }
    write_job(root, with_digests(job, digests))
    alias = {"job": name, "version": "v1", "digest": f"sha256:{digests['v1']}", "path": str(folder / "versions" / "v1")}
    files.write_json(root / "aliases.json", {name: alias})
    return root


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path) -> None:
    """One bit in the middle of the file becomes the other one."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
