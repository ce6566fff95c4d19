"""Packed layers compute as plain ones within rounding, give their weights back bit for bit, and cost no memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from topcoat_trainer import packed
from topcoat_trainer.packed import SIZES, PackedLinear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
WIDTHS = [(64, 64), (576, 192), (100, 7), (1, 3)]


def layer(inputs: int, outputs: int, *, bias: bool = False, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), WIDTHS)
def test_it_computes_as_before_for_any_number_of_tokens(inputs: int, outputs: int, bias: bool) -> None:
    plain = layer(inputs, outputs, bias=bias)
    made: Any = copy.deepcopy(plain)
    assert packed.pack(made)
    assert isinstance(made, PackedLinear)
    with torch.inference_mode():
        for tokens in [*range(1, 70), *SIZES, SIZES[-1] + 1, 3 * SIZES[-1] + 23]:
            lines = torch.randn(tokens, inputs)
            torch.testing.assert_close(made(lines), plain(lines), atol=1e-5, rtol=1e-5)
        for shape in [(2, 3, inputs), (1, 1, 40, inputs), (inputs,)]:
            lines = torch.randn(shape)
            torch.testing.assert_close(made(lines), plain(lines), atol=1e-5, rtol=1e-5)
        assert made(torch.empty(0, inputs)).shape == (0, outputs)


def test_what_stands_beside_a_token_does_not_change_it_much_and_rest_lines_never() -> None:
    """The rest of a line is filled up with zeros, which must not reach anybody; nor must others' infinities."""
    made: Any = layer(64, 32)
    packed.pack(made)
    lines = torch.randn(21, 64)
    with torch.inference_mode():
        alone = made(lines[:1])
        broken = lines.clone()
        broken[1:] = torch.inf
        torch.testing.assert_close(made(broken)[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), WIDTHS)
def test_the_plain_layer_comes_back_bit_for_bit(inputs: int, outputs: int) -> None:
    plain = layer(inputs, outputs, bias=True)
    made: Any = copy.deepcopy(plain)
    packed.pack(made)
    packed.unpack(made)
    assert type(made) is nn.Linear
    assert torch.equal(made.weight, plain.weight)
    assert vars(made).keys() == vars(plain).keys()
    packed.unpack(made)
    assert torch.equal(made.weight, plain.weight)


class Model(nn.Module):
    """An embedding whose weight is the head's, two layers, and one that is not plain."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.layers = nn.ModuleList([layer(16, 16, seed=1), layer(16, 16, seed=2)])
        self.coarse = layer(16, 16).to(torch.bfloat16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.words.weight


def test_a_whole_model_is_packed_and_a_shared_weight_stays_for_those_who_share_it() -> None:
    model: Any = Model()
    words, weight = model.words.weight.clone(), model.layers[0].weight.clone()
    assert packed.pack_all(model) == 3
    assert type(model.coarse) is nn.Linear
    assert model.head.weight is model.words.weight
    assert torch.equal(model.words.weight, words)
    # Nobody takes the place's filling for a weight, and it takes no memory.
    assert model.layers[0].weight.shape == weight.shape
    assert model.layers[0].weight.isnan().all()
    assert model.layers[0].weight.untyped_storage().nbytes() == weight.element_size()
    for module in model.modules():
        packed.unpack(module)
    assert model.head.weight is model.words.weight
    assert torch.equal(model.layers[0].weight, weight)


def test_where_onednn_computes_wrongly_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were one product wrong, all of the model stays as it was."""
    model: Any = Model()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    right = PackedLinear._product

    def wrong(self: PackedLinear, lines: torch.Tensor) -> torch.Tensor:
        return right(self, lines) * (1.001 if self.out_features == 50 else 1)

    monkeypatch.setattr(PackedLinear, "_product", wrong)
    assert packed.pack_all(model) == 0
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_where_torch_has_no_such_operator_any_more_nothing_is_packed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: Any) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", gone)
    made: Any = layer(16, 16)
    assert not packed.pack(made)
    assert type(made) is nn.Linear
    assert "oneDNN" in caplog.text
