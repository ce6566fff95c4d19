"""Golden probes: a version's answers to a few prompts, to the log-probability. Whoever serves it must answer the same.

Computed on the exported artifact, one prompt at a time, without padding or cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from topcoat.api.report import Probe
from topcoat_trainer.example import TokenRow

PROBES = 4
LIKELIEST = 5
LONGEST_TOKENS = 256


def prompts(rows: Sequence[TokenRow]) -> list[list[int]]:
    """A few different prompts of the held-out rows, chosen by digest; plain text gives its beginning."""
    found: dict[tuple[int, ...], None] = {}
    for row in sorted(rows, key=lambda row: row.example.digest):
        ids = row.ids[: row.prompt_length] or row.ids[: max(1, len(row.ids) // 2)]
        found[tuple(ids[:LONGEST_TOKENS])] = None
        if len(found) == PROBES:
            break
    return [list(ids) for ids in found]


def log_probabilities(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of the next token, fp32, on the CPU."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits
    return cast("torch.Tensor", logits[0, -1].float().log_softmax(-1).cpu())


def make(model: Any, asked: Sequence[Sequence[int]]) -> list[Probe]:
    """The probes of a model that computes with the version's weights."""
    probes = []
    for ids in asked:
        values, tokens = log_probabilities(model, ids).topk(LIKELIEST)
        probes.append(Probe(prompt_ids=list(ids), token_ids=tokens.tolist(), log_probabilities=values.tolist()))
    return probes


def difference(model: Any, probes: Sequence[Probe]) -> float:
    """The largest difference between what was sealed and what this model answers."""
    return max(
        (
            float(
                (log_probabilities(model, probe.prompt_ids)[probe.token_ids] - torch.tensor(probe.log_probabilities))
                .abs()
                .max()
            )
            for probe in probes
        ),
        default=0.0,
    )
