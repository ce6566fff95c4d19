"""Exactly the intended parameters train: by name, by gradient and by digest, in twelve families."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support import tiny_models
from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, freeze, layers, model
from topcoat_trainer.errors import TrainerError, UserInputError

Load = Callable[[str], model.BaseModel]
METHODS = {
    "LoRA": Method(lora=LoRA(rank=8)),
    "DoRA": Method(lora=LoRA(rank=8, use_dora=True, use_rs_lora=True)),
    "Full": Method(type="Full"),
}


def train(tail: adapter.Tail, ids: torch.Tensor, steps: int = 2) -> list[float]:
    """A few steps of AdamW on one batch; the losses."""
    optimizer = torch.optim.AdamW([parameter for _, parameter in tail.parameters()], lr=1e-2)
    losses = []
    for _ in range(steps):
        logits = tail.model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        freeze.prove_gradients(tail.model, tail.proof)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, kind) for family in sorted(tiny_models.FAMILIES) for kind in ("LoRA", "Full")), ("llama", "DoRA")],
)
def test_exactly_the_intended_parameters_train_and_the_rest_keeps_its_bits(
    family: str, kind: str, load: Load, ids: torch.Tensor
) -> None:
    base = load(family)
    own_names = {name for name, _ in base.model.named_parameters()}
    stack_name, _ = layers.named_stack(base.model)
    edge = layers.boundary(base.model, 2, "Chat")
    untouched = freeze.digest(base.model)

    tail = adapter.attach(base, METHODS[kind], edge, seed=1)
    homes = (f"{stack_name}.3.", f"{stack_name}.4.")
    trainable = set(tail.proof.trainable)
    if kind == "Full":
        assert trainable == {name for name in own_names if name.startswith(homes)}
    else:
        present = {name for name, _ in base.model.named_parameters()}
        assert trainable == {name for name in present if ".lora_" in name}
        assert all(name.startswith(homes) for name in trainable)
    frozen = freeze.digest(base.model, tail.proof)
    losses = train(tail, ids)
    assert losses[1] < losses[0]
    assert freeze.digest(base.model, tail.proof) == frozen
    if kind != "Full":
        assert frozen == untouched
    assert all(name in trainable for name, p in base.model.named_parameters() if p.requires_grad)

    tail.detach()
    assert freeze.digest(base.model) == untouched
    assert {name for name, _ in base.model.named_parameters()} == own_names


@pytest.mark.parametrize(("layers_wanted", "trained"), [(1, 1), ("All", 5), ("Auto", 3)])
def test_the_number_of_trained_layers_is_the_one_asked_for(layers_wanted: int | str, trained: int, load: Load) -> None:
    base = load("llama")
    tail = adapter.attach(base, METHODS["LoRA"], layers.boundary(base.model, layers_wanted, "Chat"), seed=1)
    indices = {int(name.split(".layers.")[1].split(".")[0]) for name in tail.proof.trainable}
    assert indices == set(range(5 - trained, 5))


def test_the_proof_counts_parameters(load: Load) -> None:
    base = load("llama")
    total = sum(parameter.numel() for parameter in base.model.parameters())
    proof = adapter.attach(base, METHODS["LoRA"], layers.boundary(base.model, 2, "Chat"), seed=1).proof
    assert proof.total_parameters == total + proof.trainable_parameters
    assert 0 < proof.share < 0.2


def test_a_parameter_that_trains_against_the_rules_is_named(load: Load) -> None:
    base = load("llama")
    edge = layers.boundary(base.model, 2, "Chat")
    adapter.attach(base, METHODS["LoRA"], edge, seed=1)
    base.model.get_input_embeddings().requires_grad_(True)
    with pytest.raises(TrainerError, match=r"model.embed_tokens.weight would train, but must stay frozen"):
        freeze.prove(base.model, edge, METHODS["LoRA"])


def test_a_parameter_that_should_train_and_does_not_is_named(load: Load) -> None:
    base = load("llama")
    edge = layers.boundary(base.model, 2, "Chat")
    tail = adapter.attach(base, METHODS["Full"], edge, seed=1)
    tail.parameters()[0][1].requires_grad_(False)
    with pytest.raises(TrainerError, match="must train, but is frozen"):
        freeze.prove(base.model, edge, METHODS["Full"])


def test_a_base_without_a_tail_proves_nothing(load: Load) -> None:
    base = load("llama")
    with pytest.raises(TrainerError, match="nothing trains"):
        freeze.prove(base.model, layers.boundary(base.model, 2, "Chat"), METHODS["LoRA"])


def test_a_stray_gradient_is_found(load: Load) -> None:
    base = load("llama")
    tail = adapter.attach(base, METHODS["LoRA"], layers.boundary(base.model, 2, "Chat"), seed=1)
    weight = dict(base.model.named_parameters())["model.embed_tokens.weight"]
    weight.grad = torch.zeros_like(weight)
    with pytest.raises(TrainerError, match=r"embed_tokens.weight"):
        freeze.prove_gradients(base.model, tail.proof)


def test_one_changed_number_changes_the_digest(load: Load) -> None:
    base = load("llama")
    before = freeze.digest(base.model)
    weight = dict(base.model.named_parameters())["model.embed_tokens.weight"]
    with torch.no_grad():
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(9.0))
    assert freeze.digest(base.model) != before


def test_weights_shared_with_a_frozen_layer_cannot_be_trained_in_full(load: Load) -> None:
    base = load("llama")
    first, *_, last = layers.stack(base.model)
    first.mlp = last.get_submodule("mlp")
    with pytest.raises(UserInputError, match="share their weights"):
        adapter.attach(base, METHODS["Full"], layers.boundary(base.model, 2, "Chat"), seed=1)
