"""Rows become tensors without seeing one another, in an order that follows from seed and epoch."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from tests.support import courses, tiny_models
from topcoat_trainer import batches, head
from topcoat_trainer import model as models
from topcoat_trainer.batches import Batch, Order, Portion
from topcoat_trainer.example import Example, TokenRow

# transformers does not tell Falcon's mask about position ids.
UNPACKABLE = {"falcon"}


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 4), st.integers(0, 5))
def test_every_row_is_seen_once_an_epoch(rows: int, per_step: int, epochs: int, seed: int) -> None:
    order = Order(rows, per_step, epochs, seed)
    steps = [order.of_step(step) for step in range(order.total_steps)]
    for epoch in range(epochs):
        part = steps[epoch * order.steps_per_epoch : (epoch + 1) * order.steps_per_epoch]
        assert sorted(index for step in part for index in step) == list(range(rows))
    assert order.epochs_done(order.total_steps) == epochs


def test_the_order_depends_on_seed_and_epoch_alone_and_never_changes() -> None:
    # These numbers are part of the promise that an old run can be resumed and an old result repeated.
    assert batches.permutation(8, 0, 0) == (0, 2, 1, 4, 6, 7, 3, 5)
    assert batches.permutation(8, 0, 1) != batches.permutation(8, 0, 0) != batches.permutation(8, 1, 0)


def test_max_steps_may_end_within_an_epoch_or_after_more_steps_than_there_are() -> None:
    assert Order(10, 4, 2, 0, max_steps=4).total_steps == 4
    assert Order(10, 4, 2, 0, max_steps=99).total_steps == 6
    assert Order(10, 4, 2, 0).epochs_done(4) == pytest.approx(1.4)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(1, 9), st.integers(1, 200), st.integers(1, 30))
def test_portions_hold_all_rows_and_keep_their_limits(limit: int, tokens: int, count: int) -> None:
    rows = courses.rows(count)
    parts = Portion(limit, tokens).parts(rows, range(count))
    assert sorted(index for part in parts for index in part) == list(range(count))
    for part in parts:
        assert len(part) <= limit
        assert len(part) == 1 or len(part) * max(len(rows[index].ids) for index in part) <= tokens


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(1, 20), st.integers(0, 99), st.booleans())
def test_a_batch_holds_every_token_once_and_every_learnt_token_as_a_target(
    count: int, seed: int, packing: bool
) -> None:
    rows = courses.rows(count, seed=seed)
    batch = batches.batch(rows, range(count), packing=packing)
    assert batch.tokens == sum(len(row.ids) for row in rows)
    assert len(batch.targets) == batches.learnt_tokens(rows, range(count))
    flat = batch.input_ids.reshape(-1)
    for place, target in zip(batch.selected.tolist(), batch.targets.tolist(), strict=True):
        assert flat[place + 1] == target
    taken = set()
    for segment in batch.segments:
        end = segment.start + segment.length
        assert tuple(batch.input_ids[segment.sequence, segment.start : end].tolist()) == rows[segment.row].ids
        taken |= {(segment.sequence, place) for place in range(segment.start, end)}
        if batch.position_ids is not None:
            assert batch.position_ids[segment.sequence, segment.start : end].tolist() == list(range(segment.length))
    assert len(taken) == batch.tokens
    assert batch.input_ids.shape[1] == max(len(row.ids) for row in rows)


def test_packing_takes_fewer_sequences_than_padding() -> None:
    rows = courses.rows(12)
    packed, padded = (batches.batch(rows, range(12), packing=packing) for packing in (True, False))
    assert packed.input_ids.shape[0] < padded.input_ids.shape[0] == 12


def test_the_first_token_of_a_row_is_never_a_target() -> None:
    rows = [TokenRow((5, 6, 7), (True, True, True), 0, Example(1))] * 2
    batch = batches.batch(rows, [0, 1], packing=True, width=6)
    assert batch.targets.tolist() == [6, 7, 6, 7]
    assert batch.selected.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_packed_rows_compute_as_if_they_were_alone_or_are_not_packed(family: str, tmp_path: Path) -> None:
    model = models.load(courses.tiny(tmp_path / family, family)).model
    rows = courses.rows(6)

    def outputs(batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return head.logits_at(model, batch.inputs(), batch.selected)

    packing = batches.misfit(model, rows, outputs) == ""
    assert packing is (family not in UNPACKABLE)
    batch = batches.batch(rows, range(6), packing=packing)
    alone = torch.cat([outputs(batches.batch(rows, [segment.row], packing=False)) for segment in batch.segments])
    torch.testing.assert_close(outputs(batch), alone, rtol=1e-4, atol=1e-5)
    first = batches.batch(rows, [0], packing=False)
    assert head.misfit(model, first.inputs(), first.selected) == ""


def test_a_model_that_would_let_rows_see_one_another_is_found_out(tmp_path: Path) -> None:
    model = models.load(courses.tiny(tmp_path / "llama")).model

    def blind(batch: Batch) -> torch.Tensor:
        given = {**batch.inputs(), "attention_mask": torch.ones_like(batch.input_ids)}
        with torch.no_grad():
            return head.logits_at(model, given, batch.selected)

    assert "differ" in batches.misfit(model, courses.rows(6), blind)


def test_a_model_without_position_ids_is_padded() -> None:
    class Plain(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return input_ids

    assert "position ids" in batches.misfit(Plain(), courses.rows(3), lambda batch: batch.input_ids)
