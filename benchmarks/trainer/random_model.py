"""A base model with random weights in the shapes of a real one: speed depends on shapes alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

VOCABULARY = 128_256
SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 8},
}
"""Llama 3's of 8 and of 1 billion weights; `tiny` shows that the benchmark runs, and measures nothing."""
KEY_VALUE_HEADS = 8
TOKENIZER_FILES = ("*token*", "*template*")


def make(folder: Path, shape: str, words: Path, *, gpu: bool) -> Path:
    """A model of this shape in `folder`, with the tokenizer in `words`, whose tokens are among its own."""
    # Not before the number of threads is set, which torch reads when it is imported.
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {**SHAPES[shape], "vocab_size": VOCABULARY, "num_key_value_heads": KEY_VALUE_HEADS}
    torch.manual_seed(0)
    with torch.device("cuda" if gpu else "cpu"):
        model: Any = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=shape == "1b", **settings))
        model.to(torch.bfloat16)
    model.save_pretrained(folder)
    for pattern in TOKENIZER_FILES:
        for path in words.glob(pattern):
            shutil.copy(path, folder)
    return folder
