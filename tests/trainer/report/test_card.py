"""The model card: facts, in the front matter that model hubs read, and nothing of a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from tests.trainer.report import reports
from topcoat.api.report import EvaluationReport
from topcoat_trainer.report import card

CANARY = "canary-7f3a"


def _front_matter(text: str) -> dict[str, object]:
    return dict(yaml.safe_load(text.split("---")[1]))


def test_the_front_matter_names_base_model_library_and_tags() -> None:
    adapter = _front_matter(card.render(reports.promoted(), "lora"))
    assert adapter["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert adapter["library_name"] == "peft"
    assert adapter["tags"] == ["topcoat", "last-layers", "lora"]
    assert _front_matter(card.render(reports.promoted(), "tail"))["library_name"] == "transformers"


@pytest.mark.parametrize("kind", ["lora", "tail"])
def test_the_code_in_the_card_is_python_that_loads_the_files_of_its_kind(kind: card.Kind) -> None:
    code = re.findall(r"```python\n(.*?)```", card.render(reports.promoted(), kind), re.DOTALL)
    assert len(code) == 1
    ast.parse(code[0])
    assert ("tail.safetensors" in code[0]) == (kind == "tail")


@pytest.mark.parametrize("report", [reports.promoted(), reports.rejected(), reports.inconclusive(), reports.hostile()])
def test_every_score_stands_with_its_interval_and_its_rows(report: EvaluationReport) -> None:
    text = card.render(report, "lora")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len([score for score in report.scores if score.metric == report.metric])
    assert {line.count("|") for line in lines} == {7}
    assert " rows)" in text


def test_what_speaks_against_the_model_is_said() -> None:
    said = " ".join(card.limitations(reports.inconclusive()))
    for words in (
        "verdict is Inconclusive",
        "34 held-out rows only",
        "3 held-out rows are very like",
        "9 rows were cut",
    ):
        assert words in said
    assert "Least often right" in " ".join(card.limitations(reports.promoted()))


def test_the_values_that_were_trained_with_are_named() -> None:
    line = reports.lineage().model_copy(update={"learning_rate": 0.0008, "rank": 32})
    assert "Method LoRA, rank 32, learning rate 0.0008;" in card.render(reports.promoted(lineage=line), "lora")


def test_no_text_of_a_row_stands_in_the_card() -> None:
    pair = reports.pair(1, prompt=CANARY, expected=CANARY, before=CANARY, after=CANARY)
    report = reports.promoted(wins=[pair], losses=[pair], dataset=reports.data_card(system_prompt=CANARY))
    assert CANARY not in card.render(report, "lora")


def test_untrusted_text_has_no_meaning_in_markdown() -> None:
    text = card.render(reports.promoted(rule="<script>x</script> [a](b) | # `code`\n---\nnext"), "lora")
    assert r"\<script\>x\</script\> \[a\](b) \| \# \`code\` --- next" in text


def test_the_card_is_written_whole(tmp_path: Path) -> None:
    card.write(reports.promoted(), "lora", tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == card.render(reports.promoted(), "lora")
