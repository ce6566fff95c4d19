"""The product with the vocabulary, the largest of a step: on a CPU quicker when the few tokens stand on its other side.

Measured for 16 tokens of a 135M model: 20 ms instead of 35. The same sums, rounded elsewhere; only inside a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from topcoat_trainer.serve import attention
from topcoat_trainer.serve.touched import plain_forward


def turn(model: Any) -> None:
    """Bends the way to the head's forward, where there is a plain one on a CPU."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.weight.device.type == "cpu":
        head.forward = _turned(head)  # type: ignore[method-assign]  # the way is bent


def _turned(head: nn.Linear) -> Any:
    plain = plain_forward(head)

    def forward(states: torch.Tensor) -> torch.Tensor:
        if attention.table_or_none() is None:
            found: torch.Tensor = plain(states)
            return found
        product = torch.mm(head.weight, states.reshape(-1, head.in_features).t()).t().contiguous()
        logits = product if head.bias is None else product + head.bias
        return logits.view(*states.shape[:-1], -1)

    return forward
