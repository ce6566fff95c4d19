"""Reads prompts for free and constrained answers: in one line where the model bears it, else padded (prompt.py).

In a line, what prompts begin with in common is computed once, nothing is filled up, and what follows a prompt finds
the prompt's states in a memory. Whether a model bears it is found by trying.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from topcoat_trainer import attention
from topcoat_trainer import line as lines
from topcoat_trainer import prefix as prefixes
from topcoat_trainer import sequel as sequels
from topcoat_trainer import tree as trees
from topcoat_trainer.attention import Windows
from topcoat_trainer.cache import states
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.evaluate import prompt
from topcoat_trainer.evaluate.frozen import Frozen
from topcoat_trainer.evaluate.prompt import Asked, Plan
from topcoat_trainer.prefix import Ids
from topcoat_trainer.sequel import Memory

logger = logging.getLogger(__name__)

# Tokens in one line besides what all prompts begin with: more make nothing faster.
LINE_TOKENS = {"cpu": 2048, "cuda": 16_384}
LINE_ROWS = 128
TRIAL_TOKENS = 24
# On a CPU a pass of few tokens costs mostly the reading of all weights.
PASS_TOKENS = 48
# Tokens whose logits are there at once.
MOST_TOKENS = 1024


@dataclass(slots=True)
class Lined:
    """Rows that stand in a line. `paths`: where each row's tokens are in the memory, first token first."""

    rows: list[int]
    logits: torch.Tensor
    paths: list[list[int]]
    memory: Memory
    windows: Windows
    thins: bool = True

    def take(self, chosen: Sequence[int]) -> Lined:
        index = torch.tensor(list(chosen), dtype=torch.long, device=self.logits.device)
        return replace(
            self, rows=[self.rows[i] for i in chosen], logits=self.logits[index], paths=[self.paths[i] for i in chosen]
        )

    @torch.inference_mode()
    def likelihoods(self, model: Any, entries: Sequence[int], texts: Sequence[Ids]) -> list[float]:
        found = [0.0] * len(texts)
        for part in text_groups([len(text) - 1 for text in texts]):
            width = len(texts[part[0]]) - 1
            short = [texts[i] for i in part]
            read = [_filled(text[:-1], width, 0) for text in short]
            logits = self._read(model, [entries[i] for i in part], read, keep=False)
            targets = torch.tensor([_filled(text[1:], width, -1) for text in short], device=logits.device)
            picked = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(dim=-1)
            sums = picked.masked_fill(targets < 0, 0).double().sum(dim=1).tolist()
            for i, value in zip(part, sums, strict=True):
                found[i] = value
        return found

    @torch.inference_mode()
    def followed(self, model: Any, entries: Sequence[int], tokens: Sequence[int]) -> Lined:
        start = self.memory.settled
        logits = self._read(model, entries, [[token] for token in tokens], keep=True)[:, -1]
        self.memory.settle(len(entries))
        paths = [[*self.paths[i], start + number] for number, i in enumerate(entries)]
        return replace(self, rows=[self.rows[i] for i in entries], logits=logits, paths=paths)

    def _read(self, model: Any, entries: Sequence[int], texts: Sequence[Ids], *, keep: bool) -> torch.Tensor:
        """Logits, fp32, of texts of one length after the entries' rows: texts by tokens by vocabulary."""
        width, device = len(texts[0]), self.logits.device
        told = sequels.sequel([self.paths[i] for i in entries], width, keep=keep, device=device)
        ids = torch.tensor([token for text in texts for token in text], device=device)[None]
        with attention.followed(model.config, self.memory, told, self.windows):
            logits: torch.Tensor = model(
                input_ids=ids, position_ids=told.positions.flatten()[None], use_cache=False
            ).logits
        return logits.float().view(len(texts), width, -1)


def _filled(ids: Ids, width: int, filler: int) -> list[int]:
    return [*ids, *[filler] * (width - len(ids))]


def text_groups(lengths: Sequence[int]) -> list[list[int]]:
    """Texts that are read in one pass, longest first: a pass of its own costs as much as some tokens of filling."""
    found: list[list[int]] = []
    filling = 0
    for i in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (-lengths[i], i)):
        filling += lengths[found[-1][0]] - lengths[i] if found else 0
        full = found and (len(found[-1]) + 1) * lengths[found[-1][0]] > MOST_TOKENS
        if not found or full or filling > PASS_TOKENS:
            found.append([])
            filling = 0
        found[-1].append(i)
    return found


def read(model: Any, prompts: Sequence[Ids], plan: Plan, frozen: Frozen | None = None) -> Iterator[Asked]:
    """Batch after batch, as planned. `frozen`: what the layers that all weights share have made of these prompts."""
    if plan.windows is None:
        yield from prompt.read(model, prompts, plan)
        return
    ids = [tuple(one) for one in prompts]
    tokens = LINE_TOKENS["cpu" if model.device.type == "cpu" else "cuda"] + prefixes.shared_length(ids)
    for portion in states.portions(ids, tokens, lined=True):
        for start in range(0, len(portion), LINE_ROWS):
            part = portion[start : start + LINE_ROWS]
            batch = read_line(model, [ids[row] for row in part], plan.windows, frozen=frozen)
            yield replace(batch, rows=part)


@torch.inference_mode()
def read_line(
    model: Any,
    prompts: Sequence[Ids],
    windows: Windows,
    *,
    worth_tokens: int = trees.WORTH_TOKENS,
    frozen: Frozen | None = None,
) -> Lined:
    """These prompts in one line."""
    tree = trees.grow(prompts, worth_tokens)
    paths = [lines.flat_positions(tree, row, range(len(ids))) for row, ids in enumerate(prompts)]
    ids = [token for piece in tree.pieces for token in prompts[piece.row][piece.start : piece.end]]
    places = [place for piece in tree.pieces for place in range(piece.start, piece.end)]
    asked = torch.tensor([path[-1] for path in paths], device=model.device)
    few = {"logits_to_keep": asked} if prefixes.accepts(model, "logits_to_keep") else {}
    inputs = {
        "input_ids": torch.tensor([ids], device=model.device),
        "position_ids": torch.tensor([places], device=model.device),
    }
    line, memory = lines.line(tree).to(model.device), Memory()
    with ExitStack() as stack:
        if frozen is not None:
            with attention.lined(model.config, line, windows, memory):
                hidden, memory = frozen.begun(prompts, inputs, memory)
            stack.enter_context(frozen.behind(hidden))
        stack.enter_context(attention.lined(model.config, line, windows, memory))
        logits = model(**inputs, use_cache=False, **few).logits[0]
    memory.settle(len(ids))
    return Lined(list(range(len(prompts))), (logits if few else logits[asked]).float(), paths, memory, windows)


def plan_for(model: Any, prompts: Sequence[Ids]) -> Plan:
    """In a line where the model bears that, else padded or not: checked, not assumed."""
    try:
        windows = attention.windows(model)
        if prefixes.accepts(model, "position_ids") and line_is_exact(model, prompts, windows):
            return Plan(windows=tuple(windows))
    except Exception as error:  # noqa: BLE001 (any family may break in its own way, and padding will do)
        why = error.message if isinstance(error, TrainerError) else f"it fails ({type(error).__name__})"
        logger.info("prompts are padded instead of lined up: %s", why)
    return prompt.plan_for(model, prompts)


@torch.inference_mode()
def line_is_exact(model: Any, prompts: Sequence[Ids], windows: Windows) -> bool:
    """Whether rows in a line, and what follows them, have the distributions that they have alone."""
    trial = _trial(prompts)
    line = read_line(model, trial, windows, worth_tokens=1)
    tokens = [ids[0] for ids in trial[::-1]]
    found = torch.stack([line.logits, line.followed(model, range(len(trial)), tokens).logits], dim=1)
    longer = [torch.tensor([[*ids, token]], device=model.device) for ids, token in zip(trial, tokens, strict=True)]
    few: dict[str, Any] = {"logits_to_keep": 2} if prefixes.accepts(model, "logits_to_keep") else {}
    alone = torch.cat([model(input_ids=ids, use_cache=False, **few).logits[:, -2:].float() for ids in longer])
    difference = float((alone.log_softmax(-1) - found.log_softmax(-1)).abs().max())
    return difference <= prompt.TOLERANCE.get(model.dtype, 2e-3)


def frozen_or_none(
    model: Any, prompts: Sequence[Ids], plan: Plan, first_trained: int, limit_bytes: int
) -> Frozen | None:
    """Where readings may be split: None unless a trial gives the very bits of a whole reading, also what follows."""
    if plan.windows is None or first_trained < 1 or limit_bytes < 1:
        return None
    trial = _trial(prompts)
    try:
        found = Frozen(model, first_trained, limit_bytes)
        # Whole, split, and from what the split reading kept.
        whole, split, kept = (read_line(model, trial, plan.windows, frozen=one) for one in (None, found, found))
        tokens = [ids[0] for ids in trial]
        after, later = (line.followed(model, range(len(trial)), tokens) for line in (whole, kept))
    except Exception as error:  # noqa: BLE001 (any family may break in its own way, and this only saves time)
        logger.info("frozen layers: the trial failed (%s)", type(error).__name__)
        return None
    found.forget()
    pairs = ((whole, split), (whole, kept), (after, later))
    return found if all(torch.equal(one.logits, other.logits) for one, other in pairs) else None


def _trial(prompts: Sequence[Ids]) -> list[tuple[int, ...]]:
    """The ends of two prompts, and a third that begins as the first and ends as the second."""
    short, long = (tuple(one[-TRIAL_TOKENS:]) for one in (min(prompts, key=len), max(prompts, key=len)))
    return list(dict.fromkeys([long, (*long[: len(long) // 2], *short[len(short) // 2 :]), short]))
