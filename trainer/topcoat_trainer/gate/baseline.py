"""The cheaper ways, so that nobody tunes in vain: a classifier, examples in the prompt, similar examples in the prompt.

They inform; a baseline that cannot be taken says why and stops nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from topcoat.api.report import TaskKind
from topcoat_trainer import tree as trees
from topcoat_trainer.example import Example, Message
from topcoat_trainer.gate import neighbour
from topcoat_trainer.gate.exam import Answers, Exam
from topcoat_trainer.render import Renderer

PROMPT_EXAMPLES = 24
RETRIEVED_EXAMPLES = 8
# Tokens that a baseline may compute on a CPU, what its prompts share counted once (half a minute on two cores with a
# model of 135M parameters): beyond it, a seeded sample of the rows is asked, and the score table shows how many.
TOKENS_ON_CPU = 16_000
FREE_ROWS = 64
ROWS_AT_LEAST = 50


class NotApplicableError(Exception):
    """Why a baseline is left out, in words."""


@dataclass(frozen=True, slots=True)
class Material:
    """What baselines are made of. `context`: positions of the model, the answer included."""

    renderer: Renderer
    train: tuple[Example, ...]
    exam: Exam
    context: int
    seed: int
    on_cpu: bool


def question(example: Example) -> str:
    """The words that tell rows apart: all turns of the prompt but the system's."""
    return "\n".join(turn.content for turn in example.prompt if turn.role != "system")


def classified(material: Material) -> Answers:
    """The classifier's answers to the exam."""
    if material.exam.kind is not TaskKind.CLASSIFICATION:
        raise NotApplicableError("a classifier needs labels")
    started = time.process_time()
    rows = [row.example for row in material.exam.rows]
    labels = [example.label or "" for example in material.train]
    if len(set(labels)) < 2:
        raise NotApplicableError("the training rows have one label only")
    try:
        found = neighbour.classify([*map(question, material.train)], labels, [*map(question, rows)])
    except neighbour.NoWordsError as error:
        raise NotApplicableError("the rows have no words to count") from error
    answers = Answers([row.row for row in rows], 0.0, labels=found)
    answers.seconds = {"choose": round(time.process_time() - started, 3)}
    answers.notes = ["TF-IDF of words and word pairs, logistic regression; time includes fitting"]
    return answers


def _refuse_plain_text(material: Material) -> None:
    if material.exam.kind is TaskKind.TEXT:
        raise NotApplicableError("plain text asks no question")


def prompted(material: Material) -> tuple[Exam, list[str]]:
    """The exam with one fixed set of training examples in every prompt, and how it was made."""
    _refuse_plain_text(material)
    shots = _balanced(material.train, PROMPT_EXAMPLES, material.seed)
    rows = [row.example for row in material.exam.rows]
    while shots:
        prompts = [_with_examples(material.renderer, shots, row) for row in rows]
        if max(map(len, prompts)) + material.exam.stop.max_tokens <= material.context:
            break
        shots = shots[: len(shots) * 3 // 4]
    if not shots:
        raise NotApplicableError("not one example fits into the model's context beside the longest prompt")
    note = f"{len(shots)} training examples in the prompt, the same for all"
    return _affordable(material, prompts), [note]


def retrieved(material: Material) -> tuple[Exam, list[str]]:
    """The exam with the most similar training rows in each prompt, the most similar last."""
    _refuse_plain_text(material)
    rows = [row.example for row in material.exam.rows]
    try:
        near = neighbour.nearest([*map(question, material.train)], [*map(question, rows)], RETRIEVED_EXAMPLES)
    except neighbour.NoWordsError as error:
        raise NotApplicableError("the rows have no words to count") from error
    limit = material.context - material.exam.stop.max_tokens
    prompts = []
    for row, places in zip(rows, near, strict=True):
        shots = [material.train[place] for place in places]
        made = _with_examples(material.renderer, shots, row)
        while len(made) > limit and shots:
            shots = shots[1:]
            made = _with_examples(material.renderer, shots, row)
        if not shots:
            raise NotApplicableError("not one example fits into the model's context beside the longest prompt")
        prompts.append(made)
    note = f"the {RETRIEVED_EXAMPLES} most similar training rows (TF-IDF) in the prompt, the most similar last"
    return _affordable(material, prompts), [note]


def _balanced(train: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Seeded, as many of each label as of any other, in mixed order."""
    order = list(train)
    random.Random(seed).shuffle(order)
    turns: dict[str | None, int] = {}
    ranked = []
    for place, example in enumerate(order):
        turns[example.label] = turns.get(example.label, 0) + 1
        ranked.append((turns[example.label], place))
    return [order[place] for place in sorted(place for _, place in sorted(ranked)[:count])]


def _with_examples(renderer: Renderer, shots: Sequence[Example], row: Example) -> list[int]:
    if row.raw_prompt:
        before = "".join(f"{shot.prompt[0].content}{shot.completion}\n\n" for shot in shots)
        first, *others = row.prompt
        return renderer.prompt((replace(first, content=before + first.content), *others), raw_prompt=True)
    system = [turn for turn in row.prompt if turn.role == "system"]
    turns = [Message(turn.role, turn.content) for shot in shots for turn in shot.messages if turn.role != "system"]
    return renderer.prompt((*system, *turns, *(turn for turn in row.prompt if turn.role != "system")))


def _affordable(material: Material, prompts: Sequence[Sequence[int]]) -> Exam:
    """The exam with these prompts, on fewer rows where all would take too long. Classification is only constrained."""
    choosing = material.exam.kind is TaskKind.CLASSIFICATION
    asked = material.exam if choosing else material.exam.part(material.exam.free)
    count = len(asked.rows)
    if material.on_cpu:
        own = trees.grow(prompts).tokens / len(prompts)
        count = min(count, max(ROWS_AT_LEAST, int(TOKENS_ON_CPU / max(own, 1.0))))
    if not choosing:
        count = min(count, FREE_ROWS)
    sources = range(len(material.exam.rows)) if choosing else material.exam.free
    places = sorted(random.Random(material.seed).sample(list(sources), count))
    part = material.exam.part(places, [prompts[place] for place in places])
    if not choosing:
        return replace(part, scored=False)
    return replace(part, free=())
