"""The factory itself: every family is written as stock transformers reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tests.support import tiny_models


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_a_tiny_model_of_each_family_is_written_and_read_back(family: str, tmp_path: Path) -> None:
    folder = tiny_models.make(family, tmp_path / family)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert isinstance(model, transformers.PreTrainedModel)
    assert model.config.get_text_config().num_hidden_layers == tiny_models.LAYERS
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_tokenizer_gives_any_text_back_unchanged() -> None:
    words = tiny_models.tokenizer()
    text = "the claim: café 雨 <&>\n"
    assert words.decode(words(text)["input_ids"]) == text
