"""Prompts in one line are answered as padded ones are, on every family that bears it, and halves change no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.support import tiny_models
from tests.trainer.evaluate.test_batched_answers import ENDS, labels, prompts
from topcoat_trainer import layers
from topcoat_trainer.evaluate import choice, generate, metric, reading
from topcoat_trainer.evaluate.frozen import Frozen
from topcoat_trainer.evaluate.prompt import Plan
from topcoat_trainer.sequel import Memory

# Its attention is its own, and asks nobody.
NOT_IN_A_LINE = frozenset({"falcon"})
PLENTY = 1 << 30


def loaded(family: str, folder: Path) -> Any:
    factory: Any = transformers.AutoModelForCausalLM
    model = factory.from_pretrained(tiny_models.make(family, folder), dtype=torch.float32).eval()
    for parameter in model.parameters():  # peaked distributions: a wrong mask must show
        if parameter.dim() > 1:
            parameter.data.mul_(3)
    return model


@pytest.fixture(scope="module", params=sorted(tiny_models.FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(request.param, tmp_path_factory.mktemp(request.param))


def test_rows_in_a_line_get_the_labels_and_scores_of_padded_rows(model: Any) -> None:
    rows, options = prompts(30), labels()
    plan = reading.plan_for(model, rows)
    assert (plan.windows is None) == (model.config.model_type in NOT_IN_A_LINE)
    wanted = tuple(i % len(options) for i in range(len(rows)))
    asked = choice.Labels(options, wanted)
    lined, padded = choice.choose(model, rows, asked, plan), choice.choose(model, rows, asked, Plan())
    assert [one.label for one in lined] == [one.label for one in padded]
    for one, other, want in zip(lined, padded, wanted, strict=True):
        assert one.scores[want] == pytest.approx(other.scores[want], abs=1e-3)
    stop = generate.Stop(ENDS, 6)
    assert generate.generate(model, rows, stop, plan) == generate.generate(model, rows, stop, Plan())


def test_what_the_frozen_layers_made_serves_other_weights_behind_them_bit_for_bit(model: Any) -> None:
    rows = prompts(20)
    plan = reading.plan_for(model, rows)
    frozen = reading.frozen_or_none(model, rows, plan, 3, PLENTY)
    if plan.windows is None:
        assert frozen is None
        return
    assert frozen is not None
    stop = generate.Stop(ENDS, 5)

    def answered(kept: Frozen | None) -> tuple[list[torch.Tensor], list[list[int]]]:
        logits, said = [], []
        for batch in reading.read(model, rows, plan, kept):
            logits.append(batch.logits)
            said += generate.continued(model, batch, stop)
        return logits, said

    before = answered(frozen)
    with torch.no_grad():
        for parameter in layers.stack(model)[3].parameters():
            parameter.mul_(1.5)
    after, whole = answered(frozen), answered(None)
    assert not torch.equal(before[0][0], after[0][0])
    assert all(map(torch.equal, after[0], whole[0]))
    assert after[1] == whole[1]


def test_states_beyond_the_limit_are_computed_again_and_not_kept(tmp_path: Path) -> None:
    model, rows = loaded("llama", tmp_path), prompts(20)
    plan = reading.plan_for(model, rows)
    frozen = reading.frozen_or_none(model, rows, plan, 3, 10_000)
    assert frozen is not None
    first, again = ([batch.logits for batch in reading.read(model, rows, plan, frozen)] for _ in range(2))
    assert frozen.size_bytes == 0
    assert all(map(torch.equal, first, again))


def test_no_split_is_tried_where_every_layer_differs(tmp_path: Path) -> None:
    model, rows = loaded("llama", tmp_path), prompts(20)
    plan = reading.plan_for(model, rows)
    assert reading.frozen_or_none(model, rows, plan, 0, PLENTY) is None
    assert reading.frozen_or_none(model, rows, Plan(), 3, PLENTY) is None


class Leaking(torch.nn.Module):
    """A layer that looks at what lies before the boundary, past it."""

    def __init__(self, inner: Any, before: Any) -> None:
        super().__init__()
        self.inner, self.kept = inner, torch.zeros(1)
        before.register_forward_hook(self.keep)

    def keep(self, _: Any, __: Any, found: torch.Tensor) -> None:
        self.kept = found.sum()

    def forward(self, hidden: torch.Tensor, *more: Any, **options: Any) -> Any:
        kept, self.kept = self.kept, torch.zeros(1)
        return self.inner(hidden, *more, **options) + kept


def test_a_model_that_cannot_be_split_is_read_whole(tmp_path: Path) -> None:
    model, rows = loaded("llama", tmp_path), prompts(20)
    plan = reading.plan_for(model, rows)
    stack = layers.stack(model)
    stack[4] = Leaking(stack[4], stack[0])
    assert reading.frozen_or_none(model, rows, plan, 3, PLENTY) is None


def test_a_model_whose_attention_is_its_own_is_not_put_in_a_line(tmp_path: Path) -> None:
    model, rows = loaded("llama", tmp_path), prompts(20)
    right = model.forward
    model.forward = lambda input_ids, position_ids=None, **more: right(input_ids=input_ids, **more)
    assert reading.plan_for(model, rows).windows is None


def test_few_short_texts_ride_with_longer_ones_and_many_go_apart() -> None:
    few, many = [2, 0, 1, 2, 1], [2] * 60 + [1] * 60
    assert reading.text_groups(few) == [[0, 3, 2, 4]]
    groups = reading.text_groups(many)
    assert sorted(i for group in groups for i in group) == list(range(120))
    assert len(groups) == 2
    assert max(len(group) * 300 for group in reading.text_groups([300] * 9)) <= reading.MOST_TOKENS


def test_a_memory_that_grows_leaves_what_was_taken_from_it_as_it_was() -> None:
    memory = Memory()
    memory.put(0, torch.ones(3, 1, 2), torch.ones(3, 1, 2))
    memory.put(1, torch.ones(3, 1, 2), torch.ones(3, 1, 2))
    early = memory.beginning(1)
    memory.settle(3)
    memory.put(0, torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
    memory.settle(1)
    early.settle(3)
    early.put(0, torch.full((1, 1, 2), 7.0), torch.zeros(1, 1, 2))
    assert memory.seen(0)[0][:4, 0, 0].tolist() == [1, 1, 1, 0]
    assert early.seen(0)[0][:4, 0, 0].tolist() == [1, 1, 1, 7]
    with pytest.raises(KeyError):
        early.seen(1)


@pytest.mark.parametrize("label", ["mental", "Skin rash", '"eyes"', "O'Neill & Sons", "Straße", "naïve"])
def test_an_answer_that_becomes_a_label_is_never_given_up_on_the_way(label: str) -> None:
    wanted = frozenset({metric.letters(label), metric.letters("traffic")})
    for answer in (label, f"  {label.upper()}. ", f'"{label}!"', f"“{label}” ;", label.replace(" ", "\n ")):
        if metric.label_or_none(answer, [label]) is not None:
            assert all(metric.may_become(answer[:end], wanted) for end in range(len(answer) + 1))
    assert not metric.may_become(f"{label} x", wanted)
    assert not metric.may_become("The claim", wanted)
