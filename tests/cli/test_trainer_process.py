"""The trainer's end as an error of the command line, whatever that end is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from topcoat.api import exits
from topcoat.cli import terminal, trainer_process


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of a trainer's; tests write its text."""
    path = tmp_path / "program.py"
    monkeypatch.setattr(trainer_process, "command", lambda module, *words: [sys.executable, str(path), *words])
    return path


def test_request_and_answer_are_json(program: Path) -> None:
    program.write_text("import json, sys; print(json.dumps([json.load(sys.stdin), sys.argv[1:]]))")
    assert trainer_process.call("ask", ["--x"], {"é": 1}) == [{"é": 1}, ["--x"]]


def test_the_programs_own_words_come_first(program: Path) -> None:
    said = '{"error": {"where": "f.json", "message": "it differs", "hint": "do this"}}'
    program.write_text(f"import sys; print({said!r}); sys.exit(16)")
    with pytest.raises(terminal.Failure) as caught:
        trainer_process.call("ask")
    assert (caught.value.where, caught.value.message, caught.value.hint) == ("f.json", "it differs", "do this")
    assert caught.value.exit_code == 1


def test_a_last_word_on_standard_error_is_taken_apart(program: Path) -> None:
    program.write_text("import sys; sys.stderr.write('noise\\nf: no. To fix it: do this\\n'); sys.exit(12)")
    with pytest.raises(terminal.Failure) as caught:
        trainer_process.call("ask")
    assert (caught.value.message, caught.value.hint) == ("f: no", "do this")


@pytest.mark.parametrize("code", [int(code) for code in exits.Exit if code > 1])
def test_every_exit_code_has_words_and_a_way_out(code: int) -> None:
    found = trainer_process.failure(code, None, "")
    assert found.message == exits.BY_CODE[code].meaning
    assert found.hint


def test_a_strangers_last_line_is_shown_and_debugging_offered(program: Path) -> None:
    program.write_text("raise KeyError('x')")
    with pytest.raises(terminal.Failure, match="the trainer failed: KeyError: 'x'") as caught:
        trainer_process.call("ask")
    assert "TOPCOAT_DEBUG=1" in caught.value.hint


def test_being_killed_is_said(program: Path) -> None:
    program.write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(terminal.Failure, match="ended by SIGKILL") as caught:
        trainer_process.call("ask")
    assert "memory" in caught.value.hint


def test_no_answer_is_an_error(program: Path) -> None:
    program.write_text("print('hello')")
    with pytest.raises(terminal.Failure, match="gave no answer"):
        trainer_process.call("ask")


def test_missing_packages_are_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_process, "NEEDED", ("torch", "no_such_package"))
    with pytest.raises(terminal.Failure, match="missing: no_such_package"):
        trainer_process.call("ask")


def test_only_a_hub_address_opens_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    made = trainer_process.environment()
    assert made["HF_HUB_OFFLINE"] == "1"
    assert made["TOKENIZERS_PARALLELISM"] == "false"
    assert made["PYTHONUNBUFFERED"] == "1"
    assert made.keys() >= os.environ.keys() - {"HF_HUB_OFFLINE"}
    assert "HF_HUB_OFFLINE" not in trainer_process.environment(online=True)


def test_several_requests_are_answered_by_one_process(program: Path) -> None:
    program.write_text(
        "import json, os, sys\nfor line in sys.stdin: print(json.dumps([json.loads(line), os.getpid()]))"
    )
    (first, one), (second, other) = trainer_process.call_each("ask", [{"a": 1}, {"a": "two\nlines"}])
    assert (first, second) == ({"a": 1}, {"a": "two\nlines"})
    assert one == other


def test_the_first_request_that_fails_is_the_error(program: Path) -> None:
    program.write_text('import sys; print(\'{"answer": 1}\'); print(\'{"error": {"message": "no"}}\'); sys.exit(16)')
    with pytest.raises(terminal.Failure, match="no"):
        trainer_process.call_each("ask", [1, 2])
