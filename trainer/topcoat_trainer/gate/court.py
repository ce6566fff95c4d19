"""Lets every subject sit the exam: base, serving version and candidate on all rows, the cheaper ways beside them.

Works on the exported files only, never on weights that are still in training. What is finished is kept in the ledger,
so a kill costs one subject at most. Compares nothing.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from topcoat.api.dataset import Guard
from topcoat.api.evaluation import Baseline, Evaluation, MetricName
from topcoat.api.promotion import Promotion
from topcoat.api.report import StageCost, TaskKind
from topcoat.api.run import ServingVersion
from topcoat_trainer import adapter, devices
from topcoat_trainer.errors import BaseModelError
from topcoat_trainer.evaluate import generate, reading
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.gate import baseline, exam, ledger, requirement
from topcoat_trainer.gate.exam import Answers, Exam
from topcoat_trainer.gate.table import Heldout
from topcoat_trainer.model import BaseModel
from topcoat_trainer.render import Renderer
from topcoat_trainer.task import Task

UNBOUNDED_CONTEXT_TOKENS = 1 << 20
# Of the memory that is free, what the frozen layers' states may take.
SHARE_OF_MEMORY = 0.25
BASELINE_SUBJECTS = {Baseline.CLASSIFIER: "classifier", Baseline.PROMPT: "prompt", Baseline.RETRIEVAL: "retrieval"}

# Who sits the exam now, and how much of the whole is done (0 to 1).
Say = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class GuardRows:
    """A forgetting suite and its rendered rows."""

    guard: Guard
    rows: tuple[TokenRow, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """Who is judged, on what, by which wishes. `candidate`: folder with the exported files. `ledger`: kept answers."""

    base: BaseModel
    renderer: Renderer
    task: Task
    train: tuple[Example, ...]
    heldout: tuple[TokenRow, ...]
    candidate: Path
    ledger: Path
    evaluation: Evaluation = field(default_factory=Evaluation)
    promotion: Promotion = field(default_factory=Promotion)
    serving: ServingVersion | None = None
    guards: tuple[GuardRows, ...] = ()


@dataclass(slots=True)
class Subjects:
    """Everybody's answers. `missing`: why a baseline or the serving version has none."""

    answers: dict[str, Answers] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    costs: list[StageCost] = field(default_factory=list)


def labelled(trial: Trial) -> Trial:
    """Rows of a classification all carry their label, also where it was recognised by the answers alone."""
    if trial.task.kind is not TaskKind.CLASSIFICATION:
        return trial

    def named(example: Example) -> Example:
        return example if example.label is not None else replace(example, label=example.completion.strip())

    return replace(
        trial,
        train=tuple(map(named, trial.train)),
        heldout=tuple(replace(row, example=named(row.example)) for row in trial.heldout),
    )


def _chosen(trial: Trial) -> tuple[TokenRow, ...]:
    """The rows to judge on: all, or a seeded sample of evaluation.maxSamples."""
    limit = trial.evaluation.max_samples
    if limit is None or len(trial.heldout) <= limit:
        return trial.heldout
    places = random.Random(trial.evaluation.seed).sample(range(len(trial.heldout)), limit)
    return tuple(trial.heldout[place] for place in sorted(places))


def _context(model: Any) -> int:
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else UNBOUNDED_CONTEXT_TOKENS


class Court:
    """Hears the subjects one after the other; each one's answers are kept as soon as they are complete."""

    def __init__(self, trial: Trial, say: Say) -> None:
        self.trial, self.say = trial, say
        model = trial.base.model
        self.on_cpu = model.device.type == "cpu"
        ends = generate.end_tokens(model, trial.base.tokenizer, *trial.renderer.end_ids)
        self.limit = exam.ExamLimit(trial.evaluation.generation.max_tokens, _context(model), ends, self.on_cpu)
        rows = _chosen(trial)
        labels = sorted({*trial.task.labels, *(row.example.label or "" for row in rows)} - {""})
        forms = exam.forms(trial.train, labels) if trial.task.kind is TaskKind.CLASSIFICATION else {}
        made = exam.exam(trial.renderer, rows, trial.task.kind, forms, self.limit)
        self.exam = replace(made, brief=exam.may_be_brief(made, _measures(trial)))
        facts = {
            "base": trial.base.digest,
            "dtype": str(model.dtype),
            "device": model.device.type,
            "transformers": transformers.__version__,
        }
        self.ledger = ledger.Ledger(trial.ledger, facts)
        self._way: exam.Way | None = None
        self._done, self._whole = 0.0, 1.0

    @property
    def heldout(self) -> Heldout:
        """The rows as they are judged."""
        examples = tuple(row.example for row in self.exam.rows)
        return Heldout(self.exam.kind, examples, self.exam.labels, self.trial.evaluation.seed)

    def hear(self) -> Subjects:
        """Base, serving and candidate on all rows, then the baselines."""
        found = Subjects()
        began, cpu = time.perf_counter(), time.process_time()
        exams = self._baseline_exams(found)
        folders: dict[str, Path | None] = {"base": None}
        if self.trial.serving is not None:
            folders["serving"] = Path(self.trial.serving.path)
        folders["candidate"] = self.trial.candidate
        self._whole = sum(map(_effort, [*[self.exam] * len(folders), *(asked for asked, _ in exams.values())]))
        for subject, folder in folders.items():
            try:
                found.answers[subject] = self.sit(subject, self.exam, folder)
            except BaseModelError as error:
                if subject != "serving":
                    raise
                found.missing[subject] = f"the serving version cannot be scored here: {error.message}"
        self._forget()
        found.costs.append(_cost("evaluate", began, cpu))
        began, cpu = time.perf_counter(), time.process_time()
        for subject, (asked, notes) in exams.items():
            answers = self.sit(subject, asked, None)
            answers.notes = [*notes, *answers.notes]
            found.answers[subject] = answers
        found.costs.append(_cost("baselines", began, cpu))
        return found

    def _baseline_exams(self, found: Subjects) -> dict[str, tuple[Exam, list[str]]]:
        """Exams of the baselines that ask the model; the classifier's answers are given at once."""
        material = baseline.Material(
            self.trial.renderer,
            self.trial.train,
            self.exam,
            self.limit.context,
            self.trial.evaluation.seed,
            self.on_cpu,
        )
        exams: dict[str, tuple[Exam, list[str]]] = {}
        for wanted in self.trial.evaluation.baselines:
            subject = BASELINE_SUBJECTS[wanted]
            try:
                if wanted is Baseline.CLASSIFIER:
                    found.answers[subject] = baseline.classified(material)
                else:
                    make = baseline.prompted if wanted is Baseline.PROMPT else baseline.retrieved
                    exams[subject] = make(material)
            except baseline.NotApplicableError as error:
                found.missing[subject] = str(error)
        return exams

    def _forget(self) -> None:
        if self._way is not None and self._way.frozen is not None:
            self._way.frozen.forget()

    def _how(self, asked: Exam) -> exam.Way:
        """How prompts are read: tried once, with the base model's weights, and then the same for everybody.

        What the frozen layers make of the held-out rows is kept for those who come later.
        """
        if self._way is None:
            with adapter.using(self.trial.base, None) as model:
                plan = reading.plan_for(model, self.exam.prompts)
                first, limit = self._first_trained(), int(SHARE_OF_MEMORY * _available_bytes(model))
                frozen = reading.frozen_or_none(model, self.exam.prompts, plan, first, limit)
                self._way = exam.Way(plan, frozen)
        return self._way if asked is self.exam else exam.Way(self._way.plan)

    def _first_trained(self) -> int:
        """The lowest layer that is another one in any of the subjects."""
        folders = [self.trial.candidate]
        if self.trial.serving is not None:
            folders.append(Path(self.trial.serving.path))
        found = []
        for folder in folders:
            with contextlib.suppress(BaseModelError):  # it will not be scored
                found.append(adapter.check(folder, self.trial.base).layers[0])
        return min(found)

    def sit(self, subject: str, asked: Exam, folder: Path | None) -> Answers:
        """The subject's answers, from the ledger where it has sat this very exam before."""
        effort = _effort(asked)
        artifact = ledger.artifact_digest(folder)
        answers = self.ledger.find(asked, artifact)
        if answers is None:
            way = self._how(asked) if asked.prompts and asked.kind is not TaskKind.TEXT else None
            with adapter.using(self.trial.base, folder) as model:
                answers = exam.sit(
                    model,
                    self.trial.base.tokenizer,
                    asked,
                    lambda share: self.say(subject, min(1.0, (self._done + share * effort) / self._whole)),
                    way,
                )
            self.ledger.keep(asked, artifact, answers)
        self._done += effort
        self.say(subject, min(1.0, self._done / self._whole))
        return answers

    def guard(self, suite: GuardRows) -> tuple[Heldout, Answers, Answers]:
        """What base and candidate answer to a forgetting suite."""
        kind = TaskKind.TEXT if suite.guard.metric == "Loss" else TaskKind.GENERATION
        asked = exam.exam(self.trial.renderer, suite.rows, kind, {}, self.limit)
        heldout = Heldout(kind, tuple(row.example for row in suite.rows), (), self.trial.evaluation.seed)
        subject = f"guard {suite.guard.name}"
        return heldout, self.sit(subject, asked, None), self.sit(subject, asked, self.trial.candidate)


def _measures(trial: Trial) -> set[MetricName]:
    """All that anybody's answers are measured by."""
    wanted = requirement.wanted(trial.evaluation, trial.promotion, trial.task.kind, serves=True)
    return {*wanted.metrics, *(asked.metric for asked in wanted.requirements)}


def _available_bytes(model: Any) -> int:
    """Memory that is free where the model computes."""
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0])
    return devices.available_bytes()


def _effort(asked: Exam) -> float:
    """Tokens to read and to write, roughly: for progress only."""
    return sum(map(len, asked.prompts)) + 2.0 * len(asked.free) * asked.stop.max_tokens + 1


def _cost(stage: str, began: float, cpu: float) -> StageCost:
    return StageCost(
        stage=stage,
        seconds=round(time.perf_counter() - began, 2),
        cpu_seconds=round(time.process_time() - cpu, 2),
    )
