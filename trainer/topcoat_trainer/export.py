"""A sealed version as others take it: `python -m topcoat_trainer.export [--request FILE]`, JSON in, JSON out.

`hf`: the version's own files, every byte checked. `merged`: base and tail as one model, loaded again and compared
with the version's golden probes. Never changes a version and never overwrites a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pydantic

from topcoat.api.report import VersionManifest
from topcoat.api.section import Section
from topcoat_trainer import files, seal
from topcoat_trainer.errors import BaseModelError, Corrupt, TrainerError, UserInputError

PROVENANCE = "topcoat.json"
SHARD_SIZE = "4GB"
# Largest difference of log-probabilities that number formats explain; beyond it, the merge went wrong.
TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
# Rows of the tenant's data stay with the version: an export may be given away.
PRIVATE = frozenset({"answers.jsonl", "evaluation.json", "report.html", seal.MANIFEST})


class Request(Section):
    """What is wanted."""

    form: Literal["hf", "merged"]
    version: str
    """Folder of a sealed version."""
    out: str
    """Folder to make; it must not be there."""
    digest: str | None = None
    """SHA-256 of the version's manifest.json, as recorded when it was sealed."""
    base_model: str | None = None
    """Folder of the base model; by default the one that the manifest names."""


def export(request: Request) -> dict[str, Any]:
    """Makes the folder, whole or not at all. Says where it is, how large, and how exact."""
    version, out = Path(request.version), Path(request.out)
    if out.exists() or out.is_symlink():
        raise UserInputError("the folder is there already", where=str(out), hint="name one that is not there yet")
    manifest = seal.verify(version, expected_digest=request.digest)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = files.temporary_directory(out.parent)
    try:
        exactness = (
            _copied(version, manifest, temporary)
            if request.form == "hf"
            else _merged(request, version, manifest, temporary)
        )
        _write_provenance(request, manifest, temporary, exactness)
        files.publish(temporary, out)
    except BaseException:
        files.remove_tree(temporary)
        raise
    size = sum((out / name).stat().st_size for name in files.listing(out))
    return {"path": str(out), "form": request.form, "version": manifest.version, "bytes": size, **exactness}


def _copied(version: Path, manifest: VersionManifest, out: Path) -> dict[str, Any]:
    """The files that PEFT and model hubs know."""
    if manifest.kind != "lora":
        raise UserInputError(
            "a version of method Full has no adapter", where=str(version), hint="export it with the form merged"
        )
    with files.storing(out):
        for name in sorted(manifest.files.keys() - PRIVATE):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(version / name, out / name)
    for name, sealed in manifest.files.items():
        if name not in PRIVATE and files.sha256(out / name) != sealed.sha256:
            raise Corrupt("the copy differs from the version", where=str(out / name), hint="export again")
    return {}


def _merged(request: Request, version: Path, manifest: VersionManifest, out: Path) -> dict[str, Any]:
    """One model with the tail in it, in the base model's own number format, checked by loading it again."""
    import torch

    from topcoat_trainer import model, probe

    facts = model.inspect(Path(request.base_model or manifest.base_model.path))
    if facts.digest != manifest.base_model.digest:
        raise BaseModelError(
            f"the base model changed: its digest is {facts.digest}, the version's is {manifest.base_model.digest}",
            where=str(facts.path),
            hint="give the folder of the base model that the version was trained on",
        )
    base = model.load(facts.path, "cpu", torch.float32, facts=facts)
    _put_in(base.model, version, manifest)
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(facts.dtype, torch.float32)
    with files.storing(out):
        cast("torch.nn.Module", base.model).to(kind)
        base.model.save_pretrained(out, max_shard_size=SHARD_SIZE)
        for name in sorted(manifest.files.keys() & _tokenizer_files()):
            shutil.copyfile(version / name, out / name)
    del base
    again = model.load(out, "cpu", torch.float32)
    difference = probe.difference(again.model, manifest.probes)
    limit = TOLERANCE[str(kind).removeprefix("torch.")]
    if not difference <= limit:
        raise Corrupt(
            f"the merged model differs from the version by {difference:.3g} in log-probability, allowed are {limit}",
            where=str(version),
            hint="serve the adapter itself; report this base model's architecture",
        )
    return {"dtype": str(kind).removeprefix("torch."), "probeDifference": difference}


def _put_in(base: Any, version: Path, manifest: VersionManifest) -> None:
    """Adds the trained weights to the base model's own, for good."""
    import safetensors.torch
    import torch

    weights = version / seal.WEIGHTS[manifest.kind]
    if manifest.kind == "lora":
        import peft

        # PEFT asks transformers by an old name whether layers are checkpointed; nobody here can mend that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        peft.PeftModel.from_pretrained(base, str(version), is_trainable=False).merge_and_unload(safe_merge=True)
        return
    parameters = dict(base.named_parameters())
    with torch.no_grad():
        for name, tensor in safetensors.torch.load_file(weights).items():
            parameters[name].copy_(tensor)


def _tokenizer_files() -> set[str]:
    from topcoat_trainer.model_file import COMPANIONS

    return set(COMPANIONS) - {"generation_config.json"}


def _write_provenance(request: Request, manifest: VersionManifest, out: Path, exactness: dict[str, Any]) -> None:
    """Where the files come from, and the digest of each: what can be checked after they were given away."""
    facts = {
        "form": request.form,
        "job": manifest.lineage.job,
        "version": manifest.version,
        "versionDigest": seal.digest(Path(request.version)),
        "baseModel": {"id": manifest.base_model.id, "digest": manifest.base_model.digest},
        **exactness,
        "files": {name: files.sha256(out / name) for name in files.listing(out)},
    }
    files.write_json(out / PROVENANCE, facts)


def parsed(text: str) -> Request:
    """A request from its JSON."""
    try:
        return Request.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "request"
        raise UserInputError(f"{field}: {first['msg']}", where="request", hint="see topcoat_trainer.export") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one request; the exit code is one of topcoat.api.exits."""
    parser = argparse.ArgumentParser(prog="topcoat_trainer.export", description="Copy or merge a sealed version.")
    parser.add_argument("--request", default="-", help="file with the request as JSON, or - for standard input")
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    text = sys.stdin.read() if options.request == "-" else Path(options.request).read_text(encoding="utf-8")
    try:
        sys.stdout.write(json.dumps(export(parsed(text))) + "\n")
    except TrainerError as error:
        own = {"message": error.message, "where": error.where, "hint": error.hint}
        sys.stdout.write(json.dumps({"error": own}) + "\n")
        sys.stderr.write(f"{error}\n")
        return error.exit_code.value
    return 0


if __name__ == "__main__":
    sys.exit(main())
