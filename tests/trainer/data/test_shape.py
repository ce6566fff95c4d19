"""The words of OpenAI, TRL, Alpaca and ShareGPT, and a company's own columns, become one form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.data import broken
from topcoat.api.dataset import Columns, Format
from topcoat_trainer.data import dataset, shape
from topcoat_trainer.example import Example
from topcoat_trainer.source import local_file

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read(folder: Path, *rows: Any, name: str = "rows.jsonl", **reading: Any) -> dataset.Table:
    path = folder / name
    path.write_bytes(broken.parquet(list(rows)) if name.endswith("parquet") else broken.jsonl(*rows))
    return dataset.read(local_file(path), dataset.Reading(**reading))


def pairs(row: Example) -> list[tuple[str, str, bool]]:
    return [(turn.role, turn.content, turn.trained) for turn in row.messages]


@pytest.mark.parametrize(
    ("row", "kind", "raw"),
    [
        ({"messages": TURNS}, Format.CHAT, False),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, Format.CHAT, False),
        ({"prompt": "q", "completion": "a"}, Format.PROMPT_COMPLETION, True),
        ({"question": "q", "answer": "a"}, Format.PROMPT_COMPLETION, True),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, Format.PROMPT_COMPLETION, False),
        ({"instruction": "q", "output": "a"}, Format.INSTRUCTION, False),
        ({"instruction": "q", "input": "", "output": "a"}, Format.INSTRUCTION, False),
        ({"text": "q", "label": "a"}, Format.CLASSIFICATION, False),
        ({"sentence": "q", "category": "a", "id": 5}, Format.CLASSIFICATION, False),
        ({"text": "q", "label": 3, "label_text": "a"}, Format.CLASSIFICATION, False),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, TURNS[1]]}, Format.CHAT, False),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_known_words_are_recognised(row: dict[str, Any], kind: Format, raw: bool, name: str, tmp_path: Path) -> None:
    if name.endswith("parquet") and "type" in str(row):
        pytest.skip("a column has one type")
    table = read(tmp_path, row, name=name)
    assert table.problems == ()
    assert table.format is kind
    [made] = table.examples
    assert pairs(made) == [("user", "q", False), ("assistant", "a", True)]
    assert made.raw_prompt is raw


def test_plain_text_and_its_synonyms(tmp_path: Path) -> None:
    assert read(tmp_path, {"text": "abc"}).examples[0].text == "abc"
    assert read(tmp_path, {"content": "abc"}).format is Format.TEXT


def test_an_instruction_with_input_and_system(tmp_path: Path) -> None:
    [row] = read(tmp_path, {"system": "s", "instruction": "q", "input": "i", "output": "a"}).examples
    assert pairs(row) == [("system", "s", False), ("user", "q\n\ni", False), ("assistant", "a", True)]


def test_weight_zero_masks_a_turn_and_a_list_prompt_is_never_learnt(tmp_path: Path) -> None:
    masked = {"role": "assistant", "content": "b", "weight": 0}
    [row] = read(tmp_path, {"messages": [TURNS[0], masked, *TURNS]}).examples
    assert [turn.trained for turn in row.messages] == [False, False, False, True]
    [row] = read(tmp_path, {"prompt": [*TURNS, TURNS[0]], "completion": TURNS[1:]}).examples
    assert [turn.trained for turn in row.messages] == [False, False, False, True]


def test_columns_and_format_win_over_guesses(tmp_path: Path) -> None:
    row = {"body": "q", "routed_to": "a", "text": "other", "messages": TURNS}
    table = read(tmp_path, row, columns=Columns(text="body", label="routed_to"))
    assert pairs(table.examples[0])[0][1] == "q"
    assert table.examples[0].label == "a"
    assert read(tmp_path, row, format=Format.TEXT).examples[0].text == "other"


def test_csv_numbers_lines_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",a\nlast,b\n')
    table = dataset.read(local_file(path), dataset.Reading())
    assert [row.row for row in table.examples] == [2, 4]
    assert pairs(table.examples[0])[0][1] == "two\nlines"


def test_the_digest_says_what_the_row_says_and_not_where_it_stands(tmp_path: Path) -> None:
    one = read(tmp_path, {"messages": TURNS}).examples[0]
    same = read(tmp_path, {"x": 1, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})
    raw = read(tmp_path, {"prompt": "q", "completion": "a"}).examples[0]
    assert one.digest == same.examples[0].digest
    assert one.digest != raw.digest
    assert len(one.digest) == 64


def test_labels_are_told_first_and_do_not_change_the_digest(tmp_path: Path) -> None:
    table = read(tmp_path, {"text": "q", "label": "b"}, {"text": "r", "label": "a"})
    prompt = shape.system_prompt(table.labels)
    assert prompt == "Answer with exactly one of: a, b."
    told = shape.instructed(table.examples, prompt)
    assert pairs(told[0])[0] == ("system", prompt, False)
    assert told[0].digest == table.examples[0].digest
    assert shape.system_prompt([str(number) for number in range(51)]) is None


def test_groups_are_read_as_text(tmp_path: Path) -> None:
    table = read(tmp_path, {"text": "q", "claim": 12}, {"text": "r", "claim": " 12 "}, group_by="claim")
    assert [row.group for row in table.examples] == ["12", "12"]


def test_json_lines_arrays_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    rows = broken.good(40)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    array = dataset.read(local_file(tmp_path / "a.json"), dataset.Reading())
    lines = read(tmp_path, *rows)
    columns = read(tmp_path, *rows, name="rows.parquet")
    assert array.examples == lines.examples == columns.examples
