"""Writes deploy/install.yaml: the chart as Helm spells it with its defaults, for people without Helm. `make manifests`
runs it. Helm is $HELM, or the one that the tests use. `--check` writes nothing and fails when the file differs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "deploy" / "install.yaml"
NAMESPACE = "topcoat-system"
HEAD = f"""# Generated from charts/topcoat by `make manifests`. Do not edit.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
# Nothing of this is managed by Helm then.
_HELMS_OWN = re.compile(r"^ +(helm\.sh/chart: .*|app\.kubernetes\.io/managed-by: Helm)\n", re.MULTILINE)
_KEEP = re.compile(r"^ +annotations:\n +helm\.sh/resource-policy: keep\n", re.MULTILINE)


def manifest(helm: Path) -> str:
    """The text of deploy/install.yaml."""
    command = [str(helm), "template", "topcoat", str(ROOT / "charts" / "topcoat"), "--namespace", NAMESPACE]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    parts = re.split(r"^---\n", _KEEP.sub("", _HELMS_OWN.sub("", said)), flags=re.MULTILINE)
    documents = [text.strip() for text in parts if re.search(r"^kind:", text, re.MULTILINE)]
    return HEAD + "".join(f"---\n{text}\n" for text in documents)


def _helm() -> Path:
    if given := os.environ.get("HELM"):
        return Path(given)
    sys.path.insert(0, str(ROOT))
    from tests.support.kube import tools

    return tools.program("helm")


def main() -> int:
    """Write the file, or with --check only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file is stale")
    check = parser.parse_args().check
    text = manifest(_helm())
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    name = TARGET.relative_to(ROOT)
    if check:
        print(f"{name} is stale: run `make manifests`", file=sys.stderr)
        return 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
