"""A wrong manifest is said with file, line and column, and what to write instead; a bomb is refused unexpanded."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest

from topcoat.api import finetunejob
from topcoat.cli import manifest, terminal

CORPUS = sorted((Path(__file__).parents[1] / "api" / "invalid").glob("*.yaml"))
REFUSED = [path for path in CORPUS if path.read_text().splitlines()[0] in ("# caught by: schema", "# caught by: CEL")]
HEAD = "apiVersion: topcoat.dev/v1alpha1\nkind: FineTuneJob\nmetadata:\n  name: claims\n"
SPEC = "spec:\n  baseModel: {uri: file://model}\n  dataset: {train: {uri: file://rows.jsonl}}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, name: str | None = None) -> terminal.Failure:
    with pytest.raises(terminal.Failure) as caught:
        manifest.load(path, name)
    return caught.value


def place(failure: terminal.Failure, path: Path) -> tuple[int, int]:
    assert failure.where.startswith(f"{path}:")
    line, column = failure.where.removeprefix(f"{path}:").split(":")
    return int(line), int(column)


def test_the_corpus_is_large() -> None:
    assert len(REFUSED) >= 100


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_each_manifest_of_the_corpus_is_refused_at_a_place_that_names_its_field(path: Path) -> None:
    failure = refusal(path)
    field = path.read_text().splitlines()[1].removeprefix("# field: ")
    line, column = place(failure, path)
    lines = path.read_text().splitlines()
    assert 1 <= line <= len(lines) + 1
    assert column >= 1
    assert failure.hint
    last = field.rpartition(".")[2]
    stands_there = field in failure.message or last in failure.message or last in "".join(lines[line - 2 : line + 1])
    assert stands_there, (field, failure.where, failure.message)


def test_a_good_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = manifest.load(written(tmp_path, HEAD + SPEC + '  training: {epochs: 2, learningRate: "1e-4"}\n'))
    assert isinstance(job, finetunejob.FineTuneJob)
    assert job.spec.training.model_fields_set == {"epochs", "learning_rate"}


def test_json_is_yaml(tmp_path: Path) -> None:
    text = '{"apiVersion": "topcoat.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "claims"}, "spec": '
    text += '{"baseModel": {"uri": "file://m"}, "dataset": {"train": {"uri": "file://d"}}}}'
    assert manifest.load(written(tmp_path, text)).metadata.name == "claims"


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.TextIOWrapper(io.BytesIO((HEAD + SPEC).encode()))
    monkeypatch.setattr(sys, "stdin", data)
    assert manifest.load(Path("-")).metadata.name == "claims"


def test_a_time_stays_as_it_was_written(tmp_path: Path) -> None:
    job = manifest.load(written(tmp_path, HEAD + SPEC + "  retrain:\n    requestedAt: 2026-01-02T03:04:05Z\n"))
    assert job.spec.retrain.requested_at == "2026-01-02T03:04:05Z"


def test_status_in_a_manifest_is_left_out(tmp_path: Path) -> None:
    assert manifest.load(written(tmp_path, HEAD + SPEC + "status:\n  phase: Ready\n")).status is None


def test_a_misspelt_field_is_met_with_the_right_one(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + SPEC + '  training:\n    lerningRate: "0.1"\n')
    failure = refusal(path)
    assert place(failure, path) == (9, 5)
    assert failure.message == "unknown field 'spec.training.lerningRate'; did you mean 'learningRate'?"
    assert failure.hint == "`topcoat explain ftj.spec.training` lists the fields"


def test_a_misspelt_word_is_met_with_the_right_one(tmp_path: Path) -> None:
    failure = refusal(written(tmp_path, HEAD + SPEC + "  method: {type: lora}\n"))
    assert failure.message.endswith("not 'lora'; did you mean 'LoRA'?")


def test_several_mistakes_are_said_at_once_in_their_order(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + SPEC + "  training:\n    epochs: 0\n    seed: -1\n  colour: red\n")
    failure = refusal(path)
    first, second, third = failure.message.splitlines()
    assert place(failure, path) == (9, 13)
    assert first.startswith("spec.training.epochs")
    assert f"{path}:10:11: spec.training.seed" in second
    assert "unknown field 'spec.colour'" in third


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("", (1, 1), "the file has no FineTuneJob: it is empty"),
        ("- a\n- b\n", (1, 1), "the file has no FineTuneJob"),
        ("kind: Pod\n", (1, 7), "the file has no FineTuneJob, but Pod"),
        ("a: [1\nb: 2\n", (2, 2), "this is not YAML"),
        ("\ta: 1\n", (1, 1), "this is not YAML"),
        ("a: 1\na: 2\n", (2, 1), "field 'a' stands here twice, first in line 1"),
        ("kind: FineTuneJob\nspec: !!python/object:os.system x\n", (2, 7), "the tag"),
        ("a: &x 1\nb: {<<: *x}\n", (2, 5), "this is no field name"),
        ("? [1, 2]\n: 3\n", (1, 3), "this is no field name"),
        ("a: b: c\n", (1, 5), "this is not YAML"),
        ("a: \x00\n", (1, 1), "this is not YAML"),
    ],
)
def test_what_is_no_manifest_is_said_with_its_place(
    tmp_path: Path, text: str, at: tuple[int, int], message: str
) -> None:
    path = written(tmp_path, text)
    failure = refusal(path)
    assert failure.message.startswith(message)
    assert place(failure, path) == at


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    began = time.process_time()
    assert "grows too large" in refusal(written(tmp_path, text)).message
    assert time.process_time() - began < 3


def test_a_value_that_holds_itself_is_refused(tmp_path: Path) -> None:
    assert "grows too large" in refusal(written(tmp_path, "a: &a [*a]\n")).message


def test_what_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, "a: " + "[" * 5000)).message
    assert refusal(written(tmp_path, "[" * 400 + "]" * 400)).message


def test_a_few_aliases_are_fine(tmp_path: Path) -> None:
    text = "spec:\n  baseModel: {uri: &m 'file://model'}\n  dataset: {train: {uri: *m}}\n"
    assert manifest.load(written(tmp_path, HEAD + text)).spec.dataset.train.uri == "file://model"


def test_what_is_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"#" * ((1 << 20) + 1))
    assert "larger than 1 MiB" in refusal(path).message
    path.write_bytes(b"kind: FineTuneJob\nname: M\xfcller\n")
    failure = refusal(path)
    assert failure.message == "the file is not UTF-8"
    assert place(failure, path) == (2, 8)


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.yaml").message == "there is no such file"
    assert refusal(tmp_path).message == "it is a folder"


def test_a_file_with_several_jobs_needs_a_name(tmp_path: Path) -> None:
    other = (HEAD + SPEC).replace("claims", "letters")
    path = written(tmp_path, f"{HEAD}{SPEC}---\nkind: ConfigMap\nmetadata: {{name: x}}\n---\n{other}")
    failure = refusal(path)
    assert failure.message == "the file has 2 FineTuneJobs: claims in line 1, letters in line 12"
    assert manifest.load(path, "letters").metadata.name == "letters"
    assert "no FineTuneJob 'invoices'" in refusal(path, "invoices").message
