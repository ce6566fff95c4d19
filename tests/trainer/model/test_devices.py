"""Device, precision, threads, memory and chance on a machine without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from topcoat_trainer import devices
from topcoat_trainer.errors import UserInputError

GPU = devices.Device("cuda:0", torch.bfloat16, "a GPU")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of machines without a GPU")


@no_gpu
def test_a_cpu_computes_in_fp32_unless_told_otherwise() -> None:
    assert devices.choose().precision == "FP32"
    assert devices.choose("BF16").dtype == torch.bfloat16
    assert not devices.choose().is_gpu


@no_gpu
def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserInputError, match=r"training.precision: FP16 needs a GPU"):
        devices.choose("FP16")


@no_gpu
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserInputError, match="this machine has none"):
        devices.choose("Auto", "cuda:0")


def test_qlora_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserInputError, match=r"method.type: QLoRA needs a GPU.*use method.type LoRA"):
        devices.check_method("QLoRA", devices.Device("cpu", torch.float32, "a CPU"))
    devices.check_method("LoRA", devices.Device("cpu", torch.float32, "a CPU"))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_qlora_without_bitsandbytes_is_refused() -> None:
    with pytest.raises(UserInputError, match="bitsandbytes"):
        devices.check_method("QLoRA", GPU)


def test_threads_respect_the_containers_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unlimited = devices.threads()
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert devices.threads() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert devices.threads() == unlimited
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert devices.threads() == 3


def test_available_memory_respects_the_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    assert devices.available_bytes() > 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 800000\ninactive_file 50000\n")
    assert devices.available_bytes() == 150_000


def test_borrowed_randomness_leaves_the_generator_where_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with devices.own_randomness(7):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with devices.own_randomness(7):
        assert torch.equal(torch.rand(3), first)


def test_the_same_seed_gives_the_same_numbers() -> None:
    devices.deterministic(5)
    first = torch.rand(3)
    devices.deterministic(5)
    assert torch.equal(torch.rand(3), first)
