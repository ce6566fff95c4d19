"""The next token from the model's logits: the likeliest, or drawn with the request's own seed."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from topcoat_trainer.serve.engine import Sampling

# What these warpers do does not depend on the text so far.
NOTHING_BEFORE: Any = torch.empty(1, 0, dtype=torch.long)


class Picker:
    """Draws the tokens of one answer. The same seed, prompt and version give the same answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._greedy = sampling.temperature == 0
        self._chance = torch.Generator()
        if sampling.seed is None:
            self._chance.seed()
        else:
            self._chance.manual_seed(sampling.seed)
        self._warpers = transformers.LogitsProcessorList()
        if not self._greedy and sampling.temperature != 1:
            self._warpers.append(transformers.TemperatureLogitsWarper(sampling.temperature))
        if not self._greedy and sampling.top_p < 1:
            self._warpers.append(transformers.TopPLogitsWarper(sampling.top_p))

    def pick(self, logits: torch.Tensor, likeliest: int) -> int:
        """A token for the logits of one position, of which the likeliest is known."""
        if self._greedy:
            return likeliest
        scores = self._warpers(NOTHING_BEFORE, logits[None].float().cpu())
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self._chance))
