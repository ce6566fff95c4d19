"""Whoever is measured: made in a process of its own, kept there, and let on for one epoch after another."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.trainer.figures import Course, Epoch
from topcoat_trainer.example import TokenRow

if TYPE_CHECKING:
    from benchmarks.trainer.rows import Rows

NOT_LEARNT = -100
"""How transformers marks a token without loss."""
HELDOUT_ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained. `last_layers` 0: all. On a GPU in BF16, on a CPU in FP32."""

    model: Path
    rows: Rows
    last_layers: int
    epochs: int
    threads: int
    rank: int = 16
    rows_per_step: int = 16
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.03
    seed: int = 0
    gpu: bool = False


class Pace:
    """The subject's end of the pipe: it asks before each epoch, and says what it was like."""

    def __init__(self, order: Order, pipe: Connection) -> None:
        self._rows, self._pipe, self._gpu = order.rows.heldout, pipe, order.gpu
        self._begun = (0.0, 0.0)

    def wait(self) -> None:
        """Returns when it is this subject's turn; the clocks run from here."""
        self._pipe.recv()
        self._begun = self._clocks()

    def done(self, model: Any) -> None:
        """The clocks stop. The held-out loss is taken in the same way for everybody; None: it does not matter."""
        cost, clock = (now - then for now, then in zip(self._clocks(), self._begun, strict=True))
        peak = self._peak_mib()
        self._pipe.send(Epoch(cost, clock, math.nan if model is None else heldout_loss(model, self._rows), peak))

    def _clocks(self) -> tuple[float, float]:
        """What counts, and the clock. What was given to a GPU is waited for."""
        if not self._gpu:
            return time.process_time(), time.perf_counter()
        import torch

        torch.cuda.synchronize()
        return (time.perf_counter(),) * 2

    def _peak_mib(self) -> float:
        if not self._gpu:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        import torch

        return torch.cuda.max_memory_allocated() / 2**20


Subject = Callable[[Order, Pace], None]
"""Trains as ordered: `wait` and `done` around what is done once, then around each epoch."""


def labels(row: TokenRow) -> list[int]:
    return [token if learnt else NOT_LEARNT for token, learnt in zip(row.ids, row.trained, strict=True)]


def heldout_loss(model: Any, rows: Sequence[TokenRow]) -> float:
    """Mean loss of a learnt token."""
    import torch

    training = [module for module in model.modules() if module.training]
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), HELDOUT_ROWS_AT_ONCE):
            few = rows[start : start + HELDOUT_ROWS_AT_ONCE]
            width = max(len(row.ids) for row in few)
            lists = (
                [[*row.ids, *[0] * (width - len(row.ids))] for row in few],
                [[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in few],
                [labels(row) + [NOT_LEARNT] * (width - len(row.ids)) for row in few],
            )
            ids, mask, told = (torch.tensor(one, device=model.device) for one in lists)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            learnt = told[:, 1:] != NOT_LEARNT
            losses = torch.nn.functional.cross_entropy(logits[learnt].float(), told[:, 1:][learnt], reduction="sum")
            total, count = total + float(losses), count + int(learnt.sum())
    for module in training:
        module.training = True
    return total / count


class Guest:
    """A subject in its own process."""

    def __init__(self, name: str, kind: Subject, order: Order) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_live, args=(kind, order, other), daemon=True)
        self._process.start()
        other.close()
        self.course = Course(name, order.rows.name, order.last_layers, self._next())

    def epoch(self) -> None:
        self.course.epochs.append(self._next())

    def _next(self) -> Epoch:
        self._pipe.send("on")
        try:
            found = self._pipe.recv()
        except EOFError:
            found = "it ended"
        if isinstance(found, str):
            raise SystemExit(f"{self.name} failed:\n{found}")
        assert isinstance(found, Epoch)  # noqa: S101 (told by our own other end)
        return found

    def close(self) -> None:
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(20)


def _live(kind: Subject, order: Order, pipe: Connection) -> None:
    """The other process."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"})
    import torch
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(order.threads)
    try:
        kind(order, Pace(order, pipe))
    except Exception:  # noqa: BLE001 (told to whoever measures)
        pipe.send(traceback.format_exc())
