"""One exam for every subject: the same held-out rows, asked in the same way, on whatever weights are in the model.

Answers greedily, and for classification also by choice among the labels; takes the loss of the right answers.
Decides nothing. A subject's answers are plain data, so that they can be kept and compared later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from topcoat.api.evaluation import MetricName
from topcoat.api.report import TaskKind
from topcoat_trainer.errors import Diverged
from topcoat_trainer.evaluate import choice, generate, metric, reading, score
from topcoat_trainer.evaluate.frozen import Frozen
from topcoat_trainer.evaluate.generate import Stop
from topcoat_trainer.evaluate.prompt import Asked, Plan
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.render import Renderer

LabelIds = tuple[tuple[int, ...], ...]
Share = Callable[[float], None]
# An answer longer than every right one by this much is wrong already; reading on would only cost time.
MARGIN_TOKENS = 8
# On a CPU a long free answer costs seconds: so many tokens are generated for all rows together at most.
FREE_TOKENS_ON_CPU = 40_000


@dataclass(frozen=True, slots=True)
class Exam:
    """Rows and the prompts that are asked.

    `free`: places of the rows answered freely. `scored`: whether the loss of the rows as they stand is wanted; it
    means nothing beside other prompts (classification takes it anyway). `brief`: a free answer ends where it can no
    longer be a label or a right answer, since no measure asks how wrong it is.
    """

    kind: TaskKind
    rows: tuple[TokenRow, ...]
    prompts: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    label_ids: tuple[LabelIds, ...]
    stop: Stop
    free: tuple[int, ...]
    scored: bool = True
    brief: bool = False

    def part(self, places: Sequence[int], prompts: Sequence[Sequence[int]] | None = None) -> Exam:
        """The same exam on some of the rows, with other prompts if given."""
        kept = {place: i for i, place in enumerate(places)}
        return replace(
            self,
            rows=tuple(self.rows[place] for place in places),
            prompts=tuple(map(tuple, prompts)) if prompts else tuple(self.prompts[place] for place in places),
            label_ids=tuple(self.label_ids[place] for place in places) if self.label_ids else (),
            free=tuple(kept[place] for place in self.free if place in kept),
        )


@dataclass(slots=True)
class Answers:
    """What a subject did, by row. `seconds`: CPU seconds on a CPU, wall seconds elsewhere, of all rows together."""

    rows: list[int]
    prompt_tokens: float
    free: dict[int, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "free": {str(row): text for row, text in self.free.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Answers:
        return cls(**{**value, "free": {int(row): text for row, text in value["free"].items()}})


class Clock:
    """Adds up what each activity costs."""

    def __init__(self, device: str) -> None:
        self.on_cpu = device == "cpu"
        self.seconds: dict[str, float] = {}
        self._last = self._now()

    def _now(self) -> float:
        if self.on_cpu:
            return time.process_time()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def spent_on(self, activity: str) -> None:
        """What went by since the last call was spent on this."""
        now = self._now()
        self.seconds[activity] = self.seconds.get(activity, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True, slots=True)
class ExamLimit:
    """`max_tokens`: as in the manifest. `context`: positions that the model has."""

    max_tokens: int
    context: int
    ends: frozenset[int]
    on_cpu: bool


def forms(train: Sequence[Example], labels: Sequence[str]) -> dict[str, str]:
    """How each label is written as an answer: as in the first training row that has it."""
    written = {example.label: example.completion for example in reversed(train)}
    return {label: written.get(label, label) for label in labels}


def exam(
    renderer: Renderer, rows: Sequence[TokenRow], kind: TaskKind, labels: Mapping[str, str], limit: ExamLimit
) -> Exam:
    """The exam on the rows' own prompts. `labels`: each label and how it is written, for classification."""
    longest = max((len(row.ids) - row.prompt_length for row in rows), default=0)
    room = limit.context - max((row.prompt_length for row in rows), default=0)
    max_tokens = max(1, min(limit.max_tokens, longest + max(MARGIN_TOKENS, longest // 4), room))
    step = max(1, -(-len(rows) * max_tokens // FREE_TOKENS_ON_CPU)) if limit.on_cpu else 1
    return Exam(
        kind,
        tuple(rows),
        tuple(row.ids[: row.prompt_length] for row in rows),
        tuple(labels),
        tuple(label_ids(renderer, row.example, tuple(labels.values())) for row in rows) if labels else (),
        Stop(limit.ends, max_tokens),
        () if kind is TaskKind.TEXT else tuple(range(0, len(rows), step)),
    )


def label_ids(renderer: Renderer, example: Example, answers: Sequence[str]) -> LabelIds:
    """Each answer's tokens in this row, the end included."""
    if not example.raw_prompt:
        return tuple(tuple(renderer.completion(answer)) for answer in answers)
    rows = [renderer.answered(example, answer) for answer in answers]
    return tuple(row.ids[row.prompt_length :] for row in rows)


@dataclass(frozen=True, slots=True)
class Way:
    """How prompts are read, the same for all subjects. `frozen`: what is kept of the layers that all of them share."""

    plan: Plan
    frozen: Frozen | None = None


def sit(model: Any, tokenizer: Any, asked: Exam, share: Share = lambda _: None, way: Way | None = None) -> Answers:
    """All answers of the subject whose weights the model has now."""
    tokens = sum(map(len, asked.prompts)) / max(len(asked.prompts), 1)
    answers = Answers([row.example.row for row in asked.rows], round(tokens, 1))
    clock = Clock(model.device.type)
    if asked.kind is TaskKind.TEXT:
        answers.losses = score.losses(model, asked.rows)
        clock.spent_on("loss")
    elif asked.rows:
        way = way or Way(reading.plan_for(model, asked.prompts))
        if not way.plan.padded:
            answers.notes.append("scored without padding and without a shared prefix: this model bears neither")
        sitting = _Sitting(model, tokenizer, asked, answers, clock, share)
        (_classify if asked.kind is TaskKind.CLASSIFICATION else _write)(sitting, way)
        answers.free = dict(sorted(answers.free.items()))
    answers.seconds = {name: round(value, 3) for name, value in clock.seconds.items()}
    broken = [row for row, loss in zip(answers.rows, answers.losses, strict=False) if not _is_finite(loss)]
    if broken:
        raise Diverged(f"the loss of {len(broken)} held-out rows is not finite, first row {broken[0]}")
    return answers


def _is_finite(loss: float) -> bool:
    return abs(loss) < float("inf")


@dataclass(slots=True)
class _Sitting:
    """One subject at its exam."""

    model: Any
    tokenizer: Any
    asked: Exam
    answers: Answers
    clock: Clock
    share: Share

    def free(self, batch: Asked, places: Sequence[int]) -> None:
        """Free answers of the rows that are asked for one. `places`: of each prompt among all. Uses the batch up."""
        wanted = set(self.asked.free)
        chosen = [i for i, row in enumerate(batch.rows) if places[row] in wanted]
        if not chosen:
            return
        batch = batch if len(chosen) == len(batch.rows) else batch.take(chosen)
        rows = list(batch.rows)
        said = generate.continued(self.model, batch, self.asked.stop, self._enough())
        for row, ids in zip(rows, said, strict=True):
            self.answers.free[places[row]] = self.tokenizer.decode(ids, skip_special_tokens=True)
        self.clock.spent_on("free")

    def _enough(self) -> Callable[[list[int]], bool]:
        """Whether an answer is surely wrong already. What was wrong once stays wrong."""
        if not self.asked.brief:
            return lambda _: False
        texts = {*self.asked.labels, *(row.example.completion for row in self.asked.rows)}
        wanted = frozenset(map(metric.letters, texts))
        return lambda ids: not metric.may_become(self.tokenizer.decode(ids, skip_special_tokens=True), wanted)


def may_be_brief(asked: Exam, metrics: Collection[MetricName]) -> bool:
    """Whether no measure tells one wrong free answer from another. Equal JSON objects need not begin alike."""
    told = {MetricName.ACCURACY, MetricName.F1, MetricName.EXACT_MATCH, MetricName.LOSS, MetricName.PERPLEXITY}
    texts = {*asked.labels, *(row.example.completion for row in asked.rows)}
    plain = all(metric.json_object_or_none(text) is None for text in texts)
    return asked.kind is TaskKind.CLASSIFICATION and plain and told.issuperset(metrics)


def _write(sitting: _Sitting, way: Way) -> None:
    """Free answers, and the loss of the right ones: from one reading where a loss speaks of the answer alone."""
    asked, model, answers = sitting.asked, sitting.model, sitting.answers
    together = asked.scored and way.plan.windows is not None and all(map(_answer_only, asked.rows))
    if asked.scored and not together:
        answers.losses = score.losses(model, asked.rows)
        sitting.clock.spent_on("loss")
        sitting.share(0.5)
    places = range(len(asked.rows)) if together else asked.free
    answers.losses = [0.0] * len(asked.rows) if together else answers.losses
    done = 0
    prompts = [asked.prompts[place] for place in places]
    for batch in reading.read(model, prompts, way.plan, way.frozen) if prompts else ():
        sitting.clock.spent_on("read")
        if together:
            texts = [asked.rows[row].ids[asked.rows[row].prompt_length :] for row in batch.rows]
            for row, text, found in zip(batch.rows, texts, choice.whole(model, batch, texts), strict=True):
                answers.losses[row] = -found / len(text)
            sitting.clock.spent_on("loss")
        done += len(batch.rows)
        sitting.free(batch, places)
        before = 0.5 if asked.scored and not together else 0.0
        sitting.share(before + (1 - before) * done / len(prompts))


def _answer_only(row: TokenRow) -> bool:
    """Whether just the answer is learnt, all of it."""
    return row.prompt_length > 0 and [*map(bool, row.trained)] == [i >= row.prompt_length for i in range(len(row.ids))]


def _classify(sitting: _Sitting, way: Way) -> None:
    """Choice, loss of the right label and free answer, all from one reading of each prompt."""
    asked, model, answers = sitting.asked, sitting.model, sitting.answers
    count = len(asked.rows)
    answers.labels, answers.losses = [""] * count, [0.0] * count
    done = 0
    for ids, places in _by_label_ids(asked).items():
        prompts = [asked.prompts[place] for place in places]
        rights = tuple(asked.labels.index(asked.rows[place].example.label or "") for place in places)
        for batch in reading.read(model, prompts, way.plan, way.frozen):
            sitting.clock.spent_on("read")
            found = choice.chosen(model, batch, choice.Labels(ids, rights))
            for row, choosing in zip(batch.rows, found, strict=True):
                answers.labels[places[row]] = asked.labels[choosing.label]
                answers.losses[places[row]] = -choosing.scores[rights[row]] / len(ids[rights[row]])
            sitting.clock.spent_on("choose")
            done += len(batch.rows)
            sitting.free(batch, places)
            sitting.share(done / count)


def _by_label_ids(asked: Exam) -> dict[LabelIds, list[int]]:
    """Places of rows by the labels' tokens: one group, but for raw prompts that end in different ways."""
    groups: dict[LabelIds, list[int]] = {}
    for place, ids in enumerate(asked.label_ids):
        groups.setdefault(ids, []).append(place)
    return groups
