"""The last stages of a run: export the trained tail, judge what was exported, describe it, seal it.

A candidate lies in the run's folder under a name of its own; only the seal's rename makes it a version.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from topcoat.api.method import MethodType
from topcoat.api.report import EvaluationReport, Lineage, PrepareReport, VersionManifest
from topcoat_trainer import adapter, files, high_water, outcome, probe, progress, seal
from topcoat_trainer.gate import judge as gate
from topcoat_trainer.gate.court import GuardRows, Trial
from topcoat_trainer.loop import journal
from topcoat_trainer.model_file import COMPANIONS
from topcoat_trainer.prepare import PREPARED
from topcoat_trainer.report import card, html

if TYPE_CHECKING:
    from topcoat_trainer.run import Job
    from topcoat_trainer.stage import Learnt, Material

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers")
EVALUATION = "evaluation.json"
METRICS = "metrics.jsonl"
CANDIDATE = "candidate-"
# How a model generates is the base model's business; how text becomes tokens must travel with the version.
TOKENIZER_FILES = tuple(name for name in COMPANIONS if name != "generation_config.json")


@dataclass(frozen=True, slots=True)
class Exported:
    """A candidate's folder and what it is made of."""

    folder: Path
    kind: Literal["lora", "tail"]
    lineage: Lineage


def export(job: Job, material: Material, learnt: Learnt) -> Exported:
    """Writes the trained weights, tokenizer and metrics; afterwards the base model computes as it did."""
    job.claim.demand()
    folder = job.folder / f"{CANDIDATE}{job.claim.writer}"
    files.remove_tree(folder)
    folder.mkdir()
    adapter.export(learnt.tail, folder, material.prepared.base_model.id)
    with files.storing(folder):
        for name in TOKENIZER_FILES:
            if (material.base.path / name).is_file():
                shutil.copyfile(material.base.path / name, folder / name)
        shutil.copyfile(learnt.course.folder / METRICS, folder / METRICS)
    lineage = _lineage(job, material, learnt)
    learnt.tail.detach()
    return Exported(folder, "tail" if job.run.method.type is MethodType.FULL else "lora", lineage)


def _lineage(job: Job, material: Material, learnt: Learnt) -> Lineage:
    run, tail, trained = job.run, learnt.tail, learnt.trained
    return Lineage(
        job=run.name,
        namespace=run.namespace,
        run=run.run,
        version=run.version,
        trigger=run.trigger,
        method=run.method.type.value,
        first_trained_layer=tail.boundary.first_trained,
        total_layers=tail.boundary.total,
        rank=None if run.method.type is MethodType.FULL else tail.method.lora.rank,
        learning_rate=learnt.course.settings.learning_rate,
        trained_parameters=tail.proof.trainable_parameters,
        total_parameters=tail.proof.total_parameters,
        steps=trained.steps,
        target_steps=trained.target_steps,
        epochs=round(trained.epochs, 4),
        seed=run.training.seed,
        precision=material.device.precision,
        device=material.device.description,
        code_version=importlib.metadata.version("topcoat"),
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
        started_at=job.diary.started_at,
        finished_at=progress.now(),
        resumed=trained.resumed,
        notes=list(learnt.notes),
    )


def judge(job: Job, exported: Exported, material: Material, learnt: Learnt) -> EvaluationReport:
    """The verdict on the exported files, with its evidence."""
    run, data = job.run, material.data
    if run.serving is not None:
        # A version that is damaged stops the run; one of another base model is the gate's to speak of.
        seal.verify(Path(run.serving.path), expected_digest=run.serving.digest)
    trial = Trial(
        base=material.base,
        renderer=material.renderer,
        task=data.task,
        train=tuple(row.example for row in data.train),
        heldout=data.holdout,
        candidate=exported.folder,
        ledger=Path(run.paths.cache) / "answers",
        evaluation=run.evaluation,
        promotion=run.promotion,
        serving=run.serving,
        guards=tuple(GuardRows(guard, data.guards[guard.name]) for guard in run.dataset.guards),
    )
    story = gate.Story(
        dataset=material.prepared.dataset,
        base_model=material.prepared.base_model,
        lineage=exported.lineage,
        curve=tuple(journal.curve(learnt.course.folder / METRICS)),
        costs=tuple(job.diary.costs.values()),
        cache_note=learnt.trained.cache_note,
        layer_trials=learnt.layer_trials,
        sweep_trials=learnt.sweep_trials,
    )
    return gate.judge(trial, story, lambda _, share: job.reporter.share(share))


def checked(job: Job, material: Material, report: EvaluationReport) -> EvaluationReport:
    """The report with what was estimated before the run beside what was measured in it."""
    path = job.folder / PREPARED
    told = material.prepared  # as estimated while the run began, where the words of before it are not at hand
    if path.is_file():
        told = PrepareReport.model_validate(files.read_json(path))
    costs = {cost.stage: cost for cost in report.costs} | job.diary.costs
    found = outcome.checks(told.estimate, costs, high_water.memory_bytes(), high_water.gpu_memory_bytes())
    return report.model_copy(update={"estimate_checks": found})


def describe(exported: Exported, report: EvaluationReport) -> EvaluationReport:
    """Writes the evidence for machines and for people beside the weights."""
    lineage = report.lineage.model_copy(update={"finished_at": progress.now()})
    report = report.model_copy(update={"lineage": lineage})
    files.write_json(exported.folder / EVALUATION, report.as_json())
    html.write(report, exported.folder / "report.html")
    card.write(report, exported.kind, exported.folder / "README.md")
    return report


def seal_version(job: Job, exported: Exported, material: Material, report: EvaluationReport) -> str:
    """Takes the golden probes and seals. Returns the digest of the manifest."""
    with adapter.using(material.base, exported.folder) as model:
        probes = probe.make(model, probe.prompts(material.data.holdout))
    facts = VersionManifest(
        version=job.run.version,
        files={},
        kind=exported.kind,
        base_model=material.prepared.base_model,
        dataset_digest=material.prepared.dataset.digest,
        input_hash=job.run.input_hash,
        task=material.data.task.kind,
        labels=list(material.data.task.labels),
        system_prompt=material.prepared.dataset.system_prompt,
        lineage=report.lineage,
        verdict=report.verdict,
        tensors=0,
        probes=probes,
    )
    job.claim.demand()
    return seal.seal(exported.folder, job.version_folder, facts)
