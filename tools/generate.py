"""Writes everything that is generated: CRDs, reference pages, most of the chart. `make generate` runs it.

`--check` writes nothing and fails when a file on disk differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from topcoat.api import crd

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from topcoat.api by `make generate`. Do not edit.\n"


def generated_files() -> dict[str, str]:
    """Path below the repository root -> content."""
    import chart  # beside this file; tools/ is not a package
    import reference

    files = {
        f"crds/{name}": HEADER + yaml.safe_dump(body, sort_keys=False, width=110, allow_unicode=True)
        for name, body in crd.custom_resource_definitions().items()
    }
    files |= {f"docs/reference/{name}": text for name, text in reference.pages().items()}
    return files | chart.files(ROOT)


def stale_files(root: Path) -> list[str]:
    """Generated files whose content on disk is not what it should be."""
    return [
        path
        for path, text in generated_files().items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write, or with --check only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is stale")
    arguments = parser.parse_args()
    stale = stale_files(ROOT)
    if arguments.check:
        for path in stale:
            print(f"{path} is stale: run `make generate`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(generated_files()[path], encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
