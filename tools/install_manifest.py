"""Writes deploy/install.yaml: the chart as Helm spells it with its defaults, for people without Helm. `make manifests`
runs it. Helm is $HELM, or the one that the tests use.
"""

from __future__ import annotations

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
    """Write the file if it is not what it should be."""
    text = manifest(_helm())
    if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        TARGET.write_text(text, encoding="utf-8")
        print(f"wrote {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
