"""One call for many versions' low-rank shares gives every token its own version's, and nothing of another's."""

from __future__ import annotations

import random

import pytest
import torch

from topcoat_trainer.serve import stack
from topcoat_trainer.serve.stack import Pair
from topcoat_trainer.serve.table import Grid, Product, Stretch, Table

INPUTS, OUTPUTS = 24, 40


def pairs(ranks: dict[str, int]) -> dict[str, Pair]:
    return {key: Pair(torch.randn(rank, INPUTS), torch.randn(rank, OUTPUTS)) for key, rank in ranks.items()}


def table(tokens: list[tuple[str | None, int]]) -> Table:
    stretches, line = [], 0
    for key, count in tokens:
        stretches.append(Stretch(line, line + count, key))
        line += count
    return Table(stretches, torch.device("cpu"))


def expected(made: Table, known: dict[str, Pair], inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    found = outputs.clone()
    for stretch in made.stretches:
        if stretch.key in known:
            own, pair = slice(stretch.start, stretch.stop), known[stretch.key]
            found[own] += inputs[own] @ pair.down.t() @ pair.up
    return found


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_of_versions_ranks_and_tokens(seed: int) -> None:
    chance = random.Random(seed)
    torch.manual_seed(seed)
    known = pairs({f"v{number}": chance.choice([4, 8]) for number in range(chance.randint(1, 12))})
    some = chance.sample([*known, None, "full"], chance.randint(1, len(known) + 2))
    made = table([(key, chance.choice([1, 1, 1, 2, 7, 15, 16, 40])) for key in some])
    inputs = torch.randn(made.stretches[-1].stop, INPUTS)
    outputs = torch.randn(len(inputs), OUTPUTS)
    wanted = expected(made, known, inputs, outputs)
    for one in stack.stacks(known):
        one.add(made, inputs, outputs)
    torch.testing.assert_close(outputs, wanted, atol=1e-5, rtol=1e-5)


def test_versions_with_few_tokens_are_one_call_and_those_with_many_have_their_own() -> None:
    made = table([("a", 1), ("b", 3), ("c", 1), ("d", 90)])
    found = made.products(("a", "b", "c", "d"))
    assert [type(one) for one in found] == [Product, Grid]
    grid = found[1]
    assert isinstance(grid, Grid)
    assert (grid.places, grid.width) == (None, 3)
    # Of two, one alone needs no grid; of many that are idle, nothing is read.
    assert [type(one) for one in made.products(("a", "d"))] == [Product, Product]
    idle = made.products(("a", "b", *(f"idle{number}" for number in range(9))))[0]
    assert isinstance(idle, Grid)
    assert idle.places is not None
    assert idle.places.tolist() == [0, 1]


def test_what_another_version_or_an_idle_one_holds_does_not_matter() -> None:
    known = pairs({"a": 4, "b": 4, "broken": 4, "idle": 4})
    made = table([("a", 2), ("b", 1), ("broken", 1)])
    inputs = torch.randn(4, INPUTS)
    wanted = expected(made, known, inputs, torch.zeros(4, OUTPUTS))
    for key in ("broken", "idle"):
        known[key].down.fill_(torch.inf)
    inputs[3] = torch.nan
    outputs = torch.zeros(4, OUTPUTS)
    stack.stacks(known)[0].add(made, inputs, outputs)
    torch.testing.assert_close(outputs[:3], wanted[:3])


def test_the_share_is_added_in_the_adapters_precision_and_rounded_once() -> None:
    known = pairs({"a": 4, "b": 4})
    made = table([("a", 1), ("b", 1)])
    inputs, outputs = torch.randn(2, INPUTS).bfloat16(), torch.randn(2, OUTPUTS).bfloat16()
    wanted = expected(made, known, inputs.float(), outputs.float()).bfloat16()
    stack.stacks(known)[0].add(made, inputs, outputs)
    assert torch.equal(outputs, wanted)
