"""How surprised a model is by the right answers: mean negative log-likelihood of a row's trained tokens, in nats.

Rows are padded on the right, where causal attention never looks, so a batch gives what its rows give alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from topcoat_trainer import prefix as prefixes
from topcoat_trainer.example import TokenRow
from topcoat_trainer.prefix import Prefix

SCORE_TOKENS = 2048


def losses(model: Any, rows: Sequence[TokenRow]) -> list[float]:
    """Mean over each row's trained tokens, in the order of the rows."""
    found = [0.0] * len(rows)
    if not rows:
        return found
    starts = [_first_trained(row) for row in rows]
    length = prefixes.shared_length([row.ids for row in rows], starts)
    prefix = prefixes.prefix_or_none(model, rows[0].ids[:length]) if length > 0 else None
    skipped = len(prefix) if prefix else 0
    for part in _batches([len(row.ids) - skipped for row in rows]):
        for i, loss in zip(part, _batch_losses(model, [rows[i] for i in part], prefix), strict=True):
            found[i] = loss
    return found


def _first_trained(row: TokenRow) -> int:
    """The first token that is scored. Token 0 never is: nothing comes before it."""
    first = next((i for i, trained in enumerate(row.trained) if trained and i > 0), None)
    if first is None:
        raise ValueError(f"row {row.example.row} has no token to score")
    return first


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, SCORE_TOKENS // lengths[order[0]])
        yield order[:size]
        order = order[size:]


@torch.inference_mode()
def _batch_losses(model: Any, rows: Sequence[TokenRow], prefix: Prefix | None) -> list[float]:
    start = len(prefix) if prefix else 0
    width = max(len(row.ids) for row in rows) - start
    ids = torch.tensor([_padded(row.ids[start:], width, 0) for row in rows], device=model.device)
    targets = torch.tensor([_padded(_targets(row)[start + 1 :], width, -1) for row in rows], device=model.device)
    columns = (targets >= 0).any(dim=0).nonzero()[:, 0]
    logits, kept = _logits(model, ids, prefix, columns)
    targets = targets[:, kept]
    picked = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(dim=-1)
    scored = targets >= 0
    sums = picked.double().masked_fill(~scored, 0).sum(dim=1)
    means: list[float] = (-sums / scored.sum(dim=1)).tolist()
    return means


def _targets(row: TokenRow) -> list[int]:
    return [token if trained else -1 for token, trained in zip(row.ids, row.trained, strict=True)]


def _padded(values: Sequence[int], width: int, filler: int) -> list[int]:
    return [*values, *[filler] * (width - len(values))]


def _logits(
    model: Any, ids: torch.Tensor, prefix: Prefix | None, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in fp32 of the wanted columns only, where the model can leave the others out."""
    arguments: dict[str, Any] = {"logits_to_keep": columns} if prefixes.accepts(model, "logits_to_keep") else {}
    if prefix:
        arguments |= {"past_key_values": prefixes.expanded(model, prefix, [0] * len(ids)), "use_cache": True}
    else:
        arguments |= {"use_cache": False}
    logits = model(input_ids=ids, **arguments).logits.float()
    return (logits if logits.shape[1] == len(columns) else logits[:, columns]), columns
