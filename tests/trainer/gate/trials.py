"""A tiny model, data that it can learn, and tails trained for a second: trials for the gate's tests."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from tests.support import tiny_models
from topcoat.api.method import Method, MethodType
from topcoat.api.report import BaseModelCard, DataCard, Lineage, TaskKind
from topcoat_trainer import adapter, layers, model, task
from topcoat_trainer.example import Example, Message
from topcoat_trainer.gate.judge import Story, Trial
from topcoat_trainer.model import BaseModel
from topcoat_trainer.render import Renderer

# One letter tells the queue: that much a model of 100,000 random weights learns in seconds.
WORDS = {"cars": ["X"], "homes": ["Y"], "pets": ["Z"]}
SYSTEM = Message("system", "Sort.")


def example(row: int, question: str, answer: str, *, label: bool = True) -> Example:
    messages = (SYSTEM, Message("user", question), Message("assistant", answer, trained=True))
    digest = hashlib.sha256(repr(messages).encode()).hexdigest()
    return Example(row, messages, label=answer if label else None, digest=digest)


def claims(count: int, seed: int, *, label: bool = True) -> tuple[Example, ...]:
    """Rows whose label follows from one word."""
    chance = random.Random(seed)
    made = []
    for row in range(1, count + 1):
        queue = chance.choice(sorted(WORDS))
        words = [chance.choice("abc") for _ in range(chance.randrange(1, 3))]
        words.insert(chance.randrange(len(words) + 1), chance.choice(WORDS[queue]))
        made.append(example(row, " ".join(words), queue, label=label))
    return tuple(made)


def base_model(folder: Path, seed: int = 0) -> BaseModel:
    path = tiny_models.make("llama", folder, seed=seed) / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    # The head stays frozen: as random as it is made, no tail could ever make it sure of an answer.
    tensors["lm_head.weight"] *= 10
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return model.load(folder)


FULL = Method(type=MethodType.FULL)


def tuned(base: BaseModel, examples: tuple[Example, ...], folder: Path, steps: int = 40, method: Method = FULL) -> Path:
    """A tail trained on the rows, exported."""
    renderer = Renderer(base.tokenizer, 256)
    rows = [renderer.row(row) for row in examples]
    tail = adapter.attach(base, method, layers.boundary(base.model, 4, "Classification"), 0)
    optimizer = torch.optim.AdamW([parameter for _, parameter in tail.parameters()], lr=5e-3)
    chance = random.Random(0)
    for _ in range(steps):
        part = chance.sample(rows, min(32, len(rows)))
        width = max(len(row.ids) for row in part)
        ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in part])
        wanted = [[i if flag else -100 for i, flag in zip(row.ids, row.trained, strict=True)] for row in part]
        targets = torch.tensor([[*row, *[-100] * (width - len(row))] for row in wanted])
        logits = base.model(input_ids=ids).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    adapter.export(tail, folder, "tests/tiny")
    tail.detach()
    return folder


def trial(
    base: BaseModel, train: tuple[Example, ...], heldout: tuple[Example, ...], candidate: Path, **more: object
) -> Trial:
    renderer = Renderer(base.tokenizer, 256)
    made = Trial(
        base=base,
        renderer=renderer,
        task=task.task(train),
        train=train,
        heldout=tuple(renderer.row(row) for row in heldout),
        candidate=candidate,
        ledger=candidate.parent / "scores",
    )
    return replace(made, **more)  # type: ignore[arg-type]  # tests name fields


def story() -> Story:
    return Story(
        DataCard(
            digest="d", format="Chat", task=TaskKind.CLASSIFICATION, rows=1, train_samples=1, holdout_samples=1,
            holdout_digest="h", split_rule="by hash",
        ),
        BaseModelCard(
            id="tests/tiny", uri="file://tiny", path="tiny", revision="r", digest="b", config_digest="c",
            architecture="LlamaForCausalLM", layers=5, hidden_size=32, parameters=1, bytes=1,
        ),
        Lineage(
            job="claims", namespace="default", run=1, version="v1", trigger="Manual", method="LoRA",
            first_trained_layer=1, total_layers=5, trained_parameters=1, total_parameters=2, steps=1, target_steps=1,
            epochs=1, seed=0, precision="FP32", device="cpu", code_version="0", started_at="", finished_at="",
        ),
    )  # fmt: skip
