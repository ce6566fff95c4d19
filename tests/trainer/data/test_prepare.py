"""The prepare stage from a run file to prepared.json: counted, estimated, quick again, honest when it fails."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny_models
from tests.trainer.data import broken
from topcoat.api.report import Outcome, PrepareReport, Termination
from topcoat_trainer import entry, model_file, prepare, source
from topcoat_trainer import last_word as last_words
from topcoat_trainer.data import dataset
from topcoat_trainer.render import Renderer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make("llama", tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def run_file(tmp_path: Path, base: Path) -> Path:
    (tmp_path / "train.jsonl").write_bytes(broken.jsonl(*broken.labelled(120, "knee", "wrist")))
    return written(tmp_path, base)


def written(folder: Path, base: Path, **changes: Any) -> Path:
    run = {
        "name": "claims",
        "uid": "11111111-2222",
        "run": 0,
        "baseModel": {"uri": f"file://{base}"},
        "dataset": {"train": {"uri": "file://train.jsonl"}},
        "allowLocalFiles": True,
        "paths": {
            "run": str(folder / "run"),
            "versions": str(folder / "versions"),
            "cache": str(folder / "cache"),
            "sources": str(folder),
        },
        **changes,
    }
    path = folder / "run.json"
    path.write_text(json.dumps(run))
    return path


def last_word(run_file: Path) -> Termination:
    return Termination.model_validate_json((run_file.parent / "run" / "termination.json").read_bytes())


def report(run_file: Path) -> PrepareReport:
    return PrepareReport.model_validate_json((run_file.parent / "run" / "prepared.json").read_bytes())


def test_it_finds_what_a_run_needs_to_know(run_file: Path, base: Path) -> None:
    assert prepare.main(["--run-file", str(run_file)]) == 0
    assert last_word(run_file).outcome is Outcome.PREPARED
    made = report(run_file)
    card = made.dataset
    assert (card.format, card.task.value, card.rows) == ("Classification", "Classification", 120)
    assert card.train_samples + card.holdout_samples == 120
    assert card.holdout_samples >= 50
    assert sum(card.labels.values()) == card.train_samples
    assert card.system_prompt == "Answer with exactly one of: knee, wrist."
    assert 0 < card.trained_tokens < card.tokens
    assert len(card.digest) == 64
    assert made.train_path == str(run_file.parent / "train.jsonl")
    assert made.base_model.id == base.name
    assert made.base_model.layers == tiny_models.LAYERS
    assert made.estimate.memory_bytes > 700 << 20
    assert 0 < made.estimate.trained_parameters < made.estimate.total_parameters
    assert made.estimate.duration_seconds


def test_the_second_time_is_quick_and_reads_neither_torch_nor_a_tokenizer(run_file: Path) -> None:
    old = time.time() - 60
    os.utime(run_file.parent / "train.jsonl", (old, old))
    assert prepare.main(["--run-file", str(run_file)]) == 0
    first = report(run_file)
    code = (
        "import sys; from topcoat_trainer import prepare; code = prepare.main(sys.argv[1:])\n"
        "assert code == 0 and not {'torch', 'transformers', 'datasketch', 'pyarrow', 'numpy'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, "--run-file", str(run_file)], check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 3  # CPU time: the machine may be busy with other tests
    assert report(run_file).dataset == first.dataset


def test_the_first_time_never_imports_torch(run_file: Path) -> None:
    code = (
        "import sys; from topcoat_trainer import prepare; code = prepare.main(sys.argv[1:])\n"
        "assert code == 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "--run-file", str(run_file)], check=True, timeout=60)


def test_changed_rows_or_wishes_are_looked_at_again(run_file: Path, base: Path) -> None:
    assert prepare.main(["--run-file", str(run_file)]) == 0
    first = report(run_file).dataset
    train = run_file.parent / "train.jsonl"
    train.write_bytes(train.read_bytes() + broken.jsonl({"text": "one more", "label": "knee"}))
    assert prepare.main(["--run-file", str(run_file)]) == 0
    second = report(run_file).dataset
    assert (second.rows, first.rows) == (121, 120)
    assert second.digest != first.digest
    written(run_file.parent, base, dataset={"train": {"uri": "file://train.jsonl"}, "holdout": {"seed": 1}})
    assert prepare.main(["--run-file", str(run_file)]) == 0
    third = report(run_file).dataset
    assert third.holdout_digest != second.holdout_digest
    assert third.digest == second.digest


def test_the_run_assembles_exactly_what_prepare_counted(run_file: Path) -> None:
    assert prepare.main(["--run-file", str(run_file)]) == 0
    run = entry.read_run_file(run_file)
    found = prepare.data_files(run.dataset, source.places(run))
    renderer = prepare.renderer(run, model_file.inspect(Path(report(run_file).base_model.path)))
    made = dataset.assemble(found, run.dataset, renderer)
    assert made.card.model_copy(update={"digest": report(run_file).dataset.digest}) == report(run_file).dataset
    assert isinstance(renderer, Renderer)


def test_guards_and_the_users_own_evaluation_rows_are_checked_too(run_file: Path, base: Path) -> None:
    folder = run_file.parent
    (folder / "held.jsonl").write_bytes(broken.jsonl(*({"text": f"new {n}", "label": "knee"} for n in range(20))))
    (folder / "guard.jsonl").write_bytes(broken.jsonl(*broken.good(20)))
    spec = {
        "train": {"uri": "file://train.jsonl"},
        "evaluation": {"uri": "file://held.jsonl"},
        "guards": [{"name": "general", "source": {"uri": "file://guard.jsonl"}}],
    }
    assert prepare.main(["--run-file", str(written(folder, base, dataset=spec))]) == 0
    card = report(run_file).dataset
    assert (card.train_samples, card.holdout_samples) == (120, 20)
    assert card.split_rule == "20 rows of the job's own evaluation file"
    (folder / "guard.jsonl").write_bytes(broken.among(b"{"))
    assert prepare.main(["--run-file", str(run_file)]) == 11
    assert "guard.jsonl: 1 of 30 rows" in last_word(run_file).message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": {"train": {"uri": "file://none.jsonl"}}}, (11, "there is no such file")),
        ({"dataset": {"train": {"uri": "file://bad.jsonl"}}}, (11, "row 7: not valid JSON")),
        ({"dataset": {"train": {"uri": "s3://bucket/x"}}}, (10, "s3:// is not read yet")),
        ({"baseModel": {"uri": "file:///nowhere/model"}}, (12, "there is no such folder")),
        ({"allowLocalFiles": False}, (10, "local mode only")),
        ({"method": {"layers": 99}}, (10, "5 layers")),
        ({"training": {"maxSequenceLength": 16}}, (11, "tokens; 16 are allowed")),
    ],
)
def test_each_failure_has_its_code_a_hint_and_no_row(
    run_file: Path, base: Path, changes: dict[str, Any], expected: tuple[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, words = expected
    (run_file.parent / "bad.jsonl").write_bytes(broken.among(b"{" + broken.CANARY.encode()))
    assert prepare.main(["--run-file", str(written(run_file.parent, base, **changes))]) == code
    word = last_word(run_file)
    assert (word.outcome, word.exit_code) == (Outcome.FAILED, code)
    assert words in word.message
    assert word.hint
    assert word.category is not None
    assert "Xanthippe" not in word.model_dump_json() + capsys.readouterr().err


def test_an_unknown_failure_keeps_its_words_to_itself(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_code(*_: object) -> None:
        raise KeyError(broken.CANARY)

    monkeypatch.setattr(dataset, "assemble", broken_code)
    assert prepare.main(["--run-file", str(run_file)]) == 1
    assert "KeyError at test_prepare.py" in last_word(run_file).message
    assert "Xanthippe" not in last_word(run_file).model_dump_json()


def test_a_run_file_that_is_none_is_refused_by_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text('{"name": "x"}')
    assert prepare.main(["--run-file", str(tmp_path / "run.json")]) == 10
    assert "not a run file" in capsys.readouterr().err
    assert prepare.main(["--run-file", str(tmp_path / "none.json")]) == 10


def test_its_answer_travels_in_its_last_word_without_what_is_the_tenants_own(run_file: Path) -> None:
    told = run_file.parent / "termination-log"
    told.touch()
    assert prepare.main(["--run-file", str(run_file), "--last-word", str(told)]) == 0
    made, word = report(run_file), Termination.model_validate_json(told.read_bytes())
    assert word == last_word(run_file)
    assert word.attempt == 1
    assert word.prepared is not None
    assert word.prepared.base_model == made.base_model
    assert word.prepared.estimate == made.estimate
    bare = made.dataset.model_copy(update={"labels": {}, "system_prompt": None})
    assert word.prepared.dataset == bare
    assert made.dataset.labels
    assert b"knee" not in told.read_bytes()
    assert len(told.read_bytes()) <= 4096


def test_the_answer_stays_short_whatever_the_notes(run_file: Path) -> None:
    assert prepare.main(["--run-file", str(run_file)]) == 0
    made = report(run_file)
    card = made.dataset.model_copy(update={"notes": ["ü" * 900] * 9, "split_rule": "s" * 300})
    long = made.model_copy(update={"dataset": card, "train_path": "/p" * 300})
    word = last_words.capped(last_words.prepared(long))
    assert len(last_words.spelled(word)) <= 4096
    assert word.prepared is not None
    assert word.prepared.dataset.notes == []
    assert word.prepared.dataset.digest == made.dataset.digest


@pytest.mark.parametrize("text", ["{", None])
def test_a_run_file_that_cannot_be_read_is_in_the_last_word_too(tmp_path: Path, text: str | None) -> None:
    """The folder of Kubernetes' file is read-only, the file is not."""
    told = tmp_path / "folder" / "termination-log"
    told.parent.mkdir()
    told.touch()
    told.parent.chmod(0o555)
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    try:
        assert prepare.main(["--run-file", str(tmp_path / "run.json"), "--last-word", str(told)]) == 10
    finally:
        told.parent.chmod(0o755)
    word = Termination.model_validate_json(told.read_bytes())
    assert (word.outcome, word.exit_code, word.category) == (Outcome.FAILED, 10, "UserInput")
    assert "run file" in word.message


def test_a_last_word_that_nobody_can_hear_ends_nothing(run_file: Path) -> None:
    assert prepare.main(["--run-file", str(run_file), "--last-word", str(run_file.parent / "no" / "file")]) == 0


def test_a_folder_that_cannot_be_made_is_said(run_file: Path, base: Path) -> None:
    (run_file.parent / "run").write_text("a file stands here")
    told = run_file.parent / "told"
    assert prepare.main(["--run-file", str(run_file), "--last-word", str(told)]) == 1
    assert "FileExistsError" in Termination.model_validate_json(told.read_bytes()).message


def test_sigterm_ends_it_with_a_last_word(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container a process without a handler would not even hear it."""
    monkeypatch.setattr(dataset, "assemble", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    told = run_file.parent / "told"
    assert prepare.main(["--run-file", str(run_file), "--last-word", str(told)]) == 19
    assert Termination.model_validate_json(told.read_bytes()).reason == "Checkpointed"


def test_a_data_set_above_the_profiles_limit_is_refused_unread(
    run_file: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (run_file.parent / "train.jsonl").stat().st_size
    assert prepare.main(["--run-file", str(written(run_file.parent, base, maxDatasetBytes=size))]) == 0
    monkeypatch.setattr(dataset, "assemble", lambda *_: pytest.fail("it was read"))
    guarded = {
        "train": {"uri": "file://train.jsonl"},
        "guards": [{"name": "general", "source": {"uri": "file://train.jsonl"}}],
    }
    for changes, words in (
        ({"maxDatasetBytes": size - 1}, f"has {size:,} bytes; the profile allows {size - 1:,}"),
        ({"maxDatasetBytes": size, "dataset": guarded}, f"has {2 * size:,} bytes in 2 files"),
    ):
        assert prepare.main(["--run-file", str(written(run_file.parent, base, **changes))]) == 11
        assert words in last_word(run_file).message
        assert "maxDatasetBytes" in last_word(run_file).hint
