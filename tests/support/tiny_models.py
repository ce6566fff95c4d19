"""Tiny random language models of many families, saved as a company would download them: safetensors, JSON, tokenizer.

For tests only. The weights are random but seeded; nothing is fetched. `make(family, folder)` writes one in ~0.1 s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
WORDS = ("the", "and", "system", "user", "assistant", "claim", "label", "answer")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAYERS = 5
HIDDEN = 32
POSITIONS = 512

GQA: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}


@dataclass(frozen=True, slots=True)
class Family:
    """A model type of transformers and the configuration of its tiny member."""

    config_class: str
    options: dict[str, Any] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaConfig", GQA),
    "qwen3": Family("Qwen3Config", {**GQA, "head_dim": 8, "tie_word_embeddings": True}),
    "gemma3": Family(
        "Gemma3TextConfig",
        {
            **GQA,
            "head_dim": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2,
            "query_pre_attn_scalar": 8,
        },
    ),
    "mistral": Family("MistralConfig", {**GQA, "head_dim": 8, "sliding_window": None}),
    "phi3": Family("Phi3Config", {**GQA, "resid_pdrop": 0.0}),
    "gpt2": Family(
        "GPT2Config",
        {
            "n_embd": HIDDEN,
            "n_layer": LAYERS,
            "n_head": 4,
            "n_positions": POSITIONS,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "gpt_neox": Family("GPTNeoXConfig", {k: v for k, v in GQA.items() if k != "num_key_value_heads"}),
    "olmo2": Family("Olmo2Config", GQA),
    "granite": Family("GraniteConfig", {**GQA, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
    "falcon": Family(
        "FalconConfig",
        {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "ffn_hidden_size": 64,
            "new_decoder_architecture": True,
            "max_position_embeddings": POSITIONS,
        },
    ),
    "stablelm": Family("StableLmConfig", GQA),
    "mixtral": Family("MixtralConfig", {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2}),
}


def tokenizer(chat_template: str | None = CHATML) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer: any text goes in and comes out unchanged; `<|im_end|>` ends a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        grown = word[0]
        for letter in word[1:]:
            merge = (grown, letter)
            grown += letter
            if grown not in vocabulary:
                vocabulary[grown] = len(vocabulary)
                merges.append(merge)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    kind: Any = transformers.PreTrainedTokenizerFast
    made: transformers.PreTrainedTokenizerFast = kind(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        model_max_length=POSITIONS,
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    if chat_template is not None:
        made.chat_template = chat_template
    return made


def config(family: str, vocabulary_size: int, **changes: Any) -> transformers.PretrainedConfig:
    """The tiny configuration of a family; `changes` wins over the table."""
    row = FAMILIES[family]
    ids = {"vocab_size": vocabulary_size, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3}
    kind = getattr(transformers, row.config_class)
    made: transformers.PretrainedConfig = kind(**{**ids, **row.options, **changes})
    return made


def make(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    chat_template: str | None = CHATML,
    shard_bytes: int = 0,
    **changes: Any,
) -> Path:
    """Write the tiny model of `family` with its tokenizer into `folder` and return it. `shard_bytes` > 0 splits it."""
    words = tokenizer(chat_template)
    settings = config(family, len(words), **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        factory: Any = transformers.AutoModelForCausalLM
        model = factory.from_config(settings, dtype=torch.float32)
        for parameter in model.parameters():  # the usual start leaves biases and norms flat, which hides mistakes
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, **({"max_shard_size": shard_bytes} if shard_bytes else {}))
    words.save_pretrained(folder)
    return folder
