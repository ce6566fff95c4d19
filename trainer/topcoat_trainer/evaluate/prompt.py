"""Reads prompts in batches and stops where the answer begins: what free and constrained answers share.

Every batch gives exactly what its rows give alone (up to rounding): left padding is masked and positions are counted
without it. Where a model does not bear padding, rows of equal length are batched instead (`padding_is_exact`), and
where it keeps more than keys and values (recurrent layers), every step reads the whole text again: slow, but right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache

from topcoat_trainer import prefix as prefixes
from topcoat_trainer.attention import Windows
from topcoat_trainer.prefix import Ids, Prefix

BATCH_ROWS = 64
BATCH_TOKENS = 6144
# Two orders of magnitude above fp32 rounding, far below what a wrong mask or position does.
TOLERANCE = {torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 3e-1}


class Asked(Protocol):
    """A batch whose prompts are read. Row i is prompt `rows[i]`; `logits` predict its first answer token."""

    rows: list[int]
    logits: torch.Tensor
    thins: bool
    """Whether rows may leave at no cost."""

    def likelihoods(self, model: Any, entries: Sequence[int], texts: Sequence[Ids], /) -> list[float]:
        """After each entry's prompt, the log-likelihood of a text's tokens but the first. The batch stays as it was."""
        ...

    def followed(self, model: Any, entries: Sequence[int], tokens: Sequence[int], /) -> Asked:
        """The chosen rows, each with one token more. This batch is used up."""
        ...

    def take(self, chosen: Sequence[int], /) -> Asked:
        """A batch of the chosen rows of this one, repeats allowed; this one stays usable."""
        ...


@dataclass(slots=True)
class Prompted:
    """Rows padded on the left. What was read lies in the cache, or, without one, in `ids`."""

    rows: list[int]
    cache: Cache | None
    mask: torch.Tensor | None
    lengths: torch.Tensor
    logits: torch.Tensor
    ids: torch.Tensor | None = None
    thins: bool = False

    def take(self, chosen: Sequence[int]) -> Prompted:
        index = torch.tensor(list(chosen), dtype=torch.long, device=self.logits.device)
        return Prompted(
            [self.rows[i] for i in chosen],
            None if self.cache is None else prefixes.taken(self.cache, index),
            None if self.mask is None else self.mask[index],
            self.lengths[index],
            self.logits[index],
            None if self.ids is None else self.ids[index],
        )

    @torch.inference_mode()
    def likelihoods(self, model: Any, entries: Sequence[int], texts: Sequence[Ids]) -> list[float]:
        width = max(len(text) for text in texts) - 1
        device = self.logits.device
        ids = torch.tensor([[*text[:-1], *[0] * (width + 1 - len(text))] for text in texts], device=device)
        targets = torch.tensor([[*text[1:], *[-1] * (width + 1 - len(text))] for text in texts], device=device)
        rows = self.take(entries)
        positions = rows.lengths[:, None] + torch.arange(width, device=device)[None, :]
        if rows.mask is not None:
            rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(entries), width)], dim=1)
        logits = step(model, rows, ids, positions, keep=width)
        picked = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(dim=-1)
        sums: list[float] = picked.masked_fill(targets < 0, 0).double().sum(dim=1).tolist()
        return sums

    @torch.inference_mode()
    def followed(self, model: Any, entries: Sequence[int], tokens: Sequence[int]) -> Prompted:
        batch = self if list(entries) == list(range(len(self.rows))) else self.take(entries)
        ids = torch.tensor(list(tokens), device=self.logits.device)[:, None]
        if batch.mask is not None:
            batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(ids), 1)], dim=1)
        batch.logits = step(model, batch, ids, batch.lengths[:, None], keep=1)[:, -1]
        batch.lengths = batch.lengths + 1
        return batch


@dataclass(frozen=True, slots=True)
class Plan:
    """How prompts are batched. `padded` False: only rows of equal length share a batch, and no prefix is shared.

    `cached` False: nothing is kept between steps. `windows`: how far layers see, for rows in one line (reading.py).
    """

    padded: bool = True
    shared: bool = True
    cached: bool = True
    rows: int = BATCH_ROWS
    tokens: int = BATCH_TOKENS
    windows: Windows | None = None


def batches(lengths: Sequence[int], plan: Plan) -> list[list[int]]:
    """Row indices, longest first, so that little is padded and a lack of memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found: list[list[int]] = []
    for i in order:
        room = found and len(found[-1]) < plan.rows and (len(found[-1]) + 1) * lengths[found[-1][0]] <= plan.tokens
        if room and (plan.padded or lengths[found[-1][0]] == lengths[i]):
            found[-1].append(i)
        else:
            found.append([i])
    return found


def read(model: Any, prompts: Sequence[Ids], plan: Plan) -> Iterator[Prompted]:
    """Batch after batch, longest prompts first."""
    length = prefixes.shared_length(prompts) if plan.padded and plan.shared else 0
    prefix = prefixes.prefix_or_none(model, prompts[0][:length]) if length else None
    for rows in batches([len(prompt) for prompt in prompts], plan):
        yield read_batch(model, [prompts[i] for i in rows], rows, prefix, plan)


@torch.inference_mode()
def read_batch(model: Any, prompts: Sequence[Ids], rows: list[int], prefix: Prefix | None, plan: Plan) -> Prompted:
    """One batch, read; without padding its prompts are equally long."""
    width = max(len(prompt) for prompt in prompts)
    pads = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    ids, mask = ids.to(model.device), mask.to(model.device)
    cache = prefixes.expanded(model, prefix, pads) if prefix else prefixes.empty_cache(model) if plan.cached else None
    batch = Prompted(rows, cache, mask if plan.padded else None, mask.sum(dim=1), torch.empty(0))
    start = len(prefix) if prefix else 0
    batch.logits = step(model, batch, ids[:, start:], _positions(mask)[:, start:], keep=1)[:, -1]
    return batch


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def step(model: Any, batch: Prompted, ids: torch.Tensor, positions: torch.Tensor, keep: int) -> torch.Tensor:
    """Feeds tokens after what the batch has read, and gives the logits of the last `keep` columns, in fp32."""
    if batch.cache is None:
        ids = batch.ids = ids if batch.ids is None else torch.cat([batch.ids, ids], dim=1)
        whole: torch.Tensor = model(input_ids=ids, use_cache=False).logits[:, -keep:].float()
        return whole
    arguments: dict[str, Any] = {"logits_to_keep": keep} if prefixes.accepts(model, "logits_to_keep") else {}
    if batch.mask is not None:
        arguments["attention_mask"] = batch.mask
        if prefixes.accepts(model, "position_ids"):
            arguments["position_ids"] = positions
    output = model(input_ids=ids, past_key_values=batch.cache, use_cache=True, **arguments)
    logits: torch.Tensor = output.logits[:, -keep:].float()
    return logits


@torch.inference_mode()
def padding_is_exact(model: Any, prompts: Sequence[Ids]) -> bool:
    """Whether the shortest prompt gives the same distribution alone as it does padded beside the longest."""
    short, long = min(prompts, key=len), max(prompts, key=len)
    pair = [long[-96:], short[-48:]]
    alone = read_batch(model, [pair[1]], [0], None, Plan(padded=False)).logits[0]
    beside = read_batch(model, pair, [0, 1], None, Plan()).logits[1]
    difference = (alone.log_softmax(-1) - beside.log_softmax(-1)).abs().max().item()
    return difference <= TOLERANCE.get(model.dtype, 2e-3)


def plan_for_one(model: Any) -> Plan:
    """One prompt alone needs neither padding nor a shared prefix."""
    return Plan(padded=False, shared=False, cached=prefixes.has_only_attention(prefixes.empty_cache(model)))


def plan_for(model: Any, prompts: Sequence[Ids]) -> Plan:
    """Padded batches with a shared prefix where the model bears them; checked, not assumed."""
    bare = plan_for_one(model)
    return Plan() if bare.cached and padding_is_exact(model, prompts) else bare
