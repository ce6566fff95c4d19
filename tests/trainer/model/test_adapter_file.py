"""Exported weights that do not fit the base are refused by file and tensor, before the model is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, model
from topcoat_trainer.adapter_file import LORA, TAIL, Kind, check
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import BaseModelError, Corrupt, Diverged, TrainerError

Q_A = "base_model.model.model.layers.4.self_attn.q_proj.lora_A.weight"
Q_B = "base_model.model.model.layers.4.self_attn.q_proj.lora_B.weight"
OWN_Q = "model.layers.4.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def base(folder: Callable[[str], Path]) -> model.BaseModel:
    return model.load(folder("llama"))


@pytest.fixture(scope="module")
def exported(base: model.BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    for kind, method in (("lora", Method(lora=LoRA(rank=8))), ("tail", Method(type="Full"))):
        tail = adapter.attach(base, method, Boundary(3, 5), seed=1)
        with torch.no_grad():
            for _, parameter in tail.parameters():
                parameter.add_(0.01)
        adapter.export(tail, root / kind, "org/tiny")
        tail.detach()
    return root


def rewrite(folder: Path, kind: Kind, **changes: torch.Tensor | None) -> None:
    """Writes the weights anew with tensors changed, added, or (None) taken out; dots are spelled as __."""
    path = folder / kind.weights
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    for key, value in changes.items():
        name = key.replace("__", ".")
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    safetensors.torch.save_file(tensors, path, metadata=metadata)


def spelled(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


def lora(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / "lora", LORA, **changes)


def tail(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / "tail", TAIL, **changes)


def config(kind: Kind, folder_name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / folder_name / kind.config
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def cut(kind: Kind, folder_name: str) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        path = folder / folder_name / kind.weights
        path.write_bytes(path.read_bytes()[:-3])

    return shorten


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def all_zero(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "lora" / LORA.weights)
    rewrite(
        folder / "lora",
        LORA,
        **{name.replace(".", "__"): torch.zeros_like(tensor) for name, tensor in tensors.items() if ".lora_B." in name},
    )


def without_last_layer(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "lora" / LORA.weights)
    rewrite(folder / "lora", LORA, **{name.replace(".", "__"): None for name in tensors if ".layers.4." in name})


def u(name: str) -> str:
    return name.replace(".", "__")


NAN = torch.full((8, 32), float("nan"))
INFINITE = torch.full((32, 32), float("inf"))
CASES: dict[str, tuple[str, Callable[[Path], object], type[TrainerError], str]] = {
    "no configuration": ("lora", gone("lora/adapter_config.json"), Corrupt, "adapter_config.json: the file is missing"),
    "no weights": (
        "lora",
        gone("lora/adapter_model.safetensors"),
        Corrupt,
        "adapter_model.safetensors: the file is missing",
    ),
    "broken configuration": ("lora", spelled("lora/adapter_config.json", "{"), Corrupt, "not valid JSON"),
    "configuration is a list": (
        "lora",
        spelled("lora/adapter_config.json", "[]"),
        Corrupt,
        "not a JSON object",
    ),
    "truncated": ("lora", cut(LORA, "lora"), Corrupt, "cut short: 3 bytes"),
    "truncated tail": ("tail", cut(TAIL, "tail"), Corrupt, "cut short: 3 bytes"),
    "layer that does not exist": (
        "lora",
        config(LORA, "lora", layers_to_transform=[3, 9]),
        Corrupt,
        "layer 9 does not exist",
    ),
    "no layers listed": ("lora", config(LORA, "lora", layers_to_transform=None), Corrupt, "does not list its layers"),
    "tensor of an unlisted layer": (
        "lora",
        config(LORA, "lora", layers_to_transform=[4]),
        Corrupt,
        "layers.3.*belongs to no layer",
    ),
    "layer without tensors": ("lora", without_last_layer, Corrupt, "layer 4 is listed, but has no tensor"),
    "rank mismatch": ("lora", config(LORA, "lora", r=16), Corrupt, r"has the shape \[8, .*but \[16, "),
    "no rank": ("lora", config(LORA, "lora", r="8"), Corrupt, "names no rank"),
    "wrong shape": (
        "lora",
        lora(**{u(Q_A): torch.ones(8, 31)}),
        Corrupt,
        r"q_proj.lora_A.weight has the shape \[8, 31\]",
    ),
    "half of a pair": ("lora", lora(**{u(Q_B): None}), Corrupt, "q_proj.lora_B.weight is missing"),
    "whole weight": ("lora", lora(lm_head__weight=torch.ones(2)), Corrupt, "lm_head.weight is not part of a LoRA"),
    "module that does not exist": (
        "lora",
        lora(**{u(Q_A.replace("q_proj", "qq")): torch.ones(8, 32)}),
        Corrupt,
        "qq does not exist",
    ),
    "module that is not linear": (
        "lora",
        lora(**{u(Q_A.replace(".q_proj", "")): torch.ones(8, 32)}),
        Corrupt,
        "self_attn.lora",
    ),
    "integers": ("lora", lora(**{u(Q_A): torch.ones(8, 32, dtype=torch.int32)}), Corrupt, "has the dtype I32"),
    "NaN": ("lora", lora(**{u(Q_A): NAN}), Diverged, "q_proj.lora_A.weight holds numbers that are not finite"),
    "infinity in a tail": (
        "tail",
        tail(**{u(OWN_Q): INFINITE}),
        Diverged,
        "q_proj.weight holds numbers that are not finite",
    ),
    "all zero": ("lora", all_zero, Diverged, "all zero"),
    "tail of a layer that does not exist": (
        "tail",
        config(TAIL, "tail", layers=[3, 5]),
        Corrupt,
        "layer 5 does not exist",
    ),
    "tail with a tensor too few": ("tail", tail(**{u(OWN_Q): None}), Corrupt, "q_proj.weight is missing"),
    "tail with a foreign tensor": ("tail", tail(lm_head__weight=torch.ones(2)), Corrupt, "lm_head.weight has no place"),
    "tail with a wrong shape": ("tail", tail(**{u(OWN_Q): torch.ones(2, 2)}), Corrupt, r"has the shape \[2, 2\]"),
    "tail of an unlisted layer": ("tail", config(TAIL, "tail", layers=[4]), Corrupt, "belongs to no layer"),
}


def without_q(folder: Path) -> None:
    """Both halves gone: each tensor that is left is right, but the configuration promises more."""
    tensors = safetensors.torch.load_file(folder / "lora" / LORA.weights)
    rewrite(folder / "lora", LORA, **{u(name): None for name in tensors if "q_proj" in name})


@pytest.mark.parametrize("breakage", [without_q, config(LORA, "lora", target_modules=["nope"])], ids=["less", "other"])
def test_a_configuration_that_does_not_fit_its_weights_leaves_the_base_as_it_was(
    breakage: Callable[[Path], None], exported: Path, folder: Callable[[str], Path], ids: torch.Tensor, tmp_path: Path
) -> None:
    own = model.load(folder("llama"))
    modules, plain = [name for name, _ in own.model.named_modules()], own.model(ids).logits
    shutil.copytree(exported, tmp_path / "v")
    breakage(tmp_path / "v")
    with pytest.raises(Corrupt, match="adapter_config"), adapter.using(own, tmp_path / "v" / "lora"):
        pytest.fail("was put on")
    assert [name for name, _ in own.model.named_modules()] == modules
    assert torch.equal(own.model(ids).logits, plain)
    with adapter.using(own, exported / "lora") as tuned:
        assert not torch.equal(tuned(ids).logits, plain)


def test_what_was_exported_is_accepted(exported: Path, base: model.BaseModel) -> None:
    facts = check(exported / "lora", base)
    assert (facts.kind, facts.layers, facts.rank, facts.base_id) == (LORA, (3, 4), 8, "org/tiny")
    assert check(exported / "tail", base).kind is TAIL


@pytest.mark.parametrize("case", CASES)
def test_weights_that_do_not_fit_are_refused_by_name(
    case: str, exported: Path, base: model.BaseModel, tmp_path: Path
) -> None:
    kind, breakage, error, message = CASES[case]
    shutil.copytree(exported, tmp_path / "v")
    breakage(tmp_path / "v")
    with pytest.raises(error, match=message), adapter.using(base, tmp_path / "v" / kind):
        pytest.fail("was put on")
    assert not any(".lora_" in name for name, _ in base.model.named_parameters())


@pytest.mark.parametrize("kind", ["lora", "tail"])
def test_weights_of_another_base_are_refused(kind: str, exported: Path, folder: Callable[[str], Path]) -> None:
    with pytest.raises(BaseModelError, match="trained on another base model"):
        check(exported / kind, model.load(folder("mistral")))
