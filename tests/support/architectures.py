"""Tiny random members of a hundred model types of transformers, made in memory, for what must hold for all of them.

For tests only; `tiny_models` makes the few that are saved as folders. `make(name)` takes a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

LAYERS = 4
HIDDEN = 32
VOCABULARY = 300
POSITIONS = 256

Options = dict[str, Any]

PLAIN: Options = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}
GQA: Options = {**PLAIN, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS: Options = {"num_local_experts": 4, "num_experts_per_tok": 2}
MANY_EXPERTS: Options = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
GPT: Options = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": POSITIONS}
SLIDING = ["sliding_attention", "full_attention"] * 2
MIXED = {"layer_types": SLIDING, "sliding_window": 16}
LATENT: Options = {
    **PLAIN,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
DELTA: Options = {
    **LINEAR,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA: Options = {
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}

KINDS: dict[str, Options] = {
    "llama": GQA,
    "mistral": {**GQA, "sliding_window": 16},
    "ministral": {**GQA, **MIXED},
    "mixtral": {**GQA, **EXPERTS},
    "qwen2": GQA,
    "qwen2_moe": {**GQA, **MANY_EXPERTS},
    "qwen3": GQA,
    "qwen3_moe": {**GQA, **MANY_EXPERTS},
    "qwen3_next": {
        **GQA,
        **MANY_EXPERTS,
        **DELTA,
    },
    "qwen3_5_text": {
        **GQA,
        **DELTA,
    },
    "gemma": GQA,
    "gemma2": {**GQA, **MIXED, "query_pre_attn_scalar": 8},
    "gemma3_text": {**GQA, **MIXED, "query_pre_attn_scalar": 8},
    "gemma4_text": {
        **GQA,
        **MIXED,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 8,
    },
    "phi": {**PLAIN, "num_key_value_heads": 4},
    "phi3": GQA,
    "phimoe": {**GQA, **EXPERTS},
    "gpt2": GPT,
    "gpt_neo": {
        "hidden_size": HIDDEN,
        "num_layers": LAYERS,
        "num_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": POSITIONS,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 16,
    },
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_neox": PLAIN,
    "gpt_neox_japanese": {**PLAIN, "intermediate_multiple_size": 2},
    "gpt_bigcode": GPT,
    "gpt_oss": {**GQA, **EXPERTS, **MIXED},
    "opt": {**PLAIN, "ffn_dim": 48, "word_embed_proj_dim": HIDDEN},
    "bloom": {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4},
    "falcon": {**PLAIN, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 48},
    "mpt": {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": POSITIONS, "expansion_ratio": 2},
    "codegen": {**GPT, "rotary_dim": 4},
    "olmo": GQA,
    "olmo2": GQA,
    "olmo3": {**GQA, **MIXED},
    "olmoe": {**GQA, **MANY_EXPERTS},
    "granite": {**GQA, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "granitemoe": {**GQA, **EXPERTS},
    "granitemoeshared": {**GQA, **EXPERTS, "shared_intermediate_size": 24},
    "granitemoehybrid": {
        **GQA,
        **EXPERTS,
        **MAMBA,
        "shared_intermediate_size": 24,
        "layer_types": ["mamba", "attention"] * 2,
    },
    "stablelm": GQA,
    "starcoder2": GQA,
    "cohere": GQA,
    "cohere2": {**GQA, **MIXED},
    "persimmon": PLAIN,
    "nemotron": GQA,
    "nemotron_h": {k: v for k, v in GQA.items() if k != "num_hidden_layers"}
    | {
        "layers_block_type": ["mamba", "mlp", "mamba", "attention"],
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "chunk_size": 16,
        "n_routed_experts": 4,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24,
    },
    "glm": GQA,
    "glm4": GQA,
    "glm4_moe": {**LATENT, "num_key_value_heads": 2, "head_dim": 8},
    "ernie4_5": GQA,
    "ernie4_5_moe": {**GQA, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24},
    "smollm3": {**GQA, "no_rope_layers": [1, 0, 1, 0]},
    "exaone4": {**GQA, **MIXED},
    "helium": GQA,
    "deepseek_v2": {**LATENT, "topk_method": "greedy"},
    "deepseek_v3": LATENT,
    "minimax": {**GQA, **EXPERTS, **LINEAR, "block_size": 16},
    "dbrx": {
        "d_model": HIDDEN,
        "n_layers": LAYERS,
        "n_heads": 4,
        "max_seq_len": POSITIONS,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 24, "hidden_size": HIDDEN, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "jetmoe": {**GQA, **EXPERTS, "kv_channels": 8},
    "diffllama": GQA,
    "bamba": {**GQA, **MAMBA, "attn_layer_indices": [1, 3]},
    "zamba": {
        **PLAIN,
        "num_key_value_heads": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        **PLAIN,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "chunk_size": 16,
        "adapter_rank": 4,
    },
    "mamba": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 8},
    "mamba2": {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "falcon_mamba": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 8},
    "jamba": {
        **GQA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 8,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "falcon_h1": {**GQA, **MAMBA, "mamba_d_ssm": 64},
    "recurrent_gemma": {**GQA, "lru_width": HIDDEN, "attention_window_size": 16},
    "rwkv": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "context_length": POSITIONS},
    "xlstm": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_heads": 4},
    "lfm2": {**GQA, "layer_types": ["conv", "full_attention"] * 2},
    "hunyuan_v1_dense": GQA,
    "seed_oss": GQA,
    "arcee": GQA,
    "apertus": GQA,
    "vaultgemma": {**GQA, **MIXED, "query_pre_attn_scalar": 8},
    "xglm": {
        "d_model": HIDDEN,
        "num_layers": LAYERS,
        "attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": POSITIONS,
    },
    "biogpt": PLAIN,
    "bitnet": GQA,
    "doge": GQA,
    "dots1": {
        **GQA,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 24,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "flex_olmo": {**GQA, **MANY_EXPERTS},
    "minimax_m2": {**GQA, **EXPERTS},
    "nanochat": GQA,
    "modernbert-decoder": {**PLAIN, **MIXED},
    "cwm": {**GQA, **MIXED},
    "hunyuan_v1_moe": {**GQA, "num_experts": 4, "moe_topk": 2},
    "afmoe": {**GQA, **MANY_EXPERTS, **MIXED},
    "llama4_text": {**GQA, **EXPERTS, "intermediate_size_mlp": 48},
    "ctrl": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "dff": 48, "n_positions": POSITIONS},
    "bart": {
        "d_model": HIDDEN,
        "decoder_layers": LAYERS,
        "encoder_layers": LAYERS,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": POSITIONS,
        "is_decoder": True,
    },
    "kimi_linear": {**LATENT, "q_lora_rank": None, "num_local_experts": 4, "linear_head_dim": 8, "linear_num_heads": 4},
    "mimo_v2_flash": {
        **GQA,
        **MIXED,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
    "lfm3": {**GQA, "layer_types": ["conv", "sliding_attention", "conv", "full_attention"], "sliding_window": 16},
    "laguna": {**GQA, **MANY_EXPERTS, **MIXED},
    "kolibri1": {**GQA, **MANY_EXPERTS, **MIXED},
    "exaone_moe": {**GQA, **MANY_EXPERTS, **MIXED, "sliding_window_pattern": 2},
    "youtu": {k: v for k, v in LATENT.items() if "expert" not in k and "group" not in k},
    "mellum": {**GQA, **MANY_EXPERTS, **MIXED},
    "olmo_hybrid": {**GQA, "layer_types": ["linear_attention", "full_attention"] * 2},
    "solar_open": {**GQA, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "minimax_m3_vl_text": {
        **GQA,
        **EXPERTS,
        "dense_intermediate_size": 48,
        "shared_intermediate_size": 24,
        "rotary_dim": 4,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 8,
        "index_topk_blocks": 2,
    },
}
NAMES = tuple(sorted(KINDS))


@dataclass(frozen=True, slots=True)
class Unfit:
    """A model type that is trained without a cache, or not at all. `words` are said to the user, `reason` is ours."""

    options: Options
    reason: str
    words: str


UNFIT: dict[str, Unfit] = {
    "gemma3n_text": Unfit(
        {
            **GQA,
            **MIXED,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "laurel_rank": 4,
            "intermediate_size": [48] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "altup_num_inputs": 2,
        },
        "the hidden state has one more axis, for its alternating updates",
        "this family cannot be split",
    ),
    "xlnet": Unfit(
        {"d_model": HIDDEN, "n_layer": LAYERS, "n_head": 4, "d_inner": 48},
        "tokens are the first axis of the hidden state",
        "self-check failed",
    ),
    "openai-gpt": Unfit(GPT, "layers answer with lists", "meet a batch of"),
    "zaya": Unfit(
        {**GQA, "num_experts": 4, "moe_intermediate_size": 24, "router_hidden_size": 16},
        "a layer's router sees the router before it",
        "the split pass differs from the whole one by",
    ),
    "glm_moe_dsa": Unfit(
        {**LATENT, "index_topk": 8, "index_head_dim": 8, "index_n_heads": 2, "head_dim": 4},
        "which tokens are attended to depends on the filling",
        "influence one another",
    ),
    "deepseek_v32": Unfit(
        {**LATENT, "index_topk": 8, "index_head_dim": 8, "index_n_heads": 2, "head_dim": 4},
        "which tokens are attended to depends on the filling",
        "influence one another",
    ),
    "hy_v4": Unfit(
        {**LATENT, "index_topk": 8, "index_head_dim": 8, "index_n_heads": 2, "head_dim": 4},
        "several streams of hidden states",
        "this family cannot be split",
    ),
    "reformer": Unfit(
        {
            "hidden_size": HIDDEN,
            "is_decoder": True,
            "axial_pos_embds_dim": (16, 16),
            "axial_pos_shape": (16, 16),
            "num_attention_heads": 4,
            "attention_head_size": 8,
            "feed_forward_size": 48,
            "attn_layers": ["local", "lsh"] * 2,
            "num_buckets": 4,
            "lsh_attn_chunk_length": 16,
            "local_attn_chunk_length": 16,
            "max_position_embeddings": POSITIONS,
        },
        "two streams of hidden states",
        "this family cannot be split",
    ),
    "longcat_flash": Unfit(LATENT, "each layer is two", "0 lists of 4 layers"),
    "gemma4_text": Unfit(
        {**KINDS["gemma4_text"], "num_kv_shared_layers": 2},
        "last layers use the keys and values of earlier ones",
        "this family cannot be split",
    ),
}


def config(name: str, options: Options | None = None) -> transformers.PretrainedConfig:
    """The tiny configuration of a model type, with `options` in place of those of the table."""
    factory: Any = transformers.AutoConfig
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3}
    made: transformers.PretrainedConfig = factory.for_model(name, **{**ids, **(options or KINDS[name])})
    return made


def make(
    name: str, dtype: torch.dtype = torch.float32, *, seed: int = 0, options: Options | None = None
) -> transformers.PreTrainedModel:
    """The tiny model in evaluation mode with nothing trainable; SDPA attention where the family has it."""
    factory: Any = transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = factory.from_config(config(name, options), dtype=dtype, attn_implementation="sdpa")
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            model = factory.from_config(config(name, options), dtype=dtype, attn_implementation="eager")
        for parameter in model.parameters():  # the usual start leaves biases and norms flat, which hides mistakes
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.requires_grad_(requires_grad=False)
    made: transformers.PreTrainedModel = model.eval()
    return made
