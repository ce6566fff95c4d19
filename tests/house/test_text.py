"""What may stand in no tracked file: names of package registries' hosts, paths of one machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house import tree

# Written in pieces, so that this file passes its own check.
FORBIDDEN = {
    "a registry's host": re.compile(
        r"(pypi\.|files\.python)" + r"(org|hosted\.org)|registry\." + r"npmjs|proxy\." + r"golang\.org|"
        r"static\." + r"crates\.io|repo1?\." + r"maven|deb\." + r"debian\.org|download\." + r"pytorch\.org",
        re.IGNORECASE,
    ),
    "a package index option": re.compile(r"--(extra-)?index" + r"-url|--find" + r"-links"),
    "a path of one machine": re.compile(r"(?<![\w.])/(work|root|home/[a-z]+|Users/[A-Za-z]+|opt/wheels)" + r"/[\w.]"),
    "a conflict marker": re.compile(r"^(<{7}|>{7}) ", re.MULTILINE),
}
BINARY = {".parquet", ".gz", ".png", ".ico", ".woff2", ".safetensors", ".bin", ".gguf", ".zip"}


def forbidden_text(root: Path) -> tuple[list[str], int]:
    """Every place where a forbidden word stands, and how many files were read."""
    problems, seen = [], 0
    for path in tree.files(root):
        if path.suffix in BINARY:
            continue
        seen += 1
        text = path.read_text(encoding="utf-8", errors="replace")
        for what, pattern in FORBIDDEN.items():
            problems += [
                f"{path.relative_to(root)}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match[0]!r}"
                for match in pattern.finditer(text)
            ]
    return problems, seen


def test_no_file_names_a_registry_or_one_machine() -> None:
    problems, checked = forbidden_text(tree.ROOT)
    assert not problems
    assert checked >= 100


@pytest.mark.parametrize(
    "text",
    [
        "fetch it from https://pypi." + "org/simple",
        "https://files.python" + "hosted.org/packages/x.whl",
        "--index" + "-url x",
        "open('/work" + "/main/x')",
        "cd /root" + "/project",
        "see /home/ann" + "/topcoat",
        "<<<<<<" + "< HEAD",
    ],
)
def test_a_forbidden_text_is_caught(tmp_path: Path, text: str) -> None:
    assert forbidden_text(tree.plant(tmp_path, {"docs/x.md": f"fine\n{text}\n"}))[0][0].startswith("docs/x.md:2: ")


@pytest.mark.parametrize("text", ["/workspace/data", "a/work" + "/b", "homework", "s3://home/x"])
def test_an_innocent_text_passes(tmp_path: Path, text: str) -> None:
    assert forbidden_text(tree.plant(tmp_path, {"x.md": text})) == ([], 1)
