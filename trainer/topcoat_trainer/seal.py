"""What makes a folder a version: a manifest, written last, that names every file with its size and digest.

`seal` publishes a candidate by one rename and never overwrites; `verify` believes nothing it has not read again.
Never imports torch: the planner's side and `ask` verify before anything heavy is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from topcoat.api.report import EvaluationReport, FileSeal, VersionManifest
from topcoat_trainer import files
from topcoat_trainer.errors import Corrupt, Diverged

MANIFEST = "manifest.json"
WEIGHTS = {"lora": "adapter_model.safetensors", "tail": "tail.safetensors"}
EVALUATION = "evaluation.json"
RAW_FORMAT = "PromptCompletion"
HEADER_LIMIT_BYTES = 100 * 1024 * 1024
# Bits of one number in safetensors' own names: (as numpy reads it, exponent mask). All exponent bits set means
# infinite or not a number; so bfloat16 is judged too, which numpy does not have.
FLOATS = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}
BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What one pass over a tensor's bytes tells."""

    name: str
    finite: bool
    zero: bool


def tensor_facts(path: Path) -> list[TensorFacts]:
    """Name, finiteness and zeroness of every tensor of a safetensors file, read in blocks. Corrupt if it is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT_BYTES, size - 8):
            raise Corrupt("the safetensors header has an impossible length", where=str(path))
        try:
            header = json.loads(file.read(length))
            spans = {
                str(name): (str(entry["dtype"]), int(entry["data_offsets"][0]), int(entry["data_offsets"][1]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Corrupt("the safetensors header cannot be read", where=str(path)) from error
        if any(not 0 <= start <= end <= size - 8 - length for _, start, end in spans.values()):
            raise Corrupt("the safetensors file is cut short", where=str(path))
        return [
            _facts(file, name, (dtype, 8 + length + start, end - start))
            for name, (dtype, start, end) in sorted(spans.items())
        ]


def _facts(file: Any, name: str, span: tuple[str, int, int]) -> TensorFacts:
    dtype, start, length = span
    kind, exponent = FLOATS.get(dtype, ("<u1", 0))
    finite, zero = True, True
    file.seek(start)
    while length > 0 and (block := file.read(min(BLOCK_BYTES, length))):
        length -= len(block)
        bits = np.frombuffer(block[: len(block) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], dtype=kind)
        if exponent:
            finite = finite and not bool(((bits & exponent) == exponent).any())
            # Shifting the sign out makes minus zero count as zero.
            zero = zero and not bool((bits << np.asarray(1, dtype=kind)).any())
        else:
            zero = zero and not bool(bits.any())
    return TensorFacts(name, finite, zero)


def count_tensors(path: Path) -> int:
    """How many tensors the weights have. Diverged if one is not finite, or if they change nothing."""
    facts = tensor_facts(path)
    bad = [fact.name for fact in facts if not fact.finite]
    if bad:
        raise Diverged(
            f"{len(bad)} of {len(facts)} tensors hold numbers that are not finite, first {bad[0]}", where=path.name
        )
    # A LoRA starts with B = 0 and A random: while every B is zero, the product is zero and nothing was learnt.
    deciding = [fact for fact in facts if "lora_B" in fact.name or "lora_embedding_B" in fact.name] or facts
    if all(fact.zero for fact in deciding):
        raise Diverged(
            "the weights are all zero: the run learnt nothing",
            where=path.name,
            hint="raise training.learningRate, or check that rows have tokens with loss",
        )
    return len(facts)


def _file_seals(directory: Path) -> dict[str, FileSeal]:
    return {
        name: FileSeal(bytes=(directory / name).stat().st_size, sha256=files.sha256(directory / name))
        for name in files.listing(directory)
        if name != MANIFEST
    }


def seal(candidate: Path, final: Path, facts: VersionManifest) -> str:
    """Writes the manifest, makes all durable and publishes it as `final` by one rename. Returns the manifest's digest.

    `facts.files` and `facts.tensors` are found here, whatever they were. Sealing again after a kill is allowed until
    the rename; after it, FileExistsError.
    """
    steps, target = facts.lineage.steps, facts.lineage.target_steps
    if steps != target:
        raise Corrupt(f"the candidate is of step {steps}, but the run was to do {target}", where=str(candidate))
    tensors = count_tensors(candidate / WEIGHTS[facts.kind])
    files.sweep(candidate)
    manifest = facts.model_copy(update={"files": _file_seals(candidate), "tensors": tensors})
    data = files.json_bytes(manifest.as_json())
    files.write_bytes(candidate / MANIFEST, data)
    files.publish(candidate, final)
    return files.sha256_of_bytes(data)


def digest(directory: Path) -> str:
    """SHA-256 of a version's manifest.json: the version's digest everywhere."""
    path = directory / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise Corrupt(
            "the version has no manifest, so it was never sealed",
            where=str(path),
            hint="serve another version, or run the job again",
        )
    return files.sha256(path)


def read(directory: Path, expected_digest: str | None = None) -> VersionManifest:
    """The manifest alone, its own digest checked where one is known; the files it names are not read."""
    path = directory / MANIFEST
    found = digest(directory)
    if expected_digest is not None and found != expected_digest:
        raise Corrupt(f"its sha256 is {found}, recorded is {expected_digest}", where=str(path))
    try:
        return VersionManifest.model_validate(files.read_json(path))
    except pydantic.ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise Corrupt(f"the manifest's field {field} cannot be read", where=str(path)) from error


def verify(directory: Path, *, expected_digest: str | None = None, base_digest: str | None = None) -> VersionManifest:
    """Reads every file again and compares it with the manifest. Corrupt names the file and both digests."""
    if directory.is_symlink():
        raise Corrupt("the version is a link, not a folder", where=str(directory))
    manifest = read(directory, expected_digest)
    present = set(files.listing(directory)) - {MANIFEST}
    for name in sorted(manifest.files.keys() - present):
        raise Corrupt(f"the file is missing; its sha256 was {manifest.files[name].sha256}", where=str(directory / name))
    for name in sorted(present - manifest.files.keys()):
        raise Corrupt(
            "the file is not in the manifest",
            where=str(directory / name),
            hint="remove it: a sealed version holds only what was sealed",
        )
    for name, expected in sorted(manifest.files.items()):
        found = files.sha256(directory / name)
        if found != expected.sha256 or (directory / name).stat().st_size != expected.bytes:
            raise Corrupt(f"its sha256 is {found}, the manifest says {expected.sha256}", where=str(directory / name))
    if base_digest is not None and base_digest != manifest.base_model.digest:
        raise Corrupt(
            f"the version was trained on a base model with digest {manifest.base_model.digest}, "
            f"this one has {base_digest}",
            where=str(directory / MANIFEST),
            hint="load the base model that the manifest names",
        )
    return manifest


def learnt_raw_prompts(directory: Path) -> bool:
    """Whether a version learnt prompts as they stand, without a chat template; its evidence says so."""
    path = directory / EVALUATION
    return path.is_file() and EvaluationReport.model_validate(files.read_json(path)).dataset.format == RAW_FORMAT
