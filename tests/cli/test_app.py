"""The frame around all verbs: what help costs, and what becomes of mistakes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import stores
from topcoat.cli import app, terminal

CLI = Path(app.__file__).parent
HEAVY = {"torch", "transformers", "kubernetes", "rich", "yaml", "pydantic", "topcoat_trainer", "numpy"}
PROGRAM = "import sys; from topcoat.cli import app; sys.argv = {argv!r}; app.main()"


def started(*words: str, program: str = "topcoat") -> subprocess.CompletedProcess[str]:
    code = PROGRAM.format(argv=[program, *words])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_costs_less_than_three_tenths_of_a_second_of_processor_time() -> None:
    started("--help")  # the first call may have to compile
    costs = []
    for _ in range(3):
        before = children_seconds()
        assert started("--help").returncode == 0
        costs.append(children_seconds() - before)
    assert min(costs) < 0.3, costs


def test_help_imports_nothing_heavy() -> None:
    code = f"{PROGRAM.format(argv=['topcoat', '--help'])[:-10]}\ntry:\n    app.main()\nexcept SystemExit:\n    pass\n"
    code += "import json; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "typer" in loaded
    assert not HEAVY & loaded


def test_help_lists_every_verb_of_the_table() -> None:
    out = stores.topcoat("--help").out
    assert len(app.SHORT) >= 15
    assert not [verb for verb in app.SHORT if f"\n  {verb} " not in out]
    assert stores.topcoat().out == stores.topcoat("-h").out == out


def test_every_verb_of_the_table_has_a_file_and_a_help_of_its_own() -> None:
    present = [verb for verb in app.SHORT if (CLI / f"{verb}.py").exists()]
    assert len(present) >= 11
    for verb in present:
        said = stores.topcoat(verb, "--help")
        assert said.code == 0, said.err
        assert said.out.startswith(f"Usage: topcoat {verb}") or said.out.startswith(f"Usage: root {verb}"), said.out
        assert len(said.out.splitlines()) > 4


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("gte",), "No such command 'gte'. Did you mean 'get'?"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("get", "--frob"), "No such option"),
        (("get", "-o", "xml"), "xml"),
        (("ask", "claims"), "Missing argument"),
        (("doctor",), "Missing command"),
        (("doctor", "dato"), "Did you mean 'data'?"),
        (("export", "zip"), "No such command 'zip'"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error_with_exit_code_1(words: tuple[str, ...], error: str) -> None:
    said = stores.topcoat(*words)
    assert said.code == 1
    assert not said.out
    assert said.err.startswith("Error: ")
    assert error in said.err
    assert "--help` shows what it takes" in said.err
    assert len(said.err.splitlines()) == 2


def test_an_unexpected_error_is_one_line_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("topcoat.cli.version.own", broken)
    said = stores.topcoat("--version")
    assert said.code == 1
    assert said.err.splitlines()[0] == "Error: unexpected RuntimeError: two lines"
    assert "TOPCOAT_DEBUG=1" in said.err
    assert "Traceback" not in said.err


def test_debugging_shows_where_an_unexpected_error_comes_from() -> None:
    code = "from topcoat.cli import version\nversion.own = lambda: 1 / 0\n" + PROGRAM.format(argv=["t", "--version"])
    command = [sys.executable, "-c", code]
    for wish, word in (("1", "Traceback"), ("", "Error: unexpected ZeroDivisionError")):
        environment = os.environ | {"TOPCOAT_DEBUG": wish}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(word)


def test_it_knows_its_name_as_a_plugin_of_kubectl() -> None:
    assert "Usage: kubectl topcoat get" in started("get", "--help", program="/usr/local/bin/kubectl-topcoat").stdout
    assert "Usage: topcoat get" in started("get", "--help").stdout


def test_a_reader_that_stops_reading_gets_no_traceback() -> None:
    code = PROGRAM.format(argv=["topcoat", "explain", "--recursive"])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$0" -c "$1" | head -1', sys.executable, code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("KIND:")
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_named() -> None:
    found = app._failure(ModuleNotFoundError("No module named 'yaml'", name="yaml"))
    assert found.message == "the Python package 'yaml' is not installed"
    assert "pip install" in found.hint


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.paint("x", "red") == "x"
    monkeypatch.setattr(terminal, "is_terminal", lambda stream=None: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.paint("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint("x", "red") == "x"


def test_text_of_a_model_cannot_steer_the_terminal() -> None:
    assert terminal.clean("a\x1b[2Jb\r\x07c\n\té ü 火") == "a[2Jbc\n\té ü 火"
