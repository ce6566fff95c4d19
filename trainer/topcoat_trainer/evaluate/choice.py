"""Constrained answers: the label of a fixed set that the model holds likeliest after a prompt.

A label's score is the log-likelihood of all its tokens, the end of the turn included, so no label is favoured for
being the beginning of another. A label whose first token is already less likely than a whole rival cannot win, and is
only read to the end where somebody asks for its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from topcoat_trainer.evaluate import reading
from topcoat_trainer.evaluate.prompt import Asked, Plan
from topcoat_trainer.prefix import Ids

PAIRS = 128


@dataclass(slots=True)
class Choice:
    """`label`: index of the likeliest. `scores`: log-likelihood by label index, for the labels that were read whole."""

    label: int
    scores: dict[int, float]

    def probabilities(self) -> dict[int, float]:
        """Shares among the labels that were read whole; meaningful when all were (`every=True`)."""
        top = max(self.scores.values())
        weights = {label: math.exp(score - top) for label, score in self.scores.items()}
        total = sum(weights.values())
        return {label: weight / total for label, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class Labels:
    """Tokens of each label, end of turn included, and the label whose score each row wants in any case (or none)."""

    ids: tuple[tuple[int, ...], ...]
    wanted: tuple[int | None, ...] = ()
    every: bool = False


def choose(model: Any, prompts: Sequence[Ids], labels: Labels, plan: Plan | None = None) -> list[Choice]:
    """The choice for every prompt, in the order of the prompts."""
    choices: list[Choice] = [Choice(0, {}) for _ in prompts]
    if not prompts:
        return choices
    for batch in reading.read(model, prompts, plan or reading.plan_for(model, prompts)):
        for row, choice in zip(batch.rows, chosen(model, batch, labels), strict=True):
            choices[row] = choice
    return choices


@torch.inference_mode()
def chosen(model: Any, batch: Asked, labels: Labels) -> list[Choice]:
    """The choices of one batch, whose cache stays as it was."""
    firsts = torch.tensor([ids[0] for ids in labels.ids], device=batch.logits.device)
    bounds = batch.logits.log_softmax(dim=-1)[:, firsts].tolist()
    known: list[dict[int, float]] = [
        {label: bound for label, bound in enumerate(row) if len(labels.ids[label]) == 1} for row in bounds
    ]
    wave = [(i, label) for i in range(len(bounds)) for label in _first_guesses(batch.rows[i], bounds[i], labels)]
    while wave := [(i, label) for i, label in wave if label not in known[i]]:
        for (i, label), rest in zip(wave, _rests(model, batch, wave, labels), strict=True):
            known[i][label] = bounds[i][label] + rest
        wave = [(i, label) for i, row in enumerate(bounds) for label in _rivals(row, known[i])]
    return [Choice(max(scores, key=lambda label: (scores[label], -label)), scores) for scores in known]


@torch.inference_mode()
def whole(model: Any, batch: Asked, texts: Sequence[Ids]) -> list[float]:
    """Log-likelihood of a text of its own after each row of the batch, which stays as it was."""
    firsts = torch.tensor([text[0] for text in texts], device=batch.logits.device)
    begun = batch.logits.log_softmax(dim=-1).gather(-1, firsts[:, None])[:, 0].double().tolist()
    rest = batch.likelihoods(model, range(len(texts)), texts)
    return [one + other for one, other in zip(begun, rest, strict=True)]


def _first_guesses(row: int, bounds: Sequence[float], labels: Labels) -> list[int]:
    if labels.every:
        return list(range(len(bounds)))
    wanted = labels.wanted[row] if labels.wanted else None
    best = max(range(len(bounds)), key=lambda label: bounds[label])
    return [best] if wanted is None or wanted == best else [best, wanted]


def _rivals(bounds: Sequence[float], known: dict[int, float]) -> list[int]:
    """The labels that may still win, judged by their first tokens alone; read together, since passes cost more than
    tokens.
    """
    best = max(known.values(), default=-math.inf)
    return [label for label, bound in enumerate(bounds) if label not in known and bound >= best]


def _rests(model: Any, batch: Asked, pairs: Sequence[tuple[int, int]], labels: Labels) -> list[float]:
    """Log-likelihood of each pair's label tokens after the first."""
    order = sorted(range(len(pairs)), key=lambda k: (len(labels.ids[pairs[k][1]]), pairs[k]))
    found = [0.0] * len(pairs)
    for start in range(0, len(order), PAIRS):
        part = order[start : start + PAIRS]
        texts = [labels.ids[pairs[k][1]] for k in part]
        for k, rest in zip(part, batch.likelihoods(model, [pairs[k][0] for k in part], texts), strict=True):
            found[k] = rest
    return found
