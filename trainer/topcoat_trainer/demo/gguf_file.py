"""Reads the demo's GGUF file (a Llama with 4-bit weights) as plain tensors and a plain configuration.

Knows this one architecture. By way of transformers' own loader the weights would stay packed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch

# GGUF's name of a weight -> Llama's.
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def opened(path: Path) -> Any:
    """The file's reader; opening takes seconds, for it lists the whole vocabulary."""
    import gguf

    return gguf.GGUFReader(path)


def tensors(reader: Any) -> dict[str, torch.Tensor]:
    """All weights by Llama's names, in bfloat16. The output layer is the embedding's: it is not stored twice."""
    import gguf
    import torch

    heads = {"attn_q": _number(reader, "attention.head_count"), "attn_k": _number(reader, "attention.head_count_kv")}
    found: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        own = tensor.name.split(".")[-2]
        if own in heads:
            weights = _unpaired(weights, heads[own])
        found[_name(tensor.name)] = torch.tensor(weights).to(torch.bfloat16)
    return found


def _name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{INSIDE[parts[2]]}.weight"
    return f"{OUTSIDE[parts[0]]}.weight"


def _unpaired(weights: numpy.ndarray[Any, Any], heads: int) -> numpy.ndarray[Any, Any]:
    """GGUF lays the two halves that rotary embedding turns side by side; Llama keeps one after the other."""
    half = weights.shape[0] // heads // 2
    return weights.reshape(heads, half, 2, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def config(reader: Any) -> dict[str, Any]:
    """The words of Llama's config.json."""
    tokenizer = {name: _number(reader, f"{name}_token_id", "tokenizer.ggml") for name in ("bos", "eos", "padding")}
    width, heads = _number(reader, "embedding_length"), _number(reader, "attention.head_count")
    return {
        "hidden_size": width,
        "intermediate_size": _number(reader, "feed_forward_length"),
        "num_hidden_layers": _number(reader, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(reader, "attention.head_count_kv"),
        "head_dim": width // heads,
        "max_position_embeddings": _number(reader, "context_length"),
        "vocab_size": _number(reader, "vocab_size"),
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(_number(reader, "rope.freq_base"))},
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer["bos"],
        "eos_token_id": tokenizer["eos"],
        "pad_token_id": tokenizer["padding"],
    }


def _number(reader: Any, key: str, section: str = "llama") -> int:
    return int(reader.get_field(f"{section}.{key}").contents())
