"""The demo's folder is complete, its manifests are those of examples/, and what a user changed stays."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from topcoat.api.finetunejob import FineTuneJob
from topcoat_trainer.demo import __main__ as demo
from topcoat_trainer.demo import model
from topcoat_trainer.errors import BaseModelError

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def quick_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(directory: Path) -> model.DemoModel:
        made = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        return model.DemoModel(directory, "0" * 64, made=made, seconds=0.0)

    monkeypatch.setattr(model, "make", make)


def test_one_call_makes_all_that_the_manifests_name(tmp_path: Path, quick_model: None) -> None:
    assert demo.main(["--out", str(tmp_path / "demo")]) == 0
    named = 0
    for name in demo.MANIFESTS:
        spec = FineTuneJob.model_validate(yaml.safe_load((tmp_path / "demo" / name).read_text(encoding="utf-8"))).spec
        data = [source for source in (spec.dataset.train, spec.dataset.evaluation) if source is not None]
        for uri in (spec.base_model.uri, *(source.uri for source in data)):
            assert uri is not None
            assert (tmp_path / "demo" / uri.removeprefix("file://")).exists(), uri
            named += 1
    assert named == 8


def test_the_facts_are_json_when_asked_for(
    tmp_path: Path, quick_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--out", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"]["claims-train.jsonl"] == 720
    assert facts["rows"]["extraction-heldout.jsonl"] == 100
    assert facts["model_made"] is True
    assert facts["kept"] == []
    assert facts["peak_memory_bytes"] > 1e6


def test_the_last_line_is_the_next_command(
    tmp_path: Path, quick_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main(["--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"topcoat run -f {tmp_path}/claims-triage.yaml --local")


def test_what_the_user_changed_stays(tmp_path: Path, quick_model: None, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["--out", str(tmp_path)])
    changed = tmp_path / "claims-triage.yaml", tmp_path / "data" / "claims-train.jsonl"
    for path in changed:
        path.write_text("mine\n", encoding="utf-8")
    (tmp_path / "data" / "claims-more.jsonl").unlink()
    started = time.monotonic()
    assert demo.main(["--out", str(tmp_path)]) == 0
    assert [path.read_text(encoding="utf-8") for path in changed] == ["mine\n", "mine\n"]
    assert (tmp_path / "data" / "claims-more.jsonl").exists()
    assert not list((tmp_path / "data").glob(".*"))
    assert "Kept as they were" in capsys.readouterr().out
    assert time.monotonic() - started < 30


def test_a_refusal_has_its_exit_code_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(directory: Path) -> model.DemoModel:
        raise BaseModelError("no model", hint="install it")

    monkeypatch.setattr(model, "make", refuse)
    assert demo.main(["--out", str(tmp_path)]) == 12
    assert "To fix it: install it" in capsys.readouterr().err


@pytest.mark.parametrize("name", demo.MANIFESTS)
def test_the_examples_are_the_demos_own_manifests(name: str) -> None:
    own = Path(demo.__file__).with_name(name)
    assert (EXAMPLES / name).read_bytes() == own.read_bytes(), f"cp {own} {EXAMPLES}"


def test_the_minimal_manifest_has_six_lines() -> None:
    assert len((EXAMPLES / "minimal.yaml").read_text(encoding="utf-8").splitlines()) == 6
