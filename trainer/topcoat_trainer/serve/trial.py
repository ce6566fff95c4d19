"""Chooses how a model computes for a server: all texts together where that is right, else one at a time. By trying.

Before anything is served, the batch must give what the model gives by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from topcoat_trainer import devices, packed
from topcoat_trainer.devices import Device
from topcoat_trainer.evaluate import prompt
from topcoat_trainer.model import BaseModel
from topcoat_trainer.serve import misfit
from topcoat_trainer.serve.alone import Alone
from topcoat_trainer.serve.attention import Misfit
from topcoat_trainer.serve.batch import Batch, Limits
from topcoat_trainer.serve.misfit import Build
from topcoat_trainer.serve.want import Computer, Found, Want

CPU_STEP_TOKENS = 256
GPU_STEP_TOKENS = 2048
"""Prompt tokens in one step beside answers: enough to use the device well, few enough that answers hardly notice."""
CPU_SHARE = 0.5
GPU_SHARE = 0.8
"""Of the memory that is free once the base model is loaded; the rest is for versions and for computing."""
UNKNOWN_CONTEXT_TOKENS = 8192
PREFIX_FACTOR = 2
"""Keys and values get memory for all slots filled to the end, times this: beyond, kept prefixes gain little."""
TRIAL_LENGTHS = (41, 9, 1)
TRIAL_STEPS = 3
log = logging.getLogger(__name__)


def computer(base: BaseModel, device: Device, slots: int, kv_bytes: int | None = None) -> Computer:
    """`slots`: texts at once. `kv_bytes`: memory for keys and values; None: a share of what is free."""
    try:
        build = misfit.build(base.model)
        tried = Batch(base, build, Limits(len(TRIAL_LENGTHS), 24, 1 << 40))
        _compare(base, tried)
        packed.pack_all(base.model)
        return Batch(base, build, limits(base, build, device, (slots, kv_bytes)))
    except Exception as error:  # noqa: BLE001 (a family that fails here is served all the same, in turns)
        reason = str(error) if isinstance(error, Misfit) else f"the trial failed with {type(error).__name__}"
        kind = base.model.config.model_type
        log.warning("%s: requests are computed one at a time, because %s", kind, reason)
        return Alone(base)


def limits(base: BaseModel, build: Build, device: Device, wish: tuple[int, int | None]) -> Limits:
    """How much at once."""
    slots, kv_bytes = wish
    if kv_bytes is None:
        free = devices.available_bytes(device)
        config = base.model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or UNKNOWN_CONTEXT_TOKENS
        useful = PREFIX_FACTOR * slots * context * build.shape.token_bytes
        kv_bytes = min(useful, int(free * (GPU_SHARE if device.is_gpu else CPU_SHARE)))
    return Limits(slots, GPU_STEP_TOKENS if device.is_gpu else CPU_STEP_TOKENS, kv_bytes)


def _compare(base: BaseModel, batch: Batch) -> None:
    """Texts of different lengths in one batch, read in parts, then a few tokens each; Misfit where one differs."""
    size = len(base.tokenizer)
    rows = [
        batch.open(None, [(7 * place + start) % size for place in range(length)])
        for start, length in enumerate(TRIAL_LENGTHS)
    ]
    for _ in range(TRIAL_STEPS):
        for row, found in zip(rows, _all(batch, [Want(row) for row in rows]), strict=True):
            _agree(base, row.ids, found.logits[-1])
            row.ids.append(found.likeliest[-1])
    for row in rows:
        row.close()


def _all(batch: Batch, wants: Sequence[Want]) -> list[Found]:
    """Steps until every want has its answer."""
    found: dict[int, Any] = {}
    while missing := [want for want in wants if id(want) not in found]:
        for want, outcome in zip(missing, batch.compute(missing), strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                found[id(want)] = outcome
    return [found[id(want)] for want in wants]


@torch.inference_mode()
def _agree(base: BaseModel, ids: Sequence[int], logits: torch.Tensor) -> None:
    whole: Any = base.model(input_ids=torch.tensor([list(ids)], device=base.model.device), use_cache=False)
    difference = (whole.logits[0, -1].float().log_softmax(-1) - logits.log_softmax(-1)).abs().max()
    if not difference <= prompt.TOLERANCE.get(base.dtype, 2e-3):
        raise Misfit(f"texts beside each other change each other's answers (by {float(difference):.2g})")
