"""States that follow from a number, so that any process can tell whether they are right. For tests only."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import torch

from topcoat_trainer.cache import shelf
from topcoat_trainer.cache.shelf import Shelf

WIDTH = 8
KEY = {"model": "sha256:" + "a" * 64, "boundary": "4"}


def opened(
    folder: Path, key: dict[str, str] = KEY, *, dtype: torch.dtype = torch.float32, limit: int | None = None
) -> Shelf:
    return Shelf(folder, key, width=WIDTH, dtype=dtype, limit_bytes=limit)


def entry_name(number: int) -> bytes:
    return shelf.name([number, 7, -1])


def states(number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Any bits at all, also those of numbers that are none; as many tokens as the number says, 1 to 40."""
    chance = random.Random(number)
    size = chance.randint(1, 40) * WIDTH * dtype.itemsize
    return torch.frombuffer(bytearray(chance.randbytes(size)), dtype=dtype).view(-1, WIDTH)


def filled(folder: Path, numbers: range, dtype: torch.dtype = torch.float32) -> Shelf:
    made = opened(folder, dtype=dtype)
    for number in numbers:
        made.put(entry_name(number), states(number, dtype))
    made.flush()
    return made


def bits(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def found(looked: Shelf, numbers: range) -> set[int]:
    """The numbers whose states are found. Wrong states fail the test."""
    seen = set()
    for number in numbers:
        got = looked.find(entry_name(number))
        if got is not None:
            wanted = states(number, looked.dtype)
            assert (got.shape, got.dtype, bits(got)) == (wanted.shape, wanted.dtype, bits(wanted)), number
            seen.add(number)
    return seen


def data_file(made: Shelf) -> Path:
    (path,) = made.path.glob("*.states")
    return path


def index_file(made: Shelf) -> Path:
    (path,) = made.path.glob("*.index")
    return path
