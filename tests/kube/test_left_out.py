"""What a machine cannot run is said at the end of the run, and fails where nothing may be left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kube import tools

SKIPPING = """
from tests.support.kube import left_out
from tests.support.kube.left_out import pytest_terminal_summary

def test_one():
    left_out.leave_out("no moon")

def test_two():
    left_out.leave_out("no moon")
"""


def run(folder: Path, *words: str, promise: str = "") -> str:
    (folder / "conftest.py").write_text("from tests.support.kube.left_out import pytest_terminal_summary\n")
    (folder / "test_it.py").write_text(SKIPPING)
    environment = {**os.environ, "PYTHONPATH": str(tools.ROOT), "TOPCOAT_TESTS": promise}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, str(folder)]
    done = subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, env=environment, timeout=120
    )
    return done.stdout


@pytest.mark.parametrize("words", [[], ["-n", "2"]])
def test_what_was_left_out_is_said_once_with_its_count(tmp_path: Path, words: list[str]) -> None:
    said = run(tmp_path, *words)
    assert "left out on this machine" in said
    assert "   2 tests: no moon" in said


def test_where_nothing_may_be_left_out_it_fails(tmp_path: Path) -> None:
    said = run(tmp_path, promise="all")
    assert "2 failed" in said
    assert "no moon; TOPCOAT_TESTS=all" in said
