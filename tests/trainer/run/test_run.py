"""A run seals one version, says what it found, and repeats nothing that is done."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors import safe_open

from tests.support import listeners, runs
from topcoat.api.exits import Exit
from topcoat.api.report import EvaluationReport, EvaluationSummary, Outcome, Termination
from topcoat_trainer import files, last_word, post, prepare, probe, run, seal, stage
from topcoat_trainer.errors import DataError, TrainerError


def test_a_run_seals_a_version_and_says_so(unbroken: Path) -> None:
    word = runs.termination(unbroken)
    folder = unbroken / "versions/v1"
    assert (word["outcome"], word["exitCode"], word["version"]) == ("Sealed", 0, "v1")
    assert word["digest"] == seal.digest(folder)
    assert word["attempt"] == 1
    assert word["evaluation"]["verdict"] == "Inconclusive"
    manifest = seal.verify(folder, expected_digest=word["digest"])
    assert manifest.lineage.steps == manifest.lineage.target_steps == 10
    assert (manifest.lineage.first_trained_layer, manifest.lineage.total_layers, manifest.lineage.rank) == (3, 5, 8)
    assert {
        "adapter_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md",
        "evaluation.json",
        "report.html",
        "metrics.jsonl",
    } <= manifest.files.keys()
    assert not (runs.folder(unbroken) / "checkpoints").exists()
    assert not list(runs.folder(unbroken).glob("candidate-*"))
    report = EvaluationReport.model_validate(files.read_json(folder / "evaluation.json"))
    assert [point.step for point in report.curve] == list(range(1, 11))
    assert report.cache_note.startswith("Activation cache")
    assert {"Loading", "Caching", "Training"} <= {cost.stage for cost in report.costs}


def test_only_tensors_of_the_last_layers_are_in_the_file(unbroken: Path) -> None:
    with safe_open(unbroken / "versions/v1/adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names
    assert all(".layers.3." in name or ".layers.4." in name for name in names)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls transformers' old name
def test_stock_peft_gives_the_sealed_probes(unbroken: Path, tiny: Path) -> None:
    folder = unbroken / "versions/v1"
    manifest = seal.verify(folder)
    assert len(manifest.probes) == 4
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    before = probe.difference(base.eval(), manifest.probes)
    model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    assert probe.difference(model, manifest.probes) < 1e-4 < before


def test_a_sealed_run_is_verified_and_reported_again_without_training(unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(unbroken, root)
    before = runs.termination(root)
    (runs.folder(root) / "termination.json").unlink()
    told = json.loads((root / "run1.json").read_text().replace(str(unbroken), str(root)))
    files.write_json(root / "run1.json", told)
    assert runs.carry_out(root / "run1.json") == 0
    assert runs.termination(root) == before
    path = root / "versions/v1/adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert runs.carry_out(root / "run1.json") == Exit.CORRUPT
    assert "adapter_model.safetensors" in runs.termination(root)["message"]


def test_a_version_of_other_inputs_is_never_taken_for_ones_own(unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(unbroken, root)
    told = json.loads((root / "run1.json").read_text().replace(str(unbroken), str(root)))
    files.write_json(root / "run1.json", {**told, "inputHash": "sha256:" + "f" * 64})
    assert runs.carry_out(root / "run1.json") == Exit.CORRUPT
    assert "other inputs" in runs.termination(root)["message"]


def test_no_row_is_in_logs_progress_or_last_word(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = runs.run_file(tmp_path, tiny)
    assert runs.carry_out(path) == 0
    said = capfd.readouterr()
    texts = [said.out, said.err, *(file.read_text() for file in runs.folder(tmp_path).iterdir() if file.is_file())]
    assert runs.CANARY in (tmp_path / "versions/v1/answers.jsonl").read_text()
    assert all(runs.CANARY not in text for text in texts)


def test_progress_is_posted_from_the_first_stage_to_the_seal(
    tiny: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    (tmp_path / "token").write_text("t")
    with listeners.Operator() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(post.URL, server.address(tmp_path).url)
        monkeypatch.setenv(post.TOKEN, str(tmp_path / "token"))
        assert runs.carry_out(path) == 0
        server.shutdown()
    stages = [told["stage"] for told in server.told]
    assert stages[-1] == "Sealed"
    assert {"Training", "Evaluating"} <= set(stages)
    assert runs.CANARY not in json.dumps(server.told)


def test_the_activation_cache_changes_nothing_but_rounding(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    plain = {"epochs": 2, "effectiveBatchSize": 8, "learningRate": "0.005", "maxSequenceLength": 128}
    training = {**plain, "activationCache": {"mode": "Disabled"}}
    assert runs.carry_out(runs.run_file(tmp_path, tiny, training=training)) == 0
    with_cache = [line["loss"] for line in runs.steps(unbroken / "versions/v1/metrics.jsonl")]
    without = [line["loss"] for line in runs.steps(tmp_path / "versions/v1/metrics.jsonl")]
    assert with_cache == pytest.approx(without, rel=1e-5)
    assert "Disabled" in (tmp_path / "versions/v1/evaluation.json").read_text()


def test_a_full_tail_with_early_stopping_is_sealed_and_compared_with_what_serves(
    unbroken: Path, tiny: Path, tmp_path: Path
) -> None:
    serving = {"version": "v1", "path": str(unbroken / "versions/v1"), "digest": seal.digest(unbroken / "versions/v1")}
    training = {
        "epochs": 2,
        "effectiveBatchSize": 8,
        "learningRate": "0.001",
        "maxSequenceLength": 128,
        "earlyStopping": {"patience": 1},
    }
    path = runs.run_file(
        tmp_path, tiny, run=2, serving=serving, training=training, method={"type": "Full", "layers": 1}
    )
    assert runs.carry_out(path) == 0
    word = runs.termination(tmp_path, 2)
    assert word["evaluation"]["serving"] is not None
    manifest = seal.verify(tmp_path / "versions/v2")
    assert manifest.kind == "tail"
    assert set(manifest.files) >= {"tail.safetensors", "tail_config.json"}


def test_a_run_may_start_from_the_promoted_version(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    serving = {"version": "v1", "path": str(unbroken / "versions/v1"), "digest": seal.digest(unbroken / "versions/v1")}
    path = runs.run_file(tmp_path, tiny, run=2, serving=serving, startFrom="Promoted")
    assert runs.carry_out(path) == 0
    assert "started from the weights of v1" in seal.verify(tmp_path / "versions/v2").lineage.notes
    first = runs.steps(unbroken / "versions/v1/metrics.jsonl")
    again = runs.steps(tmp_path / "versions/v2/metrics.jsonl")
    assert again[0]["loss"] < first[0]["loss"]


def test_a_damaged_serving_version_stops_the_run_by_name(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    serving = {"version": "v1", "path": str(unbroken / "versions/v1"), "digest": "0" * 64}
    assert runs.carry_out(runs.run_file(tmp_path, tiny, run=2, serving=serving)) == Exit.CORRUPT
    assert "manifest.json" in runs.termination(tmp_path, 2)["message"]
    assert not (tmp_path / "versions/v2").exists()


def test_inputs_that_changed_since_they_were_prepared_are_refused(tiny: Path, tmp_path: Path) -> None:
    path = runs.run_file(tmp_path, tiny)
    assert prepare.main(["--run-file", str(path)]) == 0
    runs.write_rows(tmp_path / "data.jsonl", runs.rows(48, seed=5))
    assert runs.carry_out(path) == Exit.CORRUPT
    assert "data changed" in runs.termination(tmp_path)["message"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"method": {"layers": 9}}, Exit.USER_INPUT, "has 5 layers"),
        ({"method": {"type": "QLoRA"}}, Exit.USER_INPUT, "GPU"),
        ({"baseModel": {"uri": "file:///nowhere"}}, Exit.BASE_MODEL, "no such folder"),
        ({"dataset": {"train": {"uri": "file://none.jsonl"}}}, Exit.DATA, "no such file"),
        (
            {"dataset": {"train": {"uri": "file://data.jsonl"}, "holdout": {"minSamples": 40}}},
            Exit.DATA,
            "too few rows",
        ),
    ],
)
def test_a_refused_run_leaves_its_reason_and_no_version(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], code: Exit, words: str
) -> None:
    assert runs.carry_out(runs.run_file(tmp_path, tiny, **changes)) == code
    word = runs.termination(tmp_path)
    assert word["outcome"] == "Failed"
    assert words in word["message"]
    assert word["hint"]
    assert not (tmp_path / "versions").exists()


def test_the_last_word_is_also_told_where_kubernetes_reads_it(unbroken: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text("x" * 9000)
    assert run.main(["--run-file", str(unbroken / "run1.json"), "--last-word", str(told)]) == 0
    assert json.loads(told.read_text()) == runs.termination(unbroken)


def test_a_run_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.json").write_text("{}")
    assert run.main(["--run-file", str(tmp_path / "f.json")]) == Exit.USER_INPUT
    assert run.main(["--run-file", str(tmp_path / "none.json")]) == Exit.USER_INPUT
    assert len(capfd.readouterr().err.strip().splitlines()) == 2


def test_the_last_word_is_never_longer_than_four_kibibytes() -> None:
    summary = EvaluationSummary(
        metric="Loss",
        base=1.0,
        candidate=1.0,
        delta=0.0,
        lower_bound=0.0,
        samples=1,
        verdict="Reject",
        reasons=["é" * 900] * 9,
    )
    word = Termination(outcome=Outcome.SEALED, evaluation=summary, message="é" * 1024, hint="é" * 512)
    short = last_word.capped(word)
    assert len(last_word.spelled(short)) <= 4096
    assert short.message == word.message
    long = last_word.capped(word.model_copy(update={"message": "😀" * 1024, "hint": "😀" * 512}))
    assert len(last_word.spelled(long)) <= 4096


def test_a_strangers_words_are_not_repeated() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("a row's text")
    known = last_word.known(caught.value)
    assert isinstance(known, TrainerError)
    assert "row's text" not in str(known)
    assert "ValueError at test_run.py:" in known.message
    mine = DataError("x")
    assert last_word.known(mine) is mine


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("12", 12), ("1.5k", 1500), ("512Mi", 512 << 20), ("2G", 2 * 10**9), ("1Ti", 1 << 40)]
)
def test_a_quantity_is_so_many_bytes(text: str, count: int) -> None:
    assert stage.bytes_of(text) == count
