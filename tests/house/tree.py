"""What the guards look at: the files of a tree that are written by hand. No guard may look at a build or a cache."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = {"operator": "topcoat", "trainer": "topcoat_trainer"}


def files(root: Path, *suffixes: str) -> list[Path]:
    """All files of the tree with one of these suffixes (or any), as Git sees them where there is Git."""
    found = _known_to_git(root) if (root / ".git").exists() else [p for p in root.rglob("*") if p.is_file()]
    return sorted(path for path in found if path.is_file() and (not suffixes or path.suffix in suffixes))


def _known_to_git(root: Path) -> list[Path]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [root / name for name in listed.split("\0") if name]


def source_files(root: Path) -> list[Path]:
    """Python files of the two packages."""
    packages = set(SOURCE_ROOTS.items())
    return [path for path in files(root, ".py") if path.relative_to(root).parts[:2] in packages]


def plant(root: Path, content: dict[str, str]) -> Path:
    """Write a small tree for a guard to fail on; returns its root."""
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
