"""Image archives as `docker save` writes them, made from plain files: no registry and no daemon is needed."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(target: Path, tag: str, layer: Path, settings: Mapping[str, Any]) -> Path:
    """An image of one layer (a tar file). `settings` are the image's config: Env, Cmd, Entrypoint."""
    with layer.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": dict(settings),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "tests/support/kube/archive.py"}],
    }
    body = json.dumps(config).encode()
    name = f"{hashlib.sha256(body).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as archive:
        archive.add(layer, "layer.tar")
        _add(archive, name, body)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return target


def one_program(target: Path, tag: str, program: Path) -> Path:
    """An image that holds a static program and nothing else."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        tar.add(program, program.name)
    write(target, tag, layer, {"Entrypoint": [f"/{program.name}"], "User": "65532:65532"})
    layer.unlink()
    return target


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def _add(archive: tarfile.TarFile, name: str, body: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(body)
    archive.addfile(entry, io.BytesIO(body))
