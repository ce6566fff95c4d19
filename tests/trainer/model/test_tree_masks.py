"""Which families take a mask of one's own making: rows that share their beginning, in one sequence with a tree in it.

A table of what was found by trying. Whoever builds on it asks the model itself, as the trial here does.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers

from tests.support import architectures

BEGIN, ENDS = 20, (9, 7)
NEAR = frozenset({"sliding_attention"})

WAYS = {
    # One boolean mask for all layers.
    "ONE": (
        "apertus arcee biogpt bitnet cohere ctrl dbrx deepseek_v2 deepseek_v3 diffllama doge dots1 ernie4_5"
        " ernie4_5_moe falcon flex_olmo gemma glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neox granite granitemoe"
        " granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe jetmoe llama llama4_text minimax_m2"
        " minimax_m3_vl_text mistral mixtral nanochat nemotron olmo olmo2 olmoe opt persimmon phi phi3 phimoe"
        " qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 youtu"
    ),
    # A dict of boolean masks, one for each of `layer_types`; a single mask would be wrong for the others.
    "DICT": (
        "afmoe cohere2 cwm exaone4 exaone_moe gemma3_text gemma4_text kolibri1 laguna mellum ministral"
        " modernbert-decoder olmo3"
    ),
    # Eager attention adds the mask: it must be of numbers, 0 where a token is seen, the least number elsewhere.
    "ONE_OF_NUMBERS": ("codegen gpt_neox_japanese gptj xglm"),
    "DICT_OF_NUMBERS": ("gemma2 gpt_oss mimo_v2_flash vaultgemma"),
    # State that goes from token to token, masks of the family's own (alibi, local windows), no position ids.
    "NONE": (
        "bamba bart bloom falcon_h1 falcon_mamba gpt_neo granitemoehybrid jamba kimi_linear lfm2 lfm3 mamba"
        " mamba2 minimax mpt nemotron_h olmo_hybrid qwen3_5_text qwen3_next recurrent_gemma rwkv xlstm zamba"
        " zamba2"
    ),
}
EXPECTED = {name: way for way, names in WAYS.items() for name in names.split()}
FEW = frozenset({"llama", "gpt2", "mistral", "gemma3_text", "gptj", "gpt_oss", "bloom", "mamba", "falcon"})


class Tree:
    """[beginning][end 1][end 2] as tokens, their positions in their own rows, and who sees whom."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(0)
        self.begin = torch.randint(4, 290, (1, BEGIN), generator=chance)
        self.ends = [torch.randint(4, 290, (1, length), generator=chance) for length in ENDS]
        self.ids = torch.cat([self.begin, *self.ends], dim=1)
        places = [torch.arange(BEGIN), *(torch.arange(BEGIN, BEGIN + length) for length in ENDS)]
        self.positions = torch.cat(places)[None]
        row = torch.cat([torch.full((len(place),), number) for number, place in enumerate(places)])
        total = self.ids.shape[1]
        earlier = torch.ones(total, total, dtype=torch.bool).tril()
        self.seen = earlier & ((row[None] == 0) | (row[None] == row[:, None]))

    def near(self, window: int) -> torch.Tensor:
        """Who sees whom within a window of a row's own positions."""
        return self.seen & (self.positions[0][:, None] - self.positions[0][None] < window)


def numbers(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


def masks(model: transformers.PreTrainedModel, tree: Tree) -> dict[str, Any]:
    """The masks to try, by the name of the table."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None)
    seen = tree.seen[None, None]
    near = tree.near(window)[None, None] if window else seen
    one = near if window and not kinds else seen
    found: dict[str, Any] = {"ONE": one, "ONE_OF_NUMBERS": numbers(one)}
    if kinds:
        each = {kind: near if kind in NEAR else seen for kind in kinds}
        found["DICT"] = each
        found["DICT_OF_NUMBERS"] = {kind: numbers(mask) for kind, mask in each.items()}
    return found


@torch.no_grad()
def apart(model: transformers.PreTrainedModel, tree: Tree, mask: Any) -> float:
    """How far logits of the tree are from those of the rows alone, as a share of the largest; inf where it fails."""
    alone = [model(input_ids=torch.cat([tree.begin, end], dim=1), use_cache=False).logits[0] for end in tree.ends]
    wanted = torch.cat([alone[0][:BEGIN], *(logits[BEGIN:] for logits in alone)])
    try:
        given = {"input_ids": tree.ids, "position_ids": tree.positions, "attention_mask": mask}
        logits = model(**given, use_cache=False).logits[0]
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        return float("inf")
    return float((logits - wanted).abs().max() / wanted.abs().max())


@functools.cache
def taken(name: str) -> str:
    """The first way of saying the tree that gives each row its own logits; NONE if there is none."""
    model, tree = architectures.make(name), Tree()
    tried = masks(model, tree)
    order = ["ONE", "DICT", "ONE_OF_NUMBERS", "DICT_OF_NUMBERS"]
    return next((way for way in order if way in tried and apart(model, tree, tried[way]) < 1e-4), "NONE")


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.exhaustive) for name in architectures.NAMES],
)
def test_each_family_takes_the_mask_of_the_table(name: str) -> None:
    assert taken(name) == EXPECTED[name]


def test_a_causal_mask_in_the_place_of_the_tree_is_told_apart() -> None:
    model, tree = architectures.make("llama"), Tree()
    total = tree.ids.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool).tril()[None, None]
    assert apart(model, tree, causal) > 1e-3
    assert apart(model, tree, tree.seen[None, None]) < 1e-4


def test_every_family_is_in_the_table_once() -> None:
    assert sum(len(names.split()) for names in WAYS.values()) == len(EXPECTED)
    assert set(EXPECTED) == set(architectures.NAMES)
