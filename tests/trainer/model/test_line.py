"""Rows in one line are computed as if each were alone: logits, gradients, and the last layer's narrow part."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.support import tiny_models
from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, attention, batches, layers, lora, model
from topcoat_trainer.batches import Batch
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.loop import survey
from topcoat_trainer.view import Kind, View

Load = Callable[[str], model.BaseModel]
EDGE = Boundary(3, 5)
# Falcon computes its attention in a way of its own.
WITHOUT_LINE = {"falcon"}


def tree_rows(count: int = 8) -> list[TokenRow]:
    """Rows with one beginning for all and another, longer than a window of 16 tokens, for half of them."""
    chance = random.Random(4)
    common, examples = ([chance.randrange(4, 250) for _ in range(size)] for size in (9, 21))
    rows = []
    for number in range(count):
        own = [chance.randrange(4, 250) for _ in range(chance.randint(3, 25))]
        ids = (*common, *(examples if number % 2 else ()), *own)
        rows.append(TokenRow(ids, tuple(place >= len(ids) - 2 for place in range(len(ids))), 1, Example(number + 1)))
    return rows


def gradients(view: View, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    logits = view.logits(batch)
    functional.cross_entropy(logits, batch.targets, reduction="sum").backward()
    found = torch.cat([p.grad.flatten() for p in view.model.parameters() if p.grad is not None])
    view.model.zero_grad(set_to_none=True)
    return logits.detach(), found


def tuned(base: model.BaseModel, method: Method) -> adapter.Tail:
    tail = adapter.attach(base, method, EDGE, 1)
    torch.manual_seed(2)
    for _, parameter in tail.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tail


@pytest.mark.parametrize("kind", ["LoRA", "Full"])
@pytest.mark.parametrize("family", sorted(set(tiny_models.FAMILIES) - WITHOUT_LINE))
def test_logits_and_gradients_of_a_line_are_those_of_single_rows(family: str, kind: str, load: Load) -> None:
    rows = tree_rows()
    tail = tuned(load(family), Method(lora=LoRA(rank=8)) if kind == "LoRA" else Method(type="Full"))
    view = survey.narrowed(survey.view(tail.model, rows, packing=True), rows)
    assert view.kind is Kind.LINE
    layers.training_mode(tail.model, EDGE)
    batch = view.batch(rows, range(len(rows)))
    assert batch.tokens < 0.8 * sum(len(row.ids) for row in rows)
    plain = View(tail.model, Kind.PADDED)
    together, summed = gradients(view, batch)
    alone = [gradients(plain, plain.batch(rows, [index])) for index in range(len(rows))]
    single, expected = torch.cat([logits for logits, _ in alone]), torch.stack([g for _, g in alone]).sum(0)
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-5)
    assert float((summed - expected).norm() / expected.norm()) < 1e-5


def test_a_family_with_attention_of_its_own_is_packed_or_padded_and_says_why(load: Load) -> None:
    view = survey.view(load("falcon").model, tree_rows(), packing=True)
    assert view.kind is Kind.PADDED
    assert "begin with in common is computed for each of them" in view.notes[0]


def test_attention_that_asks_for_more_than_a_line_gives_is_not_answered(load: Load) -> None:
    base = load("llama").model
    batch = batches.lined(tree_rows(), [0, 1])
    states = torch.zeros(1, 4, batch.tokens, 8)
    assert batch.line is not None
    with attention.lined(base.config, batch.line, [None] * 5), pytest.raises(TrainerError, match="asks for softcap"):
        attention._attention(layers.stack(base)[0], states, states, states, None, softcap=30.0)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt_neox", "mixtral"])
def test_the_last_layer_computes_little_more_than_what_is_predicted(family: str, load: Load) -> None:
    base = load(family)
    view = survey.narrowed(survey.view(base.model, tree_rows(), packing=True), tree_rows())
    names = [name for name, module in layers.stack(base.model)[-1].named_modules() if module in view.narrow]
    assert any("mlp" in name for name in names)
    assert not any(
        "k_proj" in name or "v_proj" in name or "query_key_value" in name or "c_attn" in name for name in names
    )
    seen: list[int] = []
    module = next(
        module
        for module in view.narrow
        if "mlp" in type(module).__name__.lower() or "moe" in type(module).__name__.lower()
    )
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    rows = tree_rows()
    batch = view.batch(rows, range(8))
    view.logits(batch)
    handle.remove()
    assert max(seen) <= batch.tokens


def test_lora_by_fewer_passes_gives_what_peft_gives(load: Load, ids: torch.Tensor) -> None:
    tail = tuned(load("llama"), Method(lora=LoRA(rank=8, alpha=24)))
    changed = [module for module in tail.model.modules() if isinstance(getattr(module, "forward", None), lora._Forward)]
    assert len(changed) == 14

    def outcome() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = tail.model(ids, use_cache=False).logits
        logits.square().mean().backward()
        found = [p.grad.clone() for _, p in tail.parameters() if p.grad is not None]
        tail.model.zero_grad(set_to_none=True)
        return logits.detach(), found

    fused = outcome()
    for module in changed:
        del module.forward
    plain = outcome()
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-5, atol=1e-6)
    assert len(fused[1]) == len(plain[1]) == 28
    for one, other in zip(fused[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert not torch.equal(tail.model(ids, use_cache=False).logits, load("llama").model(ids).logits)


@pytest.mark.parametrize("how", [{"dropout": "0.1"}, {"use_dora": True}])
def test_lora_that_is_not_plain_goes_pefts_way(how: dict[str, object], load: Load) -> None:
    tail = adapter.attach(load("llama"), Method(lora=LoRA.model_validate({"rank": 8, **how})), EDGE, 1)
    assert not any(isinstance(getattr(module, "forward", None), lora._Forward) for module in tail.model.modules())


def test_a_row_is_read_no_further_than_something_is_predicted_from() -> None:
    row = TokenRow((5, 6, 7, 8, 9), (False, False, True, True, False), 2, Example(1))
    assert row.read_tokens == 3
    assert replace(row, trained=(True, False, False, False, False)).read_tokens == 0
    batch = batches.lined([row], [0])
    assert batch.input_ids.tolist() == [[5, 6, 7]]
    assert (batch.selected.tolist(), batch.targets.tolist()) == ([1, 2], [7, 8])
