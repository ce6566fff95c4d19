"""Greedy answers in batches: always the likeliest token, until an end token or the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from topcoat_trainer.evaluate import reading
from topcoat_trainer.evaluate.prompt import Asked, Plan
from topcoat_trainer.prefix import Ids


@dataclass(frozen=True, slots=True)
class Stop:
    """When an answer ends: at one of `ends` (which is left out of the answer) or after `max_tokens`."""

    ends: frozenset[int]
    max_tokens: int


def end_tokens(model: Any, tokenizer: Any, *more: int) -> frozenset[int]:
    """What the tokenizer, the model's generation settings and the template end a turn with."""
    ends: set[int] = set(more)
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    settings = getattr(model, "generation_config", None)
    stated = getattr(settings, "eos_token_id", None)
    ends.update(stated if isinstance(stated, (list, tuple)) else [] if stated is None else [int(stated)])
    return frozenset(ends)


def generate(model: Any, prompts: Sequence[Ids], stop: Stop, plan: Plan | None = None) -> list[list[int]]:
    """The answer's tokens for every prompt, in the order of the prompts."""
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return answers
    for batch in reading.read(model, prompts, plan or reading.plan_for(model, prompts)):
        for row, answer in zip(list(batch.rows), continued(model, batch, stop), strict=True):
            answers[row] = answer
    return answers


@torch.inference_mode()
def continued(
    model: Any, batch: Asked, stop: Stop, enough: Callable[[list[int]], bool] = lambda _: False
) -> list[list[int]]:
    """Answers of one batch, which is used up. Rows that ended leave it, where that costs something once half has.

    An answer also ends after a token that makes it `enough`.
    """
    answers: list[list[int]] = [[] for _ in batch.rows]
    active = list(range(len(batch.rows)))
    for count in range(1, stop.max_tokens + 1):
        tokens = batch.logits.argmax(dim=-1).tolist()
        running = []
        for place, token in enumerate(tokens):
            i = active[place]
            if i < 0:
                continue
            if token in stop.ends:
                active[place] = -1
                continue
            answers[i].append(token)
            if enough(answers[i]):
                active[place] = -1
                continue
            running.append(place)
        if not running or count == stop.max_tokens:
            break
        if not batch.thins and len(running) > len(active) // 2:
            running = list(range(len(active)))
        active = [active[place] for place in running]
        batch = batch.followed(model, running, [tokens[place] for place in running])
    return answers
