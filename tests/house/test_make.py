"""The Makefile explains itself, and every package it installs is pinned with its hash."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.house import tree

PROMISED = {"help", "setup", "venv", "demo", "test", "quick", "lint", "fix", "generate", "pins", "clean"}
PROMISED |= {"test-slow", "images", "cluster", "cluster-down"}


def targets(root: Path) -> dict[str, str]:
    """Targets that a person may say, with what `##` says about them."""
    found = re.findall(r"^([a-z][\w-]*):(?!=)(?:.*?## *(.*))?", (root / "Makefile").read_text(), re.MULTILINE)
    return dict(found)


def undocumented(root: Path) -> tuple[list[str], int]:
    """Targets without an explanation or not declared phony."""
    phony = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    declared = set(phony[1].split()) if phony else set()
    seen = targets(root)
    problems = [f"{name}: no ## comment" for name, text in seen.items() if not text]
    problems += [f"{name}: not in .PHONY" for name in seen if name not in declared]
    return problems + [f"{name}: declared but not there" for name in declared - set(seen)], len(seen)


def unpinned(root: Path) -> tuple[list[str], int]:
    """Requirements in the constraint files that are not one exact version with at least one SHA-256."""
    problems, seen = [], 0
    for path in sorted((root / "constraints").glob("*.txt")):
        for requirement in path.read_text().replace("\\\n", " ").splitlines():
            if requirement.strip() and not requirement.startswith("#"):
                seen += 1
                if not re.match(r"[a-z0-9-]+==[\w.+!]+ (; .+ )?\s*--hash=sha256:[0-9a-f]{64}", requirement):
                    problems.append(f"{path.name}: {requirement[:60]}")
    return problems, seen


def pins(root: Path, name: str) -> dict[str, set[str]]:
    """Package -> pinned versions (more than one where platforms differ)."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"^([a-z0-9-]+)==(\S+)", (root / "constraints" / name).read_text(), re.MULTILINE
    ):
        found.setdefault(package, set()).add(version)
    return found


def test_every_target_is_explained() -> None:
    problems, checked = undocumented(tree.ROOT)
    assert not problems
    assert checked >= len(PROMISED)
    assert set(targets(tree.ROOT)) >= PROMISED


def test_plain_make_prints_every_target_and_does_nothing() -> None:
    said = subprocess.run(["make", "-C", str(tree.ROOT)], check=True, capture_output=True, text=True, timeout=60).stdout
    assert all(re.search(rf"^  make {name} +\S", said, re.MULTILINE) for name in PROMISED)


def forgotten(root: Path) -> tuple[list[str], int]:
    """Files of pins that `make pins` does not write."""
    recipe = re.search(r"^pins:.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(), re.MULTILINE)
    words = set(re.findall(r"[\w-]+", recipe[1] if recipe else ""))
    names = sorted(path.stem for path in (root / "constraints").glob("*.txt"))
    return [name for name in names if name not in words], len(names)


def test_make_pins_renews_every_file_of_pins() -> None:
    problems, checked = forgotten(tree.ROOT)
    assert not problems
    assert checked >= 9


def test_a_file_of_pins_that_nothing_renews_is_caught(tmp_path: Path) -> None:
    text = "pins: ## Renew\n\t@uv constraints/a.in --output-file constraints/a.txt\n\nclean:\n\t@rm b\n"
    made = tree.plant(tmp_path, {"Makefile": text, "constraints/a.txt": "", "constraints/b.txt": ""})
    assert forgotten(made) == (["b"], 2)


def test_every_package_is_pinned_with_its_hash() -> None:
    problems, checked = unpinned(tree.ROOT)
    assert not problems
    assert checked >= 150


@pytest.mark.parametrize("part", ["operator.txt", "trainer.txt"])
def test_every_image_has_the_versions_that_are_tested(part: str) -> None:
    tested, shipped = pins(tree.ROOT, "dev.txt"), pins(tree.ROOT, part)
    assert len(shipped) >= 20
    assert {name: tested.get(name) for name in shipped} == shipped


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
    names = {re.split(r"[\[><=~!; ]", line)[0].lower() for line in wanted} - {"topcoat"}
    assert len(names) >= 30
    assert names <= set(pins(tree.ROOT, "dev.txt"))


def test_versions_below_which_loading_a_model_is_unsafe_are_refused() -> None:
    extras = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"torch>=2.6", "transformers>=5.3"} <= set(extras["trainer"])


def test_a_target_without_explanation_is_caught(tmp_path: Path) -> None:
    text = ".PHONY: good bad gone\ngood: ## Explained\n\ttrue\nbad: good\n\ttrue\nwild: ## Not declared\n\ttrue\n"
    problems, checked = undocumented(tree.plant(tmp_path, {"Makefile": text}))
    assert problems == ["bad: no ## comment", "wild: not in .PHONY", "gone: declared but not there"]
    assert checked == 3


@pytest.mark.parametrize("line", ["torch>=2.6", "torch==2.6.0", "torch==2.6.0 --hash=md5:00", "./local"])
def test_a_package_without_version_or_hash_is_caught(tmp_path: Path, line: str) -> None:
    good = "numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:" + "0" * 64 + "\n"
    assert unpinned(tree.plant(tmp_path, {"constraints/a.txt": good})) == ([], 1)
    assert unpinned(tree.plant(tmp_path, {"constraints/a.txt": good + line + "\n"}))[0]
