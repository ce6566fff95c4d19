"""Loads a base model from its folder, after the torch-free inspection has accepted it, and changes nothing in it.

safetensors and JSON only, never over the network, never with code from the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from topcoat_trainer import model_file
from topcoat_trainer.errors import BaseModelError, OutOfMemory
from topcoat_trainer.model_file import ModelFacts, inspect

__all__ = ["BaseModel", "ModelFacts", "inspect", "load", "tokenizer"]

transformers.utils.logging.disable_progress_bar()


@dataclass(slots=True)
class BaseModel:
    """A base model in memory. Everybody leaves `model` as they found it."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    facts: ModelFacts
    device: str
    dtype: torch.dtype
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.facts.path

    @property
    def digest(self) -> str:
        return self.facts.digest

    @property
    def config_digest(self) -> str:
        return self.facts.config_digest


def load(
    path: Path,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    four_bit: bool = False,
    facts: ModelFacts | None = None,
) -> BaseModel:
    """The model in evaluation mode with nothing trainable, and its tokenizer. `dtype` None: FP32."""
    facts = facts or inspect(path)
    words = tokenizer(facts)
    dtype = dtype or torch.float32
    options: dict[str, Any] = {"dtype": dtype}
    if four_bit:
        options["device_map"] = {"": device}  # 4-bit weights are made on the GPU and cannot be moved there later
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    model, notes = _weights(facts, options)
    if not four_bit and device != "cpu":
        _move(facts, model, device)
    if len(words) > cast("torch.nn.Embedding", model.get_input_embeddings()).weight.shape[0]:
        raise BaseModelError(
            f"the tokenizer has {len(words)} tokens, but the model knows fewer",
            where=str(facts.path / model_file.TOKENIZER),
            hint="use the tokenizer that was published with this model",
        )
    model.requires_grad_(requires_grad=False)
    model.eval()
    return BaseModel(model, words, facts, device, dtype, notes)


def tokenizer(facts: ModelFacts) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of an inspected model; it needs no weights."""
    factory: Any = transformers.AutoTokenizer
    try:
        words: transformers.PreTrainedTokenizerBase = factory.from_pretrained(
            facts.path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise BaseModelError(
            f"the tokenizer cannot be loaded ({type(error).__name__})",
            where=str(facts.path / model_file.TOKENIZER),
            hint="put the model's own tokenizer.json and tokenizer_config.json into the folder",
        ) from error
    if words.eos_token_id is None:
        raise BaseModelError(
            "the tokenizer names no end-of-text token, so no answer would ever end",
            where=str(facts.path / "tokenizer_config.json"),
            hint="set eos_token in tokenizer_config.json to the model's end token",
        )
    return words


def _weights(facts: ModelFacts, options: dict[str, Any]) -> tuple[transformers.PreTrainedModel, tuple[str, ...]]:
    """The model with every weight from the files; SDPA attention where the family has it."""
    try:
        return _from_files(facts, {**options, "attn_implementation": "sdpa"}), ()
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise _refusal(facts, error) from error
    return _from_files(facts, {**options, "attn_implementation": "eager"}), (
        "this family has no SDPA attention; the slower eager attention is used",
    )


def _from_files(facts: ModelFacts, options: dict[str, Any]) -> transformers.PreTrainedModel:
    factory: Any = transformers.AutoModelForCausalLM
    try:
        model, info = factory.from_pretrained(
            facts.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("the base model does not fit into memory", where=str(facts.path)) from error
    except ValueError:
        raise
    except Exception as error:
        raise _refusal(facts, error) from error
    # transformers would go on with random numbers in their place.
    lost = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lost:
        raise BaseModelError(
            f"{len(lost)} weights are missing or have another shape, first {lost[0][:200]}",
            where=str(facts.path),
            hint=model_file.FETCH_HINT,
        )
    return model  # type: ignore[no-any-return]  # transformers' factories are untyped


def _move(facts: ModelFacts, model: transformers.PreTrainedModel, device: str) -> None:
    try:
        cast("torch.nn.Module", model).to(device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"the base model does not fit into the memory of {device}", where=str(facts.path)) from error


def _refusal(facts: ModelFacts, error: Exception) -> BaseModelError:
    return BaseModelError(
        f"the model type {facts.model_type[:60]!r} cannot be loaded ({type(error).__name__}: {str(error)[:200]})",
        where=str(facts.path / model_file.CONFIG),
        hint="use a decoder-only model type that the installed transformers version knows",
    )
