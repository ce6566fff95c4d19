"""What is generated is up to date, what a user can say or meet is in the reference, and every example is valid.

The names come from the API classes, tables and the command line themselves, not from the generator.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from tests.house import tree
from topcoat.api import conditions, crd, exits

GENERATED = ("crds", "docs/reference", "charts/topcoat")
# What the generator reads besides.
READ = ("operator", "tools", "examples/profiles", "pyproject.toml")
KINDS: dict[str, type[BaseModel]] = {kind.model.__name__: kind.model for kind in crd.KINDS}


def stale(root: Path, work: Path) -> tuple[list[str], int]:
    """Generated files that `make generate` would change, add or leave behind, tried on a copy of the tree."""
    copy = _copy(root, work / "copy")
    before = _digests(copy)
    environment = os.environ | {"PYTHONPATH": str(copy / "operator")}
    command = [sys.executable, str(copy / "tools" / "generate.py")]
    subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True, text=True, timeout=120)
    after = _digests(copy)
    changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    return [f"{name}: run `make generate`" for name in changed], len(after)


def _copy(root: Path, target: Path) -> Path:
    """The parts of the tree that the generator reads and writes."""
    for name in (*READ, *GENERATED):
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, target / name)
    return target


def _digests(root: Path) -> dict[str, str]:
    found = [path for folder in GENERATED for path in (root / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def fields(model: type[BaseModel], place: str) -> Iterator[tuple[str, str]]:
    """Every field below a model as a user writes it, with its description: `spec.dataset.guards[].name`."""
    for name, field in model.model_fields.items():
        path = f"{place}{field.alias or name}"
        yield path, field.description or ""
        for inner, listed in _models(field.annotation):
            yield from fields(inner, f"{path}[]." if listed else f"{path}.")


def _models(annotation: Any, listed: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, listed
    for part in get_args(annotation):
        yield from _models(part, listed or getattr(annotation, "__origin__", None) in {list, tuple})


def api_fields() -> dict[str, list[tuple[str, str]]]:
    """Kind -> its fields below spec and status."""
    return {
        name: [(path, text) for path, text in fields(model, "") if path.startswith(("spec.", "status."))]
        for name, model in KINDS.items()
    }


def not_in(folder: Path, words: Iterable[str]) -> tuple[list[str], int]:
    """Words that stand in none of the folder's pages, in back-ticks or as a table's code."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md")))
    wanted = list(words)
    return [word for word in wanted if f"`{word}`" not in text and f"| {word} |" not in text], len(wanted)


def verbs() -> list[str]:
    """Every command of the command line: `topcoat run`, `topcoat doctor data` …"""
    import typer

    from topcoat.cli import app

    def walk(command: Any, said: str) -> Iterator[str]:
        inner = getattr(command, "commands", {})
        yield from [] if inner else [said]
        for name, child in inner.items():
            if not child.hidden:
                yield from walk(child, f"{said} {name}")

    return list(walk(typer.main.get_command(app.app), "topcoat"))


def invalid_examples(root: Path) -> tuple[list[str], int]:
    """Manifests under examples/ that the API refuses."""
    problems, seen = [], 0
    for path in [*tree.files(root / "examples", ".yaml", ".yml")]:
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if not str((manifest or {}).get("apiVersion", "")).startswith("topcoat.dev/"):
                continue
            seen += 1
            try:
                KINDS[manifest["kind"]].model_validate(manifest)
            except (ValidationError, KeyError) as error:
                problems.append(f"{path.relative_to(root)}: {error}")
    return problems, seen


def test_make_generate_changes_nothing(tmp_path: Path) -> None:
    problems, checked = stale(tree.ROOT, tmp_path)
    assert not problems
    assert checked >= 25


def test_every_api_field_has_a_text_and_stands_in_the_reference() -> None:
    for kind, found in api_fields().items():
        page = (tree.ROOT / "docs" / "reference" / f"{kind.lower()}.md").read_text(encoding="utf-8")
        assert not [path for path, _ in found if f"`{path}`" not in page], kind
        assert not [path for path, text in found if not text.strip()], kind
        assert len(found) >= 20, kind


def test_every_exit_code_reason_condition_and_phase_stands_in_the_reference() -> None:
    words = [*conditions.Condition, *conditions.Phase, *conditions.REASONS, *(code.name for code in exits.CliExit)]
    words += [str(code) for code in exits.BY_CODE] + [meaning.reason for meaning in exits.MEANINGS]
    missing, checked = not_in(tree.ROOT / "docs" / "reference", words)
    assert not missing
    assert checked >= 70


def test_every_verb_of_the_command_line_stands_in_the_reference() -> None:
    missing, checked = not_in(tree.ROOT / "docs" / "reference", verbs())
    assert not missing
    assert checked >= 15


def test_every_example_is_valid() -> None:
    problems, checked = invalid_examples(tree.ROOT)
    assert not problems
    assert checked >= 5


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return _copy(tree.ROOT, tmp_path / "tree")


def test_a_generated_file_that_was_edited_is_caught(copied: Path, tmp_path: Path) -> None:
    edited = copied / "crds" / "topcoat.dev_finetunejobs.yaml"
    edited.write_text(edited.read_text() + "# by hand\n")
    assert stale(copied, tmp_path)[0] == ["crds/topcoat.dev_finetunejobs.yaml: run `make generate`"]


def test_a_changed_field_without_new_pages_is_caught(copied: Path, tmp_path: Path) -> None:
    source = copied / "operator" / "topcoat" / "api" / "finetunejob.py"
    source.write_text(source.read_text().replace("platform team", "other team"))
    assert len(stale(copied, tmp_path)[0]) >= 2


def test_a_word_that_is_not_documented_is_caught(tmp_path: Path) -> None:
    tree.plant(tmp_path, {"a.md": "| 10 | `InvalidSpec` | "})
    assert not_in(tmp_path, ["InvalidSpec", "10", "Lost"]) == (["Lost"], 3)


@pytest.mark.parametrize("body", ["kind: FineTuneJob\nspec: {}", "kind: Unheard"])
def test_an_invalid_example_is_caught(tmp_path: Path, body: str) -> None:
    text = f"apiVersion: topcoat.dev/v1alpha1\nmetadata: {{name: x}}\n{body}\n"
    problems, checked = invalid_examples(tree.plant(tmp_path, {"examples/a.yaml": text, "examples/b.yaml": "a: 1\n"}))
    assert len(problems) == checked == 1
