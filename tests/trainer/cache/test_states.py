"""The boundary cache is exact, says when it is not used, and leaves the model as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support import tiny_models
from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, attention, batches, freeze, layers, model
from topcoat_trainer.batches import Batch
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.cache import check, states
from topcoat_trainer.errors import OutOfMemory, TrainerError
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.loop import survey
from topcoat_trainer.view import Kind, View

Load = Callable[[str], model.BaseModel]
EDGE = Boundary(3, 5)
DROPOUT = Method(lora=LoRA(rank=8, dropout="0.1"))
# Falcon of transformers builds its mask without position ids, so packed rows would see one another.
UNPACKED = {"falcon"}


def token_rows(count: int, seed: int = 0, length: int = 0) -> list[TokenRow]:
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        size = length or chance.randint(4, 40)
        ids = tuple(chance.randrange(4, 290) for _ in range(size))
        rows.append(TokenRow(ids, tuple(place >= size // 2 for place in range(size)), size // 2, Example(number + 1)))
    return rows


def holder(base: model.BaseModel) -> states.BoundaryCache:
    return states.BoundaryCache(Halves(base.model, EDGE), View(base.model))


def holder_of(whole: Any, view: View) -> states.BoundaryCache:
    return states.BoundaryCache(Halves(whole, EDGE), view)


def train(tail: adapter.Tail, steps: Sequence[Batch], around: Callable[[Batch], Any]) -> list[bytes]:
    """AdamW over the batches; the losses and at last the weights, as bytes."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([parameter for _, parameter in tail.parameters()], lr=1e-2)
    seen = []
    for batch in steps:
        with around(batch):
            logits = tail.model(**batch.inputs(), use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1)[batch.selected], batch.targets)
        loss.backward()
        freeze.prove_gradients(tail.model, tail.proof)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.detach().numpy().tobytes())
    return [*seen, *(tensor.numpy().tobytes() for tensor in tail.state().values())]


@pytest.mark.parametrize("kind", ["LoRA", "Full"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "mixtral", "falcon"])
def test_training_from_kept_states_gives_the_same_bits_as_training_the_whole_model(
    family: str, kind: str, load: Load
) -> None:
    """With dropout in the tail, rows packed, lengths mixed; each batch's own state is kept and used again."""
    rows = token_rows(12)
    steps = [batches.batch(rows, chosen, packing=True) for chosen in (range(5), range(5, 9), range(9, 12), range(5))]
    method = DROPOUT if kind == "LoRA" else Method(type="Full")
    whole = train(adapter.attach(load(family), method, EDGE, 1), steps, lambda _: nullcontext())
    tail = adapter.attach(load(family), method, EDGE, 1)
    halves = Halves(tail.model, EDGE)
    kept = {id(batch): halves.capture(batch.inputs()) for batch in steps}
    assert train(tail, steps, lambda batch: halves.injected(kept[id(batch)])) == whole


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_filled_cache_gives_the_same_bits_when_rows_keep_their_company(family: str, load: Load) -> None:
    rows = token_rows(12, length=16)
    steps = [batches.batch(rows, range(start, start + 4), packing=False) for start in (0, 4, 8, 0, 4, 8)]
    whole = train(adapter.attach(load(family), DROPOUT, EDGE, 1), steps, lambda _: nullcontext())
    tail = adapter.attach(load(family), DROPOUT, EDGE, 1)
    filled = states.BoundaryCache(Halves(tail.model, EDGE), View(tail.model, Kind.PADDED))
    states.fill([filled], rows, tokens=64)
    filled.hold(rows)
    assert train(tail, steps, filled.around) == whole


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_the_self_check_accepts_every_family(family: str, load: Load) -> None:
    rows = token_rows(20)
    base = load(family)
    before = freeze.digest(base.model)
    why, difference = check.misfit(Halves(base.model, EDGE), rows, survey.view(base.model, rows, packing=True))
    assert why == ""
    assert difference < 1e-5
    assert freeze.digest(base.model) == before


def test_rows_that_would_see_one_another_are_found_and_the_cache_is_not_used(load: Load) -> None:
    base = load("falcon")
    why, _ = check.misfit(Halves(base.model, EDGE), token_rows(20), View(base.model))
    assert "influence one another" in why


def test_a_family_that_cannot_be_split_is_trained_without_a_cache(load: Load) -> None:
    base = load("llama")
    first, *_ = layers.stack(base.model)

    class Twice(nn.Module):
        """A layer that runs another one a second time."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor, **kwargs: Any) -> Any:
            return {"hidden": self.inner(hidden, **kwargs)}

    layers.stack(base.model)[1] = Twice(first)
    assert "self-check failed" in check.misfit(Halves(base.model, EDGE), token_rows(4), View(base.model))[0]


@pytest.mark.parametrize("factor", [1.01, 1 + 1e-6])
def test_a_split_pass_that_differs_at_all_is_refused_with_the_difference(
    factor: float, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load("llama")
    true_capture = Halves.capture
    monkeypatch.setattr(Halves, "capture", lambda self, inputs: true_capture(self, inputs) * factor)
    why, difference = check.misfit(Halves(base.model, EDGE), token_rows(4), View(base.model))
    assert "differs from the whole one by" in why
    assert difference > 0


@pytest.mark.parametrize("kind", list(Kind))
def test_shuffled_company_changes_losses_by_rounding_only(kind: Kind, load: Load) -> None:
    rows = token_rows(16)
    order = random.Random(3).sample(range(16), 16)
    tail = adapter.attach(load("llama"), DROPOUT, EDGE, 1)
    view = View(tail.model, kind, attention.windows(tail.model))
    steps = [view.batch(rows, order[start : start + 4]) for start in (0, 4, 8, 12)]

    def reading(batch: Batch) -> Any:
        return view.reading(batch)

    whole = train(adapter.attach(load("llama"), DROPOUT, EDGE, 1), steps, reading)
    filled = holder_of(tail.model, view)
    filled.fill(rows)

    @contextmanager
    def both(batch: Batch) -> Iterator[None]:
        with filled.around(batch), view.reading(batch):
            yield

    split = train(tail, steps, both)
    for one, other in zip(whole[:4], split[:4], strict=True):
        assert torch.frombuffer(bytearray(one), dtype=torch.float32).item() == pytest.approx(
            torch.frombuffer(bytearray(other), dtype=torch.float32).item(), rel=1e-5
        )


def test_a_second_fill_gives_the_same_bits(load: Load) -> None:
    rows = token_rows(20)
    halves = Halves(load("llama").model, EDGE)
    filled = []
    for _ in range(2):
        one = states.BoundaryCache(halves, View(halves.model))
        one.fill(rows)
        filled.append(torch.cat([one.states(index) for index in range(20)]))
    assert torch.equal(*filled)


def test_equal_rows_are_kept_once(load: Load) -> None:
    rows = token_rows(3)
    kept = holder(load("llama"))
    kept.fill([*rows, rows[1], rows[1]])
    assert kept.tokens == sum(len(row.ids) for row in rows)
    assert torch.equal(kept.states(4), kept.states(1))


def test_rows_are_filled_in_portions_of_like_length(load: Load) -> None:
    halves = Halves(load("llama").model, EDGE)
    shapes: list[tuple[int, ...]] = []
    true_capture = halves.capture_all

    def spy(inputs: Any, earlier: Any) -> list[torch.Tensor]:
        shapes.append(tuple(inputs["input_ids"].shape))
        return true_capture(inputs, earlier)

    halves.capture_all = spy  # type: ignore[method-assign]  # a spy
    rows = token_rows(60)
    seen: list[tuple[int, int]] = []
    filled = states.BoundaryCache(halves, View(halves.model, Kind.PADDED))
    states.fill([filled], rows, tokens=128, progress=lambda done, total: seen.append((done, total)))
    assert all(count * width <= 128 for count, width in shapes)
    assert sum(count * width for count, width in shapes) < 1.25 * sum(len(row.ids) for row in rows)
    assert seen[-1] == (60, 60)


def test_the_model_is_as_before_after_capture_and_injection(load: Load, ids: torch.Tensor) -> None:
    base = load("gpt2")
    layers.training_mode(base.model, EDGE)
    modes = {name: module.training for name, module in base.model.named_modules()}
    members = list(layers.stack(base.model))
    halves = Halves(base.model, EDGE)
    hidden = halves.capture({"input_ids": ids})
    with pytest.raises(RuntimeError, match="boom"), halves.injected(hidden):
        raise RuntimeError("boom")
    assert all(now is then for now, then in zip(layers.stack(base.model), members, strict=True))
    assert {name: module.training for name, module in base.model.named_modules()} == modes
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.model.modules())


def test_the_frozen_half_does_not_run_when_states_are_injected(load: Load, ids: torch.Tensor) -> None:
    base = load("llama")
    halves = Halves(base.model, EDGE)
    hidden = halves.capture({"input_ids": ids})
    plain = base.model(ids, use_cache=False).logits
    with torch.no_grad():
        for layer in list(layers.stack(base.model))[:3]:
            for parameter in layer.parameters():
                parameter.fill_(float("nan"))
    with halves.injected(hidden) as split:
        assert torch.equal(split(ids, use_cache=False).logits, plain)


def test_states_of_another_batch_are_refused(load: Load, ids: torch.Tensor) -> None:
    halves = Halves(load("llama").model, EDGE)
    with pytest.raises(TrainerError, match="capture must come before"), halves.injected(torch.zeros(1)):
        pass
    hidden = halves.capture({"input_ids": ids})
    with halves.injected(hidden[:, :-1]) as split, pytest.raises(TrainerError, match="kept states of shape"):
        split(ids, use_cache=False)
    kept = states.BoundaryCache(halves, View(halves.model, Kind.PADDED))
    kept.fill(token_rows(2, seed=1))
    with pytest.raises(TrainerError, match="not those of the cache"):
        kept.hidden(batches.batch(token_rows(2, seed=2), [0, 1], packing=True))


def test_a_tail_of_all_layers_has_no_frozen_half(load: Load) -> None:
    with pytest.raises(TrainerError, match="every layer trains"):
        Halves(load("llama").model, Boundary(0, 5))


def test_memory_that_ends_during_the_fill_halves_the_portion(load: Load) -> None:
    halves = Halves(load("llama").model, EDGE)
    true_capture = halves.capture_all
    sizes: list[int] = []

    def tight(inputs: Any, earlier: Any) -> list[torch.Tensor]:
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > 64:
            raise torch.OutOfMemoryError("no memory")
        return true_capture(inputs, earlier)

    rows = token_rows(8, length=20)
    expected = states.BoundaryCache(halves, View(halves.model, Kind.PADDED))
    states.fill([expected], rows, tokens=40)
    expected.hold(rows)
    halves.capture_all = tight  # type: ignore[method-assign]  # a fault
    kept = states.BoundaryCache(halves, View(halves.model, Kind.PADDED))
    states.fill([kept], rows, tokens=200)
    kept.hold(rows)
    assert max(sizes) > 64
    assert torch.equal(kept.states(7), expected.states(7))
    with pytest.raises(OutOfMemory, match="a row of 70 tokens"):
        kept.fill(token_rows(1, length=70))


def shared(rows: Sequence[TokenRow], *begin: int) -> list[TokenRow]:
    """The same rows behind a common beginning."""
    learnt = (False,) * len(begin)
    return [replace(row, ids=(*begin, *row.ids), trained=(*learnt, *row.trained)) for row in rows]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3", "mistral"])
def test_what_rows_begin_with_runs_and_is_kept_once_and_the_states_are_the_same(
    family: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "SHARED_TOKENS", 30)
    rows = shared(token_rows(9), 7, 9, 11, 13, 15, 17)
    base = load(family)
    halves = Halves(base.model, EDGE)
    apart = states.BoundaryCache(halves, View(base.model, Kind.PADDED))
    apart.fill(rows)
    seen: list[int] = []
    real = halves.capture_all

    def counted(given: Mapping[str, Any], earlier: Sequence[int]) -> list[torch.Tensor]:
        seen.append(given["input_ids"].numel())
        return real(given, earlier)

    monkeypatch.setattr(halves, "capture_all", counted)
    together = states.BoundaryCache(halves, View(base.model, Kind.LINE, attention.windows(base.model)))
    together.fill(rows)
    assert sum(seen) == together.tokens == sum(row.read_tokens - 6 for row in rows) + 6
    for index, row in enumerate(rows):
        own = together.states(index)
        assert len(own) == row.read_tokens < len(row.ids)
        torch.testing.assert_close(own, apart.states(index)[: len(own)], rtol=0, atol=2e-5)


def test_rows_that_come_later_find_what_is_kept_however_it_is_shared(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows appended later may share more or fewer of their first tokens than the ones before did."""
    monkeypatch.setattr(states, "SHARED_TOKENS", 8)
    base = load("llama")
    halves, kept = Halves(base.model, EDGE), states.Memory()
    view = View(base.model, Kind.LINE, attention.windows(base.model))
    rows = shared(token_rows(6), 7, 9, 11, 13, 15, 17)
    states.BoundaryCache(halves, view, kept).fill(rows)
    more = [*rows, *shared(token_rows(2, seed=5), 7, 9, 12), *shared(token_rows(2, seed=6), 7, 9, 11, 13, 15, 17)]
    filled: list[int] = []
    again = states.BoundaryCache(halves, view, kept)
    again.fill(more, progress=lambda _, total: filled.append(total))
    assert set(filled) == {4}
    fresh = states.BoundaryCache(halves, view)
    fresh.fill(more)
    for index in range(len(more)):
        torch.testing.assert_close(again.states(index), fresh.states(index), rtol=0, atol=2e-5)
