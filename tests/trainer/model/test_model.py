"""Loading: all weights from the files, nothing trainable, no code, no network; a wrong model is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from tests.support import tiny_models
from topcoat_trainer import layers, model
from topcoat_trainer.errors import BaseModelError


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_a_model_loads_with_its_weights_unchanged_and_nothing_trainable(
    family: str, folder: Callable[[str], Path], ids: torch.Tensor
) -> None:
    base = model.load(folder(family))
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder(family), local_files_only=True)
    assert torch.equal(base.model(ids).logits, stock(ids).logits)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training
    assert base.digest == model.inspect(folder(family)).digest
    assert base.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_the_decoder_stack_of_each_family_is_found(family: str, load: Callable[[str], model.BaseModel]) -> None:
    name, stack = layers.named_stack(load(family).model)
    assert len(stack) == tiny_models.LAYERS
    assert name in {"model.layers", "transformer.h", "gpt_neox.layers"}


def test_a_bf16_load_is_bf16(folder: Callable[[str], Path]) -> None:
    assert model.load(folder("llama"), dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_weights_that_are_not_in_the_files_are_never_made_up(llama: Path) -> None:
    path = llama / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["model.layers.3.mlp.up_proj.weight"]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"1 weights are missing.*layers\.3\.mlp\.up_proj"):
        model.load(llama)


def test_weights_of_another_shape_are_refused(llama: Path) -> None:
    path = llama / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["model.norm.weight"] = torch.ones(7)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"cannot be loaded|another shape"):
        model.load(llama)


def test_a_model_type_that_the_libraries_do_not_know_is_refused_by_name(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "model_type": "quux"}))
    with pytest.raises(BaseModelError, match="'quux' cannot be loaded"):
        model.load(llama)


def test_a_tokenizer_without_an_end_token_is_refused(llama: Path) -> None:
    path = llama / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "eos_token": None}))
    with pytest.raises(BaseModelError, match="no end-of-text token"):
        model.load(llama)


def test_a_tokenizer_that_cannot_be_read_is_refused_before_the_weights_are_loaded(llama: Path) -> None:
    (llama / "tokenizer.json").write_text('{"model": {"type": "Nonsense", "vocab": {"a": 1}}}')
    with pytest.raises(BaseModelError, match="tokenizer cannot be loaded"):
        model.load(llama)


def test_an_unsafe_model_is_refused_before_anything_is_loaded(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("was loaded")
    )
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("was loaded"))
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(BaseModelError, match="auto_map"):
        model.load(llama)


def test_only_the_tail_is_in_training_mode(load: Callable[[str], model.BaseModel]) -> None:
    base = load("gpt2")
    edge = layers.boundary(base.model, 2, "Chat")
    layers.training_mode(base.model, edge)
    training = {name for name, module in base.model.named_modules() if module.training}
    assert training
    assert all(name.startswith(("transformer.h.3", "transformer.h.4")) for name in training)
