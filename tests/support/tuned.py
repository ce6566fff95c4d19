"""A store with a really tuned tiny model: version v1 sealed by the trainer, served. For tests only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import runs, stores
from topcoat.api import finetunejob, names, promotion, run, status
from topcoat.cli import store as local
from topcoat_trainer import files, prepare, seal

UID = "0f0f0f0f-0000"


def store(root: Path, model: Path, name: str = "claims", **changes: Any) -> Path:
    """One job, `claims`, whose only version serves. In a store that is there already: one more job."""
    folder = root / "jobs" / names.job_folder(name, UID)
    path = runs.run_file(folder, model, name=name, **changes)
    told = run.RunFile.model_validate_json(path.read_bytes())
    assert runs.carry_out(path) == 0
    files.write_json(folder / "prepared.json", prepare.prepare(told).as_json())
    digest = f"sha256:{seal.digest(folder / 'versions' / 'v1')}"
    stores.write_job(root, job(told, digest))
    here = local.Store(root)
    here.point(name, {"job": name, "version": "v1", "digest": digest, "path": f"jobs/{folder.name}/versions/v1"})
    return root


def another(root: Path, model: Path, number: int, **changes: Any) -> str:
    """One more version of `claims`, which lost and does not serve; its digest."""
    here = local.Store(root)
    known = here.job("claims")
    folder = here.job_folder(known)
    assert runs.carry_out(runs.run_file(folder, model, run=number, **changes)) == 0
    digest = f"sha256:{seal.digest(folder / 'versions' / f'v{number}')}"
    entry = status.VersionStatus(
        version=f"v{number}", digest=digest, state=status.VersionState.REJECTED, verdict=promotion.Verdict.REJECT
    )
    assert known.status is not None
    after = known.status.model_copy(update={"versions": (*known.status.versions, entry)})
    here.write(known.model_copy(update={"status": after}))
    return digest


def job(told: run.RunFile, digest: str) -> finetunejob.FineTuneJob:
    entry = status.VersionStatus(
        version="v1", digest=digest, state=status.VersionState.PROMOTED, verdict=promotion.Verdict.PROMOTE
    )
    spec = {
        "baseModel": told.base_model.as_json(),
        "dataset": told.dataset.as_json(),
        "evaluation": told.evaluation.as_json(),
    }
    made = finetunejob.FineTuneJob.model_validate({"metadata": {"name": told.name, "uid": UID}, "spec": spec})
    found = status.FineTuneJobStatus(versions=(entry,), promoted_version="v1", served_version="v1")
    return made.model_copy(update={"status": found})
