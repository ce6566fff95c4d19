"""The trained part leaves as stock PEFT files, comes back with the same numbers, and never marks the base."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch
import transformers

from tests.support import tiny_models
from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, freeze, model
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import Corrupt, TrainerError, UserInputError

Load = Callable[[str], model.BaseModel]
METHODS = {
    "LoRA": Method(lora=LoRA(rank=8)),
    "DoRA": Method(lora=LoRA(rank=8, use_dora=True, use_rs_lora=True)),
    "Full": Method(type="Full"),
}
EDGE = Boundary(3, 5)
CASES = [*((family, "LoRA") for family in sorted(tiny_models.FAMILIES)), ("llama", "DoRA"), ("gpt2", "DoRA")]


def trained(base: model.BaseModel, method: Method, edge: Boundary = EDGE, seed: int = 1) -> adapter.Tail:
    """A tail whose numbers have moved, as training would move them."""
    tail = adapter.attach(base, method, edge, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in tail.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    base.model.eval()
    return tail


@pytest.mark.parametrize(("family", "kind"), [*CASES, *((family, "Full") for family in sorted(tiny_models.FAMILIES))])
def test_an_exported_tail_comes_back_with_identical_logits_and_leaves_no_mark(
    family: str, kind: str, load: Load, ids: torch.Tensor, tmp_path: Path
) -> None:
    base = load(family)
    plain, untouched = base.model(ids).logits, freeze.digest(base.model)
    modules = [name for name, _ in base.model.named_modules()]
    tail = trained(base, METHODS[kind])
    tuned = base.model(ids).logits
    assert not torch.equal(tuned, plain)
    adapter.export(tail, tmp_path, "org/tiny")
    tail.detach()
    for _ in range(2):
        with adapter.using(base, tmp_path) as borrowed:
            assert torch.equal(borrowed(ids).logits, tuned)
        with adapter.using(base, None) as borrowed:
            assert torch.equal(borrowed(ids).logits, plain)
    assert freeze.digest(base.model) == untouched
    assert [name for name, _ in base.model.named_modules()] == modules
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_stock_peft_loads_the_export_without_a_warning_and_with_identical_logits(
    family: str, kind: str, folder: Callable[[str], Path], ids: torch.Tensor, tmp_path: Path
) -> None:
    base = model.load(folder(family))
    tail = trained(base, METHODS[kind])
    tuned = base.model(ids).logits
    adapter.export(tail, tmp_path, "org/tiny")
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder(family), local_files_only=True)
    with warnings.catch_warnings():
        # Not about our files: PEFT asks transformers for a property by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        loaded = peft.PeftModel.from_pretrained(stock, tmp_path).eval()
    assert torch.equal(loaded(ids).logits, tuned)


def test_only_tensors_of_the_last_layers_are_in_the_file(load: Load, tmp_path: Path) -> None:
    for kind, method in METHODS.items():
        tail = trained(load("llama"), method)
        weights, _ = adapter.export(tail, tmp_path / kind, "org/tiny")
        names = list(safetensors.torch.load_file(weights))
        assert names
        assert all(".layers.3." in name or ".layers.4." in name for name in names)


def test_the_configuration_names_the_base_by_its_id_and_the_layers(load: Load, tmp_path: Path) -> None:
    base = load("gpt2")
    _, config = adapter.export(trained(base, METHODS["LoRA"]), tmp_path, "org/tiny")
    content = json.loads(config.read_text())
    assert content["base_model_name_or_path"] == "org/tiny"
    assert content["layers_to_transform"] == [3, 4]
    assert content["layers_pattern"] == "h"
    assert content["fan_in_fan_out"] is True
    assert content["inference_mode"] is True
    assert content["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    assert str(base.path) not in config.read_text()


@pytest.mark.parametrize("kind", METHODS)
def test_equal_tensors_give_equal_bytes(kind: str, load: Load, tmp_path: Path) -> None:
    written = []
    for attempt in ("a", "b"):
        files = adapter.export(trained(load("llama"), METHODS[kind]), tmp_path / attempt, "org/tiny")
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]


def test_the_seed_decides_how_an_adapter_starts(load: Load) -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        tail = adapter.attach(load("llama"), METHODS["LoRA"], EDGE, seed)
        return {name: tensor.clone() for name, tensor in tail.state().items()}

    first, again, other = start(1), start(1), start(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_attaching_draws_nothing_from_the_global_generator(load: Load) -> None:
    base = load("llama")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    adapter.attach(base, METHODS["LoRA"], EDGE, seed=1)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("kind", METHODS)
def test_a_tails_state_can_be_saved_and_put_back(kind: str, load: Load, ids: torch.Tensor) -> None:
    tail = trained(load("llama"), METHODS[kind])
    tuned = tail.model(ids).logits
    saved = {name: tensor.clone() for name, tensor in tail.state().items()}
    tail.detach()
    other = adapter.attach(load("llama"), METHODS[kind], EDGE, seed=9)
    other.load_state(saved)
    other.model.eval()
    assert torch.equal(other.model(ids).logits, tuned)
    with pytest.raises(Corrupt, match="not this tail's"):
        other.load_state({"x": torch.zeros(1)})


def test_an_adapter_trains_in_fp32_beside_a_bf16_base(
    folder: Callable[[str], Path], ids: torch.Tensor, tmp_path: Path
) -> None:
    base = model.load(folder("llama"), dtype=torch.bfloat16)
    tail = trained(base, METHODS["LoRA"])
    assert {parameter.dtype for _, parameter in tail.parameters()} == {torch.float32}
    tuned = base.model(ids).logits
    adapter.export(tail, tmp_path, "org/tiny")
    tail.detach()
    with adapter.using(base, tmp_path) as borrowed:
        assert torch.equal(borrowed(ids).logits, tuned)


def test_named_target_modules_are_used_and_no_other(load: Load) -> None:
    method = Method(lora=LoRA(rank=8, target_modules=("q_proj", "mlp.down_proj")))
    tail = adapter.attach(load("llama"), method, EDGE, seed=1)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tail.proof.trainable} == {"q_proj", "down_proj"}


def test_a_target_module_that_does_not_exist_is_refused_with_the_nearest_name(load: Load) -> None:
    method = Method(lora=LoRA(target_modules=("q_porj",)))
    with pytest.raises(UserInputError, match=r"'q_porj'.*did you mean 'q_proj'.*up_proj"):
        adapter.attach(load("llama"), method, EDGE, seed=1)


def test_fused_experts_are_left_out_and_said_so(load: Load) -> None:
    tail = adapter.attach(load("mixtral"), METHODS["LoRA"], EDGE, seed=1)
    assert tail.targets == ("k_proj", "o_proj", "q_proj", "v_proj")
    assert "experts" in tail.notes[0]
    assert adapter.attach(load("llama"), METHODS["LoRA"], EDGE, seed=1).notes == ()


def test_two_tails_at_once_are_refused(load: Load, tmp_path: Path) -> None:
    base = load("llama")
    tail = trained(base, METHODS["LoRA"])
    adapter.export(tail, tmp_path, "org/tiny")
    with pytest.raises(TrainerError, match="still attached"):
        adapter.attach(base, METHODS["LoRA"], EDGE, seed=1)
    with pytest.raises(TrainerError, match="still attached"), adapter.using(base, tmp_path):
        pass
    tail.detach()
    tail.detach()
    with adapter.using(base, tmp_path), pytest.raises(TrainerError, match="still attached"):
        adapter.attach(base, METHODS["LoRA"], EDGE, seed=1)


def test_an_error_inside_using_leaves_the_base_as_it_was(load: Load, ids: torch.Tensor, tmp_path: Path) -> None:
    base = load("llama")
    plain = base.model(ids).logits
    for kind, method in METHODS.items():
        tail = trained(base, method)
        adapter.export(tail, tmp_path / kind, "org/tiny")
        tail.detach()
        with pytest.raises(RuntimeError, match="boom"), adapter.using(base, tmp_path / kind):
            raise RuntimeError("boom")
        assert torch.equal(base.model(ids).logits, plain)
