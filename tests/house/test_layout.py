"""The shape of the house: where Python may stand, how long a file and a function may be, what names are not used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house import tree

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_DOCSTRING_LINES = 6
HAND_WRITTEN = (".py", ".html", ".j2", ".css", ".js", ".sh")
VAGUE = {"util", "utils", "helper", "helpers", "common", "core", "manager", "misc", "stuff"}

# Each exception with its reason; one that is no longer needed fails the guard.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_DOCSTRINGS: dict[str, str] = {
    "trainer/topcoat_trainer/errors.py": "the tree of errors is drawn at the top of the file",
}


def strays(root: Path) -> tuple[list[str], int]:
    """Python files directly in a source root: `operator/__init__.py` would shadow Python's own operator."""
    folders = [root / name for name in tree.SOURCE_ROOTS if (root / name).is_dir()]
    found = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in {".py", ".pyi", ".pth"}]
    return [f"{path.relative_to(root)}: no Python file may stand here" for path in found], len(folders)


def packages_without_init(root: Path) -> tuple[list[str], int]:
    """Folders of modules without an __init__.py: linters would not see them."""
    folders = {path.parent for path in tree.source_files(root)}
    return [
        f"{folder.relative_to(root)}: has modules but no __init__.py"
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file()
    ], len(folders)


def long_files(root: Path) -> tuple[list[str], int]:
    seen = tree.files(root, *HAND_WRITTEN)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in seen}
    return [
        f"{path.relative_to(root)}: {lines} lines, at most {MAX_FILE_LINES}"
        for path, lines in lengths.items()
        if lines > MAX_FILE_LINES
    ], len(seen)


def functions(root: Path) -> dict[str, int]:
    """Lines of every function of sources, tools and tests, as `file:name`."""
    found: dict[str, int] = {}
    for path in tree.files(root, ".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found[f"{path.relative_to(root)}:{node.name}"] = lines
    return found


def long_functions(root: Path, exceptions: dict[str, str]) -> tuple[list[str], int]:
    seen = functions(root)
    problems = [
        f"{name}: {lines} lines, at most {MAX_FUNCTION_LINES}"
        for name, lines in seen.items()
        if lines > MAX_FUNCTION_LINES and name not in exceptions
    ]
    problems += [
        f"{name}: an exception that is not needed" for name in exceptions if seen.get(name, 0) <= MAX_FUNCTION_LINES
    ]
    return problems, len(seen)


def poor_openings(root: Path, exceptions: dict[str, str]) -> tuple[list[str], int]:
    """Modules that do not open with one to six lines that say what they are."""
    seen = [*tree.source_files(root), *tree.files(root / "tools", ".py")]
    problems = []
    for path in seen:
        name = str(path.relative_to(root))
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if not text:
            problems.append(f"{name}: no docstring")
        elif (len(text.splitlines()) > MAX_DOCSTRING_LINES) != (name in exceptions):
            problems.append(f"{name}: a docstring of {len(text.splitlines())} lines, at most {MAX_DOCSTRING_LINES}")
    return problems, len(seen)


def vague_names(root: Path) -> tuple[list[str], int]:
    seen = tree.files(root)
    return [
        f"{path.relative_to(root)}: says nothing about what is in it"
        for path in seen
        if any(VAGUE & set(re.split(r"[_\-.]", part.lower())) for part in path.relative_to(root).parts)
    ], len(seen)


def test_no_python_stands_directly_in_a_source_root() -> None:
    problems, checked = strays(tree.ROOT)
    assert not problems
    assert checked == 2


def test_every_folder_of_modules_is_a_package() -> None:
    problems, checked = packages_without_init(tree.ROOT)
    assert not problems
    assert checked >= 4


def test_no_file_is_longer_than_400_lines() -> None:
    problems, checked = long_files(tree.ROOT)
    assert not problems
    assert checked >= 50


def test_no_function_is_longer_than_50_lines() -> None:
    problems, checked = long_functions(tree.ROOT, LONG_FUNCTIONS)
    assert not problems
    assert checked >= 200


def test_every_module_says_what_it_is_in_one_to_six_lines() -> None:
    problems, checked = poor_openings(tree.ROOT, LONG_DOCSTRINGS)
    assert not problems
    assert checked >= 40


def test_no_file_has_a_name_that_says_nothing() -> None:
    problems, checked = vague_names(tree.ROOT)
    assert not problems
    assert checked >= 80


@pytest.mark.parametrize("stray", ["operator/__init__.py", "trainer/__init__.py", "operator/x.py"])
def test_a_stray_python_file_is_caught(tmp_path: Path, stray: str) -> None:
    assert strays(tree.plant(tmp_path, {stray: "", "operator/topcoat/ok.py": ""}))[0]


def test_a_folder_without_init_is_caught(tmp_path: Path) -> None:
    assert packages_without_init(tree.plant(tmp_path, {"operator/topcoat/room/a.py": ""}))[0]


def test_a_long_file_is_caught(tmp_path: Path) -> None:
    assert not long_files(tree.plant(tmp_path, {"tools/x.py": "pass\n" * MAX_FILE_LINES}))[0]
    assert long_files(tree.plant(tmp_path, {"tools/x.py": "pass\n" * (MAX_FILE_LINES + 1)}))[0]


def test_a_long_function_and_a_stale_exception_are_caught(tmp_path: Path) -> None:
    body = "def f() -> None:\n" + "    pass\n" * MAX_FUNCTION_LINES
    root = tree.plant(tmp_path, {"trainer/topcoat_trainer/x.py": body})
    name = "trainer/topcoat_trainer/x.py:f"
    assert long_functions(root, {}) == ([f"{name}: 51 lines, at most 50"], 1)
    assert long_functions(root, {name: "a reason"}) == ([], 1)
    assert long_functions(root, {name: "a reason", "gone.py:g": "a reason"})[0]


@pytest.mark.parametrize("opening", ["", '"""' + "\n".join(["a line"] * 7) + '"""\n'])
def test_a_missing_or_long_opening_is_caught(tmp_path: Path, opening: str) -> None:
    assert poor_openings(tree.plant(tmp_path, {"operator/topcoat/x.py": opening}), {})[0]


@pytest.mark.parametrize("name", ["operator/topcoat/utils.py", "tests/helpers/x.py", "tools/run_manager.py"])
def test_a_vague_name_is_caught(tmp_path: Path, name: str) -> None:
    assert vague_names(tree.plant(tmp_path, {name: ""}))[0]
