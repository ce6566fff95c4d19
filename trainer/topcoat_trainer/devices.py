"""Where the run computes and in which number format, how much memory there is, and how chance is tamed.

Decides from the machine and the manifest only; loads nothing.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from topcoat_trainer.errors import UserInputError

DTYPES = {"BF16": torch.bfloat16, "FP16": torch.float16, "FP32": torch.float32}
CGROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Device:
    """One device and the format of its arithmetic."""

    name: str
    dtype: torch.dtype
    description: str

    @property
    def is_gpu(self) -> bool:
        return self.name.startswith("cuda")

    @property
    def precision(self) -> str:
        """BF16, FP16 or FP32."""
        return next(word for word, dtype in DTYPES.items() if dtype == self.dtype)


def choose(precision: str = "Auto", device: str = "auto") -> Device:
    """The device and dtype for `training.precision`. Auto: FP32 on a CPU; BF16 on a GPU that has it, else FP32."""
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserInputError(
            "a GPU is asked for, but this machine has none", where="device", hint="use the device auto or cpu"
        )
    gpu = device.startswith("cuda")
    if precision == "FP16" and not gpu:
        raise UserInputError(
            "FP16 needs a GPU, and this machine has none", where="training.precision", hint="use Auto or FP32"
        )
    if precision == "Auto":
        precision = "BF16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "FP32"
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {threads()} threads"
    return Device(device, DTYPES[precision], name)


def check_method(method_type: str, device: Device) -> None:
    """QLoRA's 4-bit kernels exist for GPUs only; say so before anything is loaded."""
    if method_type != "QLoRA":
        return
    if not device.is_gpu:
        raise UserInputError(
            "QLoRA needs a GPU, and this machine has none",
            where="method.type",
            hint="use method.type LoRA, which needs memory for the whole base model",
        )
    for package in ("bitsandbytes", "accelerate"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserInputError(
                f"QLoRA needs the package {package}, and it is not installed here",
                where="method.type",
                hint=f"use method.type LoRA, or a trainer image with {package}",
            ) from error


def deterministic(seed: int, device: Device | None = None) -> None:
    """Seeds every generator and asks for kernels that give the same bits each time."""
    random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device is not None and device.is_gpu:
        # cuBLAS reads this when its first handle is made; without it matrix products may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Only a warning where no deterministic kernel exists: on a GPU equal bits are a wish, on a CPU a promise.
        torch.use_deterministic_algorithms(mode=True, warn_only=True)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Inside it torch draws from `seed`; afterwards the generators are where they were."""
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield


def threads() -> int:
    """CPU threads that this process may really use: OMP_NUM_THREADS, else affinity and the container's quota."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    count = len(os.sched_getaffinity(0))
    quota = _read(CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdecimal() and quota[1].isdecimal() and int(quota[1]) > 0:
        count = min(count, max(1, int(quota[0]) // int(quota[1])))
    return max(1, count // neighbours())


def neighbours() -> int:
    """Processes of this run that share this machine's processors and memory."""
    found = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(found)) if found.isdecimal() else 1


def use_threads(count: int = 0) -> int:
    """Sets torch's threads (0: as `threads` says). The count is part of what makes a CPU run repeatable."""
    count = count or threads()
    torch.set_num_threads(count)
    return count


def available_bytes(device: Device | None = None) -> int:
    """Memory that can still be taken on the device, respecting the container's limit on a CPU."""
    if device is not None and device.is_gpu:
        free, _ = torch.cuda.mem_get_info(device.name)
        return int(free)
    fields = dict(line.split(":", 1) for line in _read(MEMORY).splitlines() if ":" in line)
    free = int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024
    limit, used = _read(CGROUP / "memory.max"), _read(CGROUP / "memory.current")
    if limit.isdecimal() and used.isdecimal():
        # Pages of files count as used, but are given back on demand.
        statistics = dict(line.split() for line in _read(CGROUP / "memory.stat").splitlines() if line.count(" ") == 1)
        free = min(free, int(limit) - int(used) + int(statistics.get("inactive_file", "0")))
    return max(0, free) // neighbours()


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
