"""`topcoat version`: versions of Topcoat and of what it uses, read from package metadata without importing any."""

from __future__ import annotations

import importlib.metadata
import json
import platform

from topcoat.cli import option, terminal

LIBRARIES = ("pydantic", "torch", "transformers", "peft", "safetensors", "kubernetes")


def own() -> str:
    """Topcoat's version, in words."""
    return f"topcoat {importlib.metadata.version('topcoat')}"


def version(output: option.Answer = option.Plain.TEXT) -> None:
    """Print the versions of Topcoat, Python and the libraries that matter."""
    found: dict[str, str | None] = {
        "topcoat": importlib.metadata.version("topcoat"),
        "python": platform.python_version(),
    }
    found |= {name: _installed(name) for name in LIBRARIES}
    if output is option.Plain.JSON:
        terminal.say(json.dumps(found, indent=2))
        return
    for name, number in found.items():
        terminal.say(f"{name:<13} {number or terminal.paint('not installed', 'dim')}")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
