"""A version is a folder whose every byte is the sealed one."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.support import sealing
from topcoat_trainer import files, seal
from topcoat_trainer.errors import Corrupt, Diverged


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    final = tmp_path / "versions" / "v1"
    seal.seal(sealing.candidate(tmp_path / "candidate"), final, sealing.facts())
    return final


def test_a_sealed_version_verifies_and_counts_its_tensors(tmp_path: Path) -> None:
    final = tmp_path / "versions" / "v1"
    digest = seal.seal(sealing.candidate(tmp_path / "c"), final, sealing.facts())
    manifest = seal.verify(final, expected_digest=digest, base_digest="b" * 64)
    assert manifest.tensors == 2
    assert set(manifest.files) == {"adapter_model.safetensors", "tokenizer.json", "README.md"}
    assert seal.digest(final) == digest
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "tokenizer.json", "README.md", "manifest.json"])
def test_one_flipped_byte_is_named_with_both_digests(sealed: Path, name: str) -> None:
    digest = seal.digest(sealed)
    path = sealed / name
    before = files.sha256(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt) as caught:
        seal.verify(sealed, expected_digest=digest)
    text = str(caught.value)
    assert name in text
    assert before in text
    assert files.sha256(path) in text


def test_every_truncation_of_a_file_is_noticed(sealed: Path) -> None:
    path = sealed / "adapter_model.safetensors"
    data = path.read_bytes()
    for length in (0, 1, 8, 64, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(Corrupt, match="adapter_model"):
            seal.verify(sealed)
    path.write_bytes(data)
    seal.verify(sealed)


def test_missing_and_extra_files_are_refused(sealed: Path) -> None:
    (sealed / "extra.txt").write_text("x")
    with pytest.raises(Corrupt, match=r"extra\.txt.*not in the manifest"):
        seal.verify(sealed)
    (sealed / "extra.txt").unlink()
    (sealed / "README.md").unlink()
    with pytest.raises(Corrupt, match=r"README\.md.*missing"):
        seal.verify(sealed)


def test_a_link_is_refused_even_to_the_same_bytes(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes((sealed / "README.md").read_bytes())
    (sealed / "README.md").unlink()
    (sealed / "README.md").symlink_to(tmp_path / "copy")
    with pytest.raises(Corrupt, match="link"):
        seal.verify(sealed)
    (tmp_path / "v2").symlink_to(sealed)
    with pytest.raises(Corrupt, match="link"):
        seal.verify(tmp_path / "v2")


def test_a_link_in_place_of_the_manifest_is_refused(sealed: Path, tmp_path: Path) -> None:
    (sealed / "manifest.json").rename(tmp_path / "m")
    (sealed / "manifest.json").symlink_to(tmp_path / "m")
    with pytest.raises(Corrupt, match="never sealed"):
        seal.verify(sealed)


def test_another_base_model_is_refused_with_both_digests(sealed: Path) -> None:
    with pytest.raises(Corrupt, match="b" * 64 + ".*" + "c" * 64):
        seal.verify(sealed, base_digest="c" * 64)


def test_a_version_is_never_overwritten(sealed: Path, tmp_path: Path) -> None:
    before = seal.digest(sealed)
    with pytest.raises(FileExistsError):
        seal.seal(sealing.candidate(tmp_path / "again"), sealed, sealing.facts())
    assert seal.digest(sealed) == before
    seal.verify(sealed)


def test_an_unfinished_run_is_never_sealed(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="step 3"):
        seal.seal(sealing.candidate(tmp_path / "c"), tmp_path / "v1", sealing.facts(steps=3))
    assert not (tmp_path / "v1").exists()


def test_an_all_zero_adapter_is_diverged_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"learnt nothing.*learningRate"):
        seal.seal(sealing.candidate(tmp_path / "c", scale=0.0), tmp_path / "v1", sealing.facts())


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_tensor_that_is_not_finite_is_found(tmp_path: Path, poison: float, dtype: Any) -> None:
    values = np.ones(7, dtype)
    values[5] = poison
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3, dtype), "lora_B": values}, path)
    with pytest.raises(Diverged, match=r"1 of 2 tensors.*lora_B"):
        seal.count_tensors(path)


def _bfloat16(path: Path, words: list[int]) -> Path:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [len(words)], "data_offsets": [0, 2 * len(words)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(words)}H", *words))
    return path


def test_bfloat16_is_judged_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert seal.tensor_facts(_bfloat16(path, [0x3F80, 0])) == [seal.TensorFacts("x", finite=True, zero=False)]
    assert seal.tensor_facts(_bfloat16(path, [0x8000, 0])) == [seal.TensorFacts("x", finite=True, zero=True)]
    assert not seal.tensor_facts(_bfloat16(path, [0x7F80, 0]))[0].finite
    assert not seal.tensor_facts(_bfloat16(path, [0, 0xFFC0]))[0].finite


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{x",
        struct.pack("<Q", 2) + b"{}"[:1],
    ],
)
def test_a_file_that_is_no_safetensors_is_corrupt(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        seal.tensor_facts(path)


def test_half_of_a_safetensors_file_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.ones(100, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Corrupt, match="cut short"):
        seal.tensor_facts(path)


def test_a_kill_at_any_file_operation_leaves_no_version_or_a_whole_one(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        os.chdir(folder)
        seal.seal(sealing.candidate(folder / "candidate"), folder / "versions" / "v1", sealing.facts())

    outcomes = set()
    for folder, finished in sealing.killed_at_every_file_operation(work, tmp_path):
        final = folder / "versions" / "v1"
        outcomes.add((final.exists(), finished))
        if final.exists():
            seal.verify(final)
        else:
            seal.seal(sealing.candidate(folder / "second"), final, sealing.facts())
            seal.verify(final)
    assert {(False, False), (True, True)} <= outcomes
