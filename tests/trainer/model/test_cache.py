"""The boundary cache is exact, says when it is not used, and leaves the model as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support import tiny_models
from topcoat.api.method import LoRA, Method
from topcoat.api.training import CacheMedium, CacheMode
from topcoat_trainer import adapter, attention, batches, cache, freeze, layers, model
from topcoat_trainer.batches import Batch
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import OutOfMemory, TrainerError, UserInputError
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.halves import Halves
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


def holder(base: model.BaseModel) -> cache.BoundaryCache:
    return cache.BoundaryCache(Halves(base.model, EDGE), View(base.model))


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
    filled = cache.BoundaryCache(Halves(tail.model, EDGE), View(tail.model, Kind.PADDED))
    filled.fill(rows, batch_tokens=64)
    assert train(tail, steps, filled.around) == whole


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_the_self_check_accepts_every_family(family: str, load: Load) -> None:
    rows = token_rows(20)
    base = load(family)
    before = freeze.digest(base.model)
    kind = Kind.PADDED if family in UNPACKED else Kind.PACKED
    opened, report = cache.open_cache(Halves(base.model, EDGE), rows, View(base.model, kind))
    assert opened is not None
    assert report.used
    assert report.exact
    assert report.difference < 1e-5
    assert (report.rows, report.tokens) == (20, sum(len(row.ids) for row in rows))
    assert report.size_bytes == report.tokens * tiny_models.HIDDEN * 4
    assert freeze.digest(base.model) == before


def test_rows_that_would_see_one_another_are_found_and_the_cache_is_not_used(load: Load) -> None:
    base = load("falcon")
    opened, report = cache.open_cache(Halves(base.model, EDGE), token_rows(20), View(base.model))
    assert opened is None
    assert not report.used
    assert "influence one another" in report.reason


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
    opened, report = cache.open_cache(Halves(base.model, EDGE), token_rows(4), View(base.model))
    assert opened is None
    assert "self-check failed" in report.reason


def test_a_split_pass_that_differs_is_refused_with_the_difference(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load("llama")
    true_capture = Halves.capture
    monkeypatch.setattr(Halves, "capture", lambda self, inputs: true_capture(self, inputs) * 1.01)
    opened, report = cache.open_cache(Halves(base.model, EDGE), token_rows(4), View(base.model))
    assert opened is None
    assert "differs from the whole one by" in report.reason
    assert report.difference > report.tolerance


@pytest.mark.parametrize("packing", [True, False])
def test_shuffled_company_changes_losses_by_rounding_only(packing: bool, load: Load) -> None:
    rows = token_rows(16)
    order = random.Random(3).sample(range(16), 16)
    steps = [batches.batch(rows, order[start : start + 4], packing=packing) for start in (0, 4, 8, 12)]
    whole = train(adapter.attach(load("llama"), DROPOUT, EDGE, 1), steps, lambda _: nullcontext())
    tail = adapter.attach(load("llama"), DROPOUT, EDGE, 1)
    opened, _ = cache.open_cache(
        Halves(tail.model, EDGE), rows, View(tail.model, Kind.PACKED if packing else Kind.PADDED)
    )
    assert opened is not None
    split = train(tail, steps, opened.around)
    for one, other in zip(whole[:4], split[:4], strict=True):
        assert torch.frombuffer(bytearray(one), dtype=torch.float32).item() == pytest.approx(
            torch.frombuffer(bytearray(other), dtype=torch.float32).item(), rel=1e-5
        )


def test_a_second_fill_gives_the_same_bits(load: Load) -> None:
    rows = token_rows(20)
    halves = Halves(load("llama").model, EDGE)
    filled = []
    for _ in range(2):
        one = cache.BoundaryCache(halves, View(halves.model))
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
    true_capture = halves.capture
    halves.capture = lambda inputs: shapes.append(tuple(inputs["input_ids"].shape)) or true_capture(inputs)  # type: ignore[method-assign, func-returns-value]  # a spy
    rows = token_rows(60)
    seen: list[tuple[int, int]] = []
    cache.BoundaryCache(halves, View(halves.model, Kind.PADDED)).fill(
        rows, batch_tokens=128, progress=lambda done, total: seen.append((done, total))
    )
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
    kept = cache.BoundaryCache(halves, View(halves.model, Kind.PADDED))
    kept.fill(token_rows(2, seed=1))
    with pytest.raises(TrainerError, match="not those of the cache"):
        kept.hidden(batches.batch(token_rows(2, seed=2), [0, 1], packing=True))


def test_a_tail_of_all_layers_has_no_frozen_half(load: Load) -> None:
    with pytest.raises(TrainerError, match="every layer trains"):
        Halves(load("llama").model, Boundary(0, 5))


def test_memory_that_ends_during_the_fill_halves_the_portion(load: Load) -> None:
    halves = Halves(load("llama").model, EDGE)
    true_capture = halves.capture
    sizes: list[int] = []

    def tight(inputs: Any) -> torch.Tensor:
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > 64:
            raise torch.OutOfMemoryError("no memory")
        return true_capture(inputs)

    rows = token_rows(8, length=20)
    expected = cache.BoundaryCache(halves, View(halves.model, Kind.PADDED))
    expected.fill(rows, batch_tokens=40)
    halves.capture = tight  # type: ignore[method-assign]  # a fault
    kept = cache.BoundaryCache(halves, View(halves.model, Kind.PADDED))
    kept.fill(rows, batch_tokens=200)
    assert max(sizes) > 64
    assert torch.equal(kept.states(7), expected.states(7))
    with pytest.raises(OutOfMemory, match="a row of 70 tokens"):
        kept.fill(token_rows(1, length=70))


DEMAND = cache.Demand(EDGE, hidden_size=32, tokens=1000, epochs=3, available_bytes=1 << 30)


def test_a_cache_is_used_where_it_saves_time_and_fits() -> None:
    decided = cache.plan(DEMAND)
    assert decided.use
    assert decided.size_bytes == 1000 * 32 * 4
    assert decided.reason == "3 of 5 layers run once per row instead of 3 times"
    assert cache.plan(replace(DEMAND, dtype=torch.bfloat16)).size_bytes == 1000 * 32 * 2


AGAINST: dict[str, tuple[dict[str, Any], str]] = {
    "disabled": ({"mode": CacheMode.DISABLED}, "Disabled"),
    "all layers": ({"boundary": Boundary(0, 5)}, "every layer trains"),
    "one epoch": ({"epochs": 1}, "read once only"),
    "volume": ({"medium": CacheMedium.VOLUME}, "in memory only"),
    "limit": ({"limit_bytes": 1000}, "sizeLimit is 0.0 MiB"),
    "memory": ({"available_bytes": 200_000}, "0.1 MiB of memory may be used"),
}


@pytest.mark.parametrize("case", AGAINST)
def test_no_cache_where_it_would_not_pay_or_not_fit_and_the_reason_is_said(case: str) -> None:
    changes, reason = AGAINST[case]
    decided = cache.plan(replace(DEMAND, **changes))
    assert not decided.use
    assert reason in decided.reason


@pytest.mark.parametrize("case", ["all layers", "volume", "limit", "memory"])
def test_an_enabled_cache_that_cannot_be_used_is_an_error(case: str) -> None:
    changes, reason = AGAINST[case]
    with pytest.raises(UserInputError, match="activation cache cannot be used") as refused:
        cache.plan(replace(DEMAND, mode=CacheMode.ENABLED, **changes))
    assert reason in refused.value.message


def test_an_enabled_cache_is_filled_even_for_one_epoch() -> None:
    assert cache.plan(replace(DEMAND, mode=CacheMode.ENABLED, epochs=1)).use


def shared(rows: Sequence[TokenRow], *begin: int) -> list[TokenRow]:
    """The same rows behind a common beginning."""
    learnt = (False,) * len(begin)
    return [replace(row, ids=(*begin, *row.ids), trained=(*learnt, *row.trained)) for row in rows]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3", "mistral"])
def test_what_rows_begin_with_runs_and_is_kept_once_and_the_states_are_the_same(
    family: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SHARED_TOKENS", 30)
    rows = shared(token_rows(9), 7, 9, 11, 13, 15, 17)
    base = load(family)
    halves = Halves(base.model, EDGE)
    apart = cache.BoundaryCache(halves, View(base.model, Kind.PADDED))
    apart.fill(rows)
    seen: list[int] = []
    real = halves.capture

    def counted(given: Mapping[str, Any]) -> torch.Tensor:
        seen.append(given["input_ids"].numel())
        return real(given)

    monkeypatch.setattr(halves, "capture", counted)
    together = cache.BoundaryCache(halves, View(base.model, Kind.LINE, attention.windows(base.model)))
    together.fill(rows)
    own = sum(row.read_tokens - 6 for row in rows)
    assert sum(seen) == together.tokens == own + 6
    for index, row in enumerate(rows):
        states = together.states(index)
        assert len(states) == row.read_tokens < len(row.ids)
        torch.testing.assert_close(states, apart.states(index)[: len(states)], rtol=0, atol=2e-5)


def test_rows_that_come_later_find_what_is_kept_however_it_is_shared(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows appended later may share more or fewer of their first tokens than the ones before did."""
    monkeypatch.setattr(cache, "SHARED_TOKENS", 8)
    base = load("llama")
    halves, kept = Halves(base.model, EDGE), cache.Memory()
    view = View(base.model, Kind.LINE, attention.windows(base.model))
    rows = shared(token_rows(6), 7, 9, 11, 13, 15, 17)
    cache.BoundaryCache(halves, view, kept).fill(rows)
    more = [*rows, *shared(token_rows(2, seed=5), 7, 9, 12), *shared(token_rows(2, seed=6), 7, 9, 11, 13, 15, 17)]
    filled: list[int] = []
    again = cache.BoundaryCache(halves, view, kept)
    again.fill(more, progress=lambda _, total: filled.append(total))
    assert set(filled) == {4}
    fresh = cache.BoundaryCache(halves, view)
    fresh.fill(more)
    for index in range(len(more)):
        torch.testing.assert_close(again.states(index), fresh.states(index), rtol=0, atol=2e-5)
