"""What a run will need, before it starts: memory, time, trained parameters. Rough, from shapes alone, without torch."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from topcoat.api.method import Method, MethodType
from topcoat.api.report import DataCard, Estimate
from topcoat.api.training import Precision, Training
from topcoat_trainer import weight_file
from topcoat_trainer.boundary import Boundary, choose
from topcoat_trainer.model_file import ModelFacts

LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.")
ROUTER = re.compile(r"\.(router|gate|shared_expert_gate)\.weight$")
PROCESS_BYTES = 700 << 20
USUAL_MICRO_BATCH = 8
# Values kept per token, layer and unit of width for the backward pass of a usual decoder layer.
KEPT_VALUES = 20
# Forward passes over the held-out rows: base and candidate, free and constrained, and baselines with long prompts.
JUDGING_PASSES = 16
GPU = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class Shapes:
    """Parameters of the model by place."""

    tail: int
    prefix: int
    adapter: int


def estimate(facts: ModelFacts, card: DataCard, method: Method, training: Training) -> Estimate:
    """The needs of a run on this machine; of its memory on a GPU if this machine has one."""
    edge = choose(facts.layers, method.layers, card.task.value)
    shapes = _shapes(facts, edge, method)
    trained = shapes.tail if method.type is MethodType.FULL else shapes.adapter
    return Estimate(
        memory_bytes=_memory_bytes(facts, card, (method, training), (edge, trained)),
        duration_seconds=round(_seconds(card, training, shapes, facts), 1),
        trained_parameters=trained,
        total_parameters=facts.parameters + (0 if method.type is MethodType.FULL else shapes.adapter),
    )


def _shapes(facts: ModelFacts, edge: Boundary, method: Method) -> Shapes:
    tail = prefix = adapter = 0
    wanted = method.lora.target_modules
    for file in facts.files:
        if not file.name.endswith(".safetensors"):
            continue
        for name, tensor in weight_file.header(facts.path / file.name).tensors.items():
            layer = LAYER.search(f".{name}")
            if layer is None:
                continue
            if int(layer.group(1)) < edge.first_trained:
                prefix += tensor.elements
                continue
            tail += tensor.elements
            module = name.removesuffix(".weight")
            fits = not wanted or any(module.endswith(target) for target in wanted)
            if len(tensor.shape) == 2 and fits and not ROUTER.search(name):
                adapter += method.lora.rank * sum(tensor.shape)
    return Shapes(tail, prefix, adapter)


def _memory_bytes(
    facts: ModelFacts, card: DataCard, wishes: tuple[Method, Training], trained: tuple[Boundary, int]
) -> int:
    """Weights, the trained part with its gradients and two moments, what the backward pass keeps, and the logits."""
    method, training = wishes
    edge, parameters = trained
    half = training.precision in (Precision.BF16, Precision.FP16) or (
        training.precision is Precision.AUTO and GPU.exists()
    )
    width = 2 if half else 4
    weights = facts.parameters * width if method.type is not MethodType.QLORA else int(facts.parameters * 0.6)
    rows = training.micro_batch_size or min(USUAL_MICRO_BATCH, training.effective_batch_size)
    tokens = rows * min(card.longest_tokens, training.max_sequence_length)
    kept = tokens * facts.hidden_size * KEPT_VALUES * width * edge.trained_layers
    learnt = max(1, round(rows * card.trained_tokens / max(1, card.train_samples)))
    logits = learnt * facts.vocabulary_size * 4 * 3
    return PROCESS_BYTES + weights + parameters * 16 + kept + logits


def _seconds(card: DataCard, training: Training, shapes: Shapes, facts: ModelFacts) -> float:
    """Floating-point operations over this machine's speed: two per parameter and token, twice again backwards."""
    epochs: float = training.epochs
    if training.max_steps is not None and card.train_samples:
        epochs = min(epochs, training.max_steps * training.effective_batch_size / card.train_samples)
    learnt = card.trained_tokens * facts.hidden_size * facts.vocabulary_size
    fill = 2 * shapes.prefix * card.tokens
    train = epochs * (6 * (shapes.tail + shapes.adapter) * card.tokens + 6 * learnt)
    mean_tokens = card.tokens / max(1, card.train_samples)
    judge = JUDGING_PASSES * 2 * facts.parameters * mean_tokens * card.holdout_samples
    return (fill + train + judge) / _operations_per_second()


def _operations_per_second() -> float:
    """Speed of matrix products on this CPU: one core's best of a tenth of a second, times the cores. What else the
    machine does at this moment says nothing of the run.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    size = 384
    left = np.full((size, size), 1.0001, dtype=np.float32)
    fastest, until = float("inf"), time.perf_counter() + 0.1
    with threadpool_limits(limits=1):
        while (started := time.perf_counter()) < until:
            np.matmul(left, left)
            fastest = min(fastest, time.perf_counter() - started)
    return len(os.sched_getaffinity(0)) * 2 * size**3 / fastest
