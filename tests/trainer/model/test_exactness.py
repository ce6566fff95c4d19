"""Training from kept states gives the bits of training the whole model, for every architecture that the cache accepts.

A few run in `make test`, all of them in `make test-slow`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

import pytest
import torch

from tests.support import architectures, exactness
from tests.support.exactness import Trial
from topcoat_trainer import batches, freeze, layers
from topcoat_trainer.batches import Batch
from topcoat_trainer.cache import check, states
from topcoat_trainer.errors import BaseModelError, UserInputError
from topcoat_trainer.halves import Halves
from topcoat_trainer.view import Kind, View

FEW = frozenset(
    ["llama", "mixtral", "qwen3_5_text", "gemma3_text", "gpt2", "bloom", "falcon", "deepseek_v3", "mamba", "zamba2"]
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROWS = exactness.rows(12)
# Their layers share a block with frozen ones, so it cannot be trained alone.
SHARED_WEIGHTS = {"zamba", "zamba2"}
EVEN_ROWS = exactness.rows(8, length=16)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def every(names: Iterable[str]) -> list[object]:
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.exhaustive) for name in sorted(names)]


@functools.lru_cache(maxsize=2)
def uncached(name: str, kind: str, precision: str) -> tuple[list[Batch], list[bytes]]:
    """The batches, packed where the family allows it, and the bits of training on them with all layers."""
    trial = Trial(name, kind, DTYPES[precision])
    parts = (range(6), range(6, 12), range(6))
    steps = [batches.batch(ROWS, part, packing=trial.packing) for part in parts]
    return steps, trial.bits(steps, exactness.whole)


def losses(bits: list[bytes]) -> list[float]:
    return [struct.unpack("f", one)[0] for one in bits]


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", every(architectures.NAMES))
def test_training_from_kept_states_is_training_the_whole_model_bit_for_bit(name: str, precision: str) -> None:
    """With dropout in the tail and lengths mixed; each batch's own state is kept and used again."""
    steps, whole = uncached(name, "LoRA", precision)
    trial = Trial(name, "LoRA", DTYPES[precision])
    kept = {id(batch): trial.capture(batch) for batch in steps}
    assert trial.bits(steps, lambda batch: trial.halves.injected(kept[id(batch)])) == whole


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", sorted(FEW))
def test_the_same_holds_where_the_last_layers_train_in_full(name: str, precision: str) -> None:
    try:
        steps, whole = uncached(name, "Full", precision)
    except UserInputError as error:
        assert "share their weights" in error.message  # noqa: PT017  # refused, with the reason
        assert name in SHARED_WEIGHTS
        return
    trial = Trial(name, "Full", DTYPES[precision])
    kept = {id(batch): trial.capture(batch) for batch in steps}
    assert trial.bits(steps, lambda batch: trial.halves.injected(kept[id(batch)])) == whole


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", every(architectures.NAMES))
def test_a_filled_cache_gives_the_same_bits_where_rows_keep_their_company(name: str, precision: str) -> None:
    steps = [batches.batch(EVEN_ROWS, range(start, start + 4), packing=False) for start in (0, 4, 0)]
    whole = Trial(name, "LoRA", DTYPES[precision]).bits(steps, exactness.whole)
    trial = Trial(name, "LoRA", DTYPES[precision])
    filled = states.BoundaryCache(trial.halves, View(trial.tail.model, Kind.PADDED))
    with exactness.computing(trial.dtype):
        states.fill([filled], EVEN_ROWS, tokens=64)
    filled.hold(EVEN_ROWS)
    assert trial.bits(steps, filled.around) == whole


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", every(architectures.NAMES))
def test_a_cache_that_is_opened_is_exact_and_trains_as_without_it(name: str, precision: str) -> None:
    """Rows are filled in other company than they are trained in: losses may differ by rounding, and by no more."""
    steps, whole = uncached(name, "LoRA", precision)
    trial = Trial(name, "LoRA", DTYPES[precision])
    before = freeze.digest(trial.tail.model)
    view = View(trial.tail.model, Kind.PACKED if trial.packing else Kind.PADDED)
    filled = states.BoundaryCache(trial.halves, view)
    with exactness.computing(trial.dtype):
        why, _ = check.misfit(trial.halves, ROWS, view)
        assert why == ""
        filled.fill(ROWS)
    seen = trial.bits(steps, filled.around)
    near = 1e-3 if trial.dtype is torch.float32 else 3e-2
    assert losses(seen[: len(steps)]) == pytest.approx(losses(whole[: len(steps)]), rel=near)
    assert freeze.digest(trial.tail.model, trial.tail.proof) == before


REFUSED = [
    *((name, "fp32") for name in sorted(architectures.UNFIT)),
    ("zaya", "bf16"),
]


@pytest.mark.parametrize(("name", "precision"), REFUSED)
def test_what_cannot_be_split_is_refused_and_the_reason_is_said(name: str, precision: str) -> None:
    unfit = architectures.UNFIT[name]
    model = architectures.make(name, DTYPES[precision], options=unfit.options)
    try:
        halves = Halves(model, exactness.edge(model))
    except BaseModelError as error:
        assert unfit.words in error.message  # noqa: PT017  # either answer will do
        return
    with exactness.computing(DTYPES[precision]):
        why, _ = check.misfit(halves, ROWS[:6], View(model, Kind.PADDED))
    assert unfit.words in why


def test_the_table_is_of_many_kinds() -> None:
    """A hundred model types, each as small as the others."""
    assert len(architectures.NAMES) >= 100
    assert set(architectures.NAMES) >= FEW
    for name in sorted(FEW):
        model = architectures.make(name)
        assert model.config.get_text_config().hidden_size == architectures.HIDDEN
        assert len(layers.stack(model)) == architectures.LAYERS
        assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
