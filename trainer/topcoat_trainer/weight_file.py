"""The header of a safetensors file, read without torch: which tensors it holds, and whether the file is whole.

Reads no tensor; whoever asks decides which error a broken file is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

HEADER_LIMIT_BYTES = 100 * 1024 * 1024
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
TRAINABLE = frozenset({"F16", "BF16", "F32", "F64"})


class BrokenWeightsError(ValueError):
    """Why a safetensors file cannot be read."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class WeightHeader:
    """What a file says about itself."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def header(path: Path) -> WeightHeader:
    """The header, after proof that the file has exactly the bytes it speaks of."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= HEADER_LIMIT_BYTES:
            raise BrokenWeightsError("it does not begin with a safetensors header")
        if length + 8 > size:
            raise BrokenWeightsError("it is cut short: the file ends within its header")
        raw = file.read(length)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BrokenWeightsError("its header is not valid JSON") from error
    if not isinstance(content, dict):
        raise BrokenWeightsError("its header is not a table of tensors")
    metadata = content.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise BrokenWeightsError("its metadata is not a table")
    return WeightHeader(_entries(content, size - 8 - length), {str(k): str(v) for k, v in metadata.items()})


def sort_metadata(path: Path) -> None:
    """Puts the header's metadata in order: the library writes it in a random one, and equal tensors must give equal
    bytes.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        content = json.loads(file.read(length))
        content["__metadata__"] = dict(sorted(content.get("__metadata__", {}).items()))
        raw = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        if len(raw) > length:
            raise BrokenWeightsError("its header is spelled in an unknown way")
        file.seek(8)
        file.write(raw.ljust(length, b" "))


def _entries(content: dict[str, Any], data_bytes: int) -> dict[str, TensorEntry]:
    try:
        spans = sorted(
            (int(e["data_offsets"][0]), int(e["data_offsets"][1]), name, str(e["dtype"]), tuple(map(int, e["shape"])))
            for name, e in content.items()
        )
    except (LookupError, TypeError, ValueError) as error:
        raise BrokenWeightsError("its header describes a tensor without dtype, shape or place") from error
    reached, entries = 0, {}
    for begin, end, name, dtype, shape in spans:
        bits = BITS.get(dtype)
        if bits is None:
            raise BrokenWeightsError(f"tensor {name} has the unknown dtype {dtype[:20]}")
        if begin != reached or min(shape, default=1) < 0 or (end - begin) * 8 != prod(shape) * bits:
            raise BrokenWeightsError(f"the place of tensor {name} does not fit its shape")
        reached = end
        entries[name] = TensorEntry(dtype, shape, end - begin)
    if reached > data_bytes:
        raise BrokenWeightsError(f"it is cut short: {reached - data_bytes} bytes are missing at its end")
    if reached < data_bytes:
        raise BrokenWeightsError(f"{data_bytes - reached} bytes stand behind its last tensor")
    return entries
