"""A harness that others evaluate models with finds, through the server, what the model itself says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.serve.conftest import LABELS, Shop
from tests.support import lm_eval, served
from topcoat_trainer import adapter

TEXTS = (
    "a fence fell",
    "water in the house",
    "the cat and the car",
    "Wo ist der Schaden? ü",
    "x",
    "label: claim 7, answer",
)


def files(folder: Path) -> dict[str, Any]:
    rows = [{"text": f"Claim: {text}\nLabel:", "label": place % len(LABELS)} for place, text in enumerate(TEXTS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test", "doc_to_text": "{{text}}", "num_fewshot": 0,
    }  # fmt: skip


def likelihood(shop: Shop, version: str, context: str, answer: str) -> tuple[float, bool]:
    """Of the answer after its context, by stock transformers and PEFT in one pass; and whether it is the likeliest."""
    tokenizer: Any = shop.base.tokenizer
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    ids = tokenizer(context + answer, add_special_tokens=False)["input_ids"]
    with adapter.using(shop.base, shop.folder(version)) as model, torch.no_grad():
        table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    places = range(len(before), len(ids))
    own = [float(table[place - 1, ids[place]]) for place in places]
    return sum(own), all(int(table[place - 1].argmax()) == ids[place] for place in places)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "version"), [pytest.param("secret", "v1", marks=pytest.mark.exhaustive), ("claims--v3", "v3")]
)
def test_lm_eval_finds_the_models_own_likelihoods(
    server: served.Server, shop: Shop, tmp_path: Path, model: str, version: str
) -> None:
    task = files(tmp_path)
    asked = {
        "model": model, "base_url": f"{server.url}/completions", "tokenizer": shop.base.path,
        "tokenizer_backend": "huggingface", "max_length": 512, "num_concurrent": 2, "max_retries": 1,
        "auth_token": "open-sesame",
    }  # fmt: skip
    choosing = {"output_type": "multiple_choice", "doc_to_choice": LABELS, "doc_to_target": "{{label}}"}
    writing = {
        "output_type": "generate_until",
        "doc_to_target": "x",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8},
    }
    found = lm_eval.evaluated(
        tmp_path,
        asked,
        {
            "choosing": {**task, **choosing, "metric_list": [{"metric": "acc"}]},
            "writing": {**task, **writing, "metric_list": [{"metric": "exact_match"}]},
        },
    )
    assert (len(found["choosing"]), len(found["writing"])) == (len(TEXTS), len(TEXTS))
    for row in found["choosing"]:
        for (said, greedy), call in zip(row["filtered_resps"], row["arguments"].values(), strict=True):
            own, likeliest = likelihood(shop, version, call["arg_0"], call["arg_1"])
            assert float(said) == pytest.approx(own, abs=1e-4)
            assert str(greedy) == str(likeliest)
    for row in found["writing"]:
        ids = shop.base.tokenizer(row["arguments"]["gen_args_0"]["arg_0"])["input_ids"]
        made = served.greedy(shop.base, shop.folder(version), ids, 8)
        kept = made[: made.index(2)] if 2 in made else made
        text = str(shop.base.tokenizer.decode(kept, skip_special_tokens=True))
        assert row["resps"][0][0] == text.split("\n\n", maxsplit=1)[0]
