"""A store with a really tuned tiny model: version v1 sealed by the trainer, served. For tests only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import runs, stores
from topcoat.api import finetunejob, promotion, run, status
from topcoat_trainer import files, prepare, seal

UID = "0f0f0f0f-0000"


def store(root: Path, model: Path, **changes: Any) -> Path:
    """One job, `claims`, whose only version serves."""
    folder = root / "jobs" / "claims-0f0f0f0f"
    path = runs.run_file(folder, model, **changes)
    told = run.RunFile.model_validate_json(path.read_bytes())
    assert runs.carry_out(path) == 0
    files.write_json(folder / "prepared.json", prepare.prepare(told).as_json())
    digest = f"sha256:{seal.digest(folder / 'versions' / 'v1')}"
    stores.write_job(root, job(told, digest))
    alias = {"job": "claims", "version": "v1", "digest": digest, "path": str(folder / "versions" / "v1")}
    files.write_json(root / "aliases.json", {"claims": alias})
    return root


def job(told: run.RunFile, digest: str) -> finetunejob.FineTuneJob:
    entry = status.VersionStatus(
        version="v1", digest=digest, state=status.VersionState.PROMOTED, verdict=promotion.Verdict.PROMOTE
    )
    spec = {
        "baseModel": told.base_model.as_json(),
        "dataset": told.dataset.as_json(),
        "evaluation": told.evaluation.as_json(),
    }
    made = finetunejob.FineTuneJob.model_validate({"metadata": {"name": "claims", "uid": UID}, "spec": spec})
    found = status.FineTuneJobStatus(versions=(entry,), promoted_version="v1", served_version="v1")
    return made.model_copy(update={"status": found})
