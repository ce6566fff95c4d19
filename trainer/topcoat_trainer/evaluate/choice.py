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

from topcoat_trainer.evaluate import prompt
from topcoat_trainer.evaluate.prompt import Plan, Prompted
from topcoat_trainer.prefix import Ids

PAIR_TOKENS = 4096


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
    for batch in prompt.read(model, prompts, plan or prompt.plan_for(model, prompts)):
        for row, choice in zip(batch.rows, chosen(model, batch, labels), strict=True):
            choices[row] = choice
    return choices


@torch.inference_mode()
def chosen(model: Any, batch: Prompted, labels: Labels) -> list[Choice]:
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
        wave = [(i, label) for i, row in enumerate(bounds) for label in _next_rival(row, known[i])]
    return [Choice(max(scores, key=lambda label: (scores[label], -label)), scores) for scores in known]


def _first_guesses(row: int, bounds: Sequence[float], labels: Labels) -> list[int]:
    if labels.every:
        return list(range(len(bounds)))
    wanted = labels.wanted[row] if labels.wanted else None
    best = max(range(len(bounds)), key=lambda label: bounds[label])
    return [best] if wanted is None or wanted == best else [best, wanted]


def _next_rival(bounds: Sequence[float], known: dict[int, float]) -> list[int]:
    """The most promising label that may still win, judged by its first token alone: mostly there is none."""
    best = max(known.values(), default=-math.inf)
    rivals = [label for label, bound in enumerate(bounds) if label not in known and bound >= best]
    return [max(rivals, key=bounds.__getitem__)] if rivals else []


def _rests(model: Any, batch: Prompted, pairs: Sequence[tuple[int, int]], labels: Labels) -> list[float]:
    """Log-likelihood of each pair's label tokens after the first."""
    order = sorted(range(len(pairs)), key=lambda k: (len(labels.ids[pairs[k][1]]), pairs[k]))
    found = [0.0] * len(pairs)
    width = int(batch.lengths.max()) + max(len(ids) for ids in labels.ids)
    size = max(1, PAIR_TOKENS // width)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for k, rest in zip(part, _pair_rests(model, batch, [pairs[k] for k in part], labels), strict=True):
            found[k] = rest
    return found


def _pair_rests(model: Any, batch: Prompted, pairs: Sequence[tuple[int, int]], labels: Labels) -> list[float]:
    texts = [labels.ids[label] for _, label in pairs]
    width = max(len(text) for text in texts) - 1
    device = batch.logits.device
    ids = torch.tensor([[*text[:-1], *[0] * (width + 1 - len(text))] for text in texts], device=device)
    targets = torch.tensor([[*text[1:], *[-1] * (width + 1 - len(text))] for text in texts], device=device)
    rows = batch.take([i for i, _ in pairs])
    positions = rows.lengths[:, None] + torch.arange(width, device=device)[None, :]
    if rows.mask is not None:
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(pairs), width)], dim=1)
    logits = prompt.step(model, rows, ids, positions, keep=width)
    picked = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(dim=-1)
    sums: list[float] = picked.masked_fill(targets < 0, 0).double().sum(dim=1).tolist()
    return sums
