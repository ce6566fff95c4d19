"""Every broken file gets one error with file, row, reason and fix, in seconds, without torch, without a row's text."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import chat
from tests.trainer.data import broken, broken_file, broken_row
from topcoat.api.dataset import Dataset
from topcoat_trainer.data import dataset, doctor
from topcoat_trainer.errors import DataError
from topcoat_trainer.render import Renderer
from topcoat_trainer.source import local_file

# Trouble that shows only beside a tokenizer, a split or a second file: not the doctor's to see.
LATER = {
    "control_token.jsonl", "too_long.jsonl", "few.jsonl", "repeats.jsonl", "one_group.jsonl", "no_group.jsonl",
    "overlap.jsonl", "new_label.jsonl", "other_shape.jsonl", "wrong_format.jsonl", "no_column.jsonl",
}  # fmt: skip
SECONDS = 5.0
FILES = (*broken_file.FILES, *broken_row.FILES)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(chat.tokenizer(), 2048)


def assembled(folder: Path, case: broken.Broken, renderer: Renderer) -> dataset.Assembled:
    train = folder / case.name
    train.write_bytes(case.data)
    other = None
    if case.evaluation is not None:
        other = folder / f"evaluation_of_{case.name}"
        other.write_bytes(case.evaluation)
    spec = Dataset.model_validate({"train": {"uri": "file://x"}, **case.spec})
    files = dataset.DataFiles(local_file(train), local_file(other) if other else None)
    return dataset.assemble(files, spec, renderer)


def test_the_corpus_has_at_least_forty_files() -> None:
    names = [case.name for case in FILES]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_a_broken_file_is_refused_in_words(case: broken.Broken, tmp_path: Path, renderer: Renderer) -> None:
    started = time.process_time()  # CPU time: the machine may be busy with other tests
    with pytest.raises(DataError) as caught:
        assembled(tmp_path, case, renderer)
    assert time.process_time() - started < SECONDS
    error = caught.value
    assert all(part in error.message for part in case.says), error.message
    assert case.fix in error.hint, error.hint
    if case.row:
        assert f"row {case.row}" in error.message.replace(",", "") or f"({case.row})" in error.message
    if case.name not in ("few.jsonl", "repeats.jsonl", "one_group.jsonl"):
        assert case.name in error.where, error.where
    assert len(str(error)) < 1500
    assert not leaks(str(error))


def leaks(text: str) -> bool:
    return any(word in text for word in ("Xanthippe", "Quux", "4711", "wrist"))


@pytest.mark.parametrize("name", sorted(broken.ACCEPTED))
def test_harmless_oddities_are_accepted(name: str, tmp_path: Path, renderer: Renderer) -> None:
    spec = {"holdout": {"minSamples": 10}}
    case = broken.Broken(name, broken.ACCEPTED[name](), (), "", spec=spec)
    made = assembled(tmp_path, case, renderer)
    assert len(made.train) + len(made.holdout) == 60
    assert made.card.invalid == 0


@pytest.mark.parametrize("case", [case for case in FILES if case.name not in LATER], ids=lambda case: case.name)
def test_the_doctor_sees_it_and_shows_no_row(
    case: broken.Broken, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.data)
    assert doctor.main([str(path)]) == 11
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert all(part in report["error"]["message"] for part in case.says)
    assert not leaks(printed)


def test_the_doctor_shows_rows_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(broken.among(broken.turns(("user", broken.CANARY))))
    assert doctor.main([str(path), "--show-rows"]) == 11
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert problem["row"] == 7
    assert problem["kind"] == "NoAssistantTurn"
    assert broken.CANARY in problem["text"]


def test_the_doctor_suggests_the_dataset_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "claim_id": f"c{number % 15}"} for number, row in enumerate(broken.labelled(60, "a", "b"))]
    path = tmp_path / "claims.jsonl"
    path.write_bytes(broken.jsonl(*rows))
    assert doctor.main([str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dataset"] == {"format": "Classification", "holdout": {"groupBy": "claim_id", "minSamples": 12}}
    assert report["task"] == "Classification"
    assert report["labels"] == {"a": 30, "b": 30}
    assert Dataset.model_validate({"train": {"uri": "file://x"}, **report["dataset"]})


def test_a_folder_and_a_missing_file_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"{}")
    assert doctor.main([str(tmp_path)]) == 11
    folder = json.loads(capsys.readouterr().out)["error"]
    assert "a folder stands where a data file should; it holds train.jsonl" in folder["message"]
    assert doctor.main([str(tmp_path / "none.jsonl")]) == 11
    assert "there is no such file" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_the_doctor_never_imports_torch_and_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(broken.among(b"{", 6789, 10_000))
    code = (
        "import sys; from topcoat_trainer.data import doctor; code = doctor.main(sys.argv[1:])\n"
        "assert code == 11 and not {'torch', 'transformers'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < SECONDS


def test_a_few_bad_rows_are_left_out_where_the_manifest_allows_it(tmp_path: Path, renderer: Renderer) -> None:
    data = broken.among(broken.turns(("user", "a")), count=60) + broken.jsonl(broken.good(1)[0])
    spec = {"validation": {"maxInvalidFraction": "0.05"}, "holdout": {"minSamples": 10}}
    made = assembled(tmp_path, broken.Broken("some.jsonl", data, (), "", spec=spec), renderer)
    assert (made.card.rows, made.card.invalid, made.card.duplicates) == (61, 1, 1)
    assert len(made.train) + len(made.holdout) == 59
    assert "1 rows repeat an earlier row; each is used once" in made.card.notes


def test_memory_stays_bounded_while_a_large_file_is_read(tmp_path: Path) -> None:
    import tracemalloc

    from topcoat_trainer.data import reader

    path = tmp_path / "large.json"
    with path.open("w") as file:
        file.write("[" + ",\n".join(json.dumps(broken.chat("x" * 20_000)) for _ in range(1000)) + "]")
    tracemalloc.start()
    try:
        with path.open("rb") as stream:
            assert sum(1 for _ in reader.rows(stream, path.name)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
