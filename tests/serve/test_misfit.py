"""Which models bear the common batch is found out by trying, and said in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from tests.support import tiny_models
from topcoat_trainer.serve import misfit
from topcoat_trainer.serve.attention import Misfit

SIZES: dict[str, Any] = {**tiny_models.GQA, "head_dim": 8, "vocab_size": 300}
WINDOW = {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"], "sliding_window": 7}
ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
STRANGERS = {
    "Gemma2Config": ({**SIZES, "attn_logit_softcapping": 30.0}, "softcap"),
    "MambaConfig": ({"hidden_size": 32, "num_hidden_layers": 5, "vocab_size": 300}, "more than keys and values"),
    "LlamaConfig": ({**SIZES, "rope_parameters": ROPE}, "dynamic RoPE"),
    "GptOssConfig": ({**SIZES, "num_local_experts": 4}, "s_aux"),
}


def model(kind: str, sizes: dict[str, Any]) -> Any:
    factory: Any = transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return factory.from_config(getattr(transformers, kind)(**sizes), dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_cannot_be_right_in_a_batch_is_refused_and_named(kind: str) -> None:
    sizes, words = STRANGERS[kind]
    with pytest.raises(Misfit, match=words):
        misfit.build(model(kind, sizes))


def test_a_window_is_known_for_each_layer() -> None:
    build = misfit.build(model("Gemma3TextConfig", {**SIZES, **WINDOW, "query_pre_attn_scalar": 8}))
    assert build.windows == [7, None, 7, None, 7]
    assert (build.shape.layers, build.shape.heads, build.shape.key_size) == (5, 2, 8)


def test_it_is_known_where_tokens_stand_even_behind_heads() -> None:
    build = misfit.build(model("Gemma3TextConfig", {**SIZES, "query_pre_attn_scalar": 8}))
    assert build.dims["model.layers.4.self_attn.q_norm"].arguments == (2,)
    assert build.dims["model.layers.4.mlp.up_proj"].results == (1,)
