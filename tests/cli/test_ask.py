"""A really tuned tiny model, asked through the real trainer in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import runs, stores
from topcoat.api.promotion import Verdict
from topcoat.cli import terminal

FILES = ("adapter_model.safetensors", "manifest.json", "tokenizer.json")


@pytest.mark.slow
def test_the_served_version_answers_and_standard_output_holds_the_answer_alone(lora: Path) -> None:
    said = stores.topcoat("ask", "claims", "1 hail roof", store=lora)
    assert said.code == 0, said.err
    assert said.out.strip() in runs.LABELS
    assert said.err.startswith("v1: ")
    assert "%" in said.err


@pytest.mark.slow
def test_the_base_model_answers_in_free_text(lora: Path) -> None:
    body = stores.topcoat("ask", "claims", "1 hail roof", "--base", "-o", "json", store=lora).body
    assert body["version"] is None
    assert body["probabilities"] is None
    assert isinstance(body["answer"], str)


@pytest.mark.slow
def test_both_models_are_asked_side_by_side(lora: Path) -> None:
    said = stores.topcoat("compare", "claims", "1 hail roof", store=lora)
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out.splitlines() if line.strip()][:3] == ["asked", "base", "tuned"]
    assert said.last.startswith("Next: topcoat compare claims")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_and_the_version_does_not_answer(lora: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(lora, tmp_path / "store")
    (path,) = (tmp_path / "store").glob(f"jobs/*/versions/v1/{name}")
    before = stores.sha256(path)
    stores.flip(path)
    said = stores.topcoat("ask", "claims", "hail", store=tmp_path / "store")
    assert said.code == 1
    assert not said.out
    assert all(word in said.err for word in (name, before, stores.sha256(path), "To fix it"))


@pytest.mark.slow
def test_two_versions_are_compared_row_by_row(lora: Path) -> None:
    said = stores.topcoat("compare", "claims", "--with", "v1", store=lora)
    assert said.code == 0, said.err
    assert "v1 is better on 0 and worse on 0" in said.out


def test_answers_that_are_not_what_was_sealed_are_not_compared(store: Path) -> None:
    said = stores.topcoat("compare", "claims", "--version", "v2", "--with", "v1", store=store)
    assert said.code == 1
    assert "answers.jsonl: this version was sealed without it" in said.err


def test_a_job_that_serves_nothing_says_what_can_be_asked_instead(store: Path) -> None:
    (store / "aliases.json").write_text("{}")
    said = stores.topcoat("ask", "claims", "hail", store=store)
    assert said.code == 1
    assert "no version of 'claims' serves yet" in said.err
    assert "--base" in said.err


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_question_is_refused_before_anything_starts(store: Path, text: str) -> None:
    assert "nothing to ask" in stores.topcoat("ask", "claims", text, store=store).err


def test_a_base_model_that_nobody_prepared_is_said(store: Path) -> None:
    said = stores.topcoat("ask", "claims", "hail", "--base", store=store)
    assert "is not prepared yet" in said.err
    assert said.code == 1


def test_an_answer_cannot_steer_the_terminal(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"answer": "ok\x1b[2J", "probabilities": {"a\x1b": 0.9}}
    monkeypatch.setattr("topcoat.cli.trainer_process.call_each", lambda *_: [answer])
    monkeypatch.setattr(terminal, "is_terminal", lambda stream=None: True)
    said = stores.topcoat("ask", "claims", "hail", store=store, NO_COLOR="1")
    assert "\x1b" not in said.out + said.err
    assert said.last.startswith('Next: topcoat ask claims "…" --base')


def test_the_verdict_of_the_store_is_what_its_report_says(store: Path) -> None:
    assert stores.topcoat("report", "claims", "--version", "v1", "-o", "json", store=store).body["verdict"] == (
        Verdict.PROMOTE
    )
