"""The container of a stock vLLM beside our server in one pod: heard on loopback only, told everything by arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from topcoat.api import profile, server
from topcoat.manifests import pod

Json = dict[str, Any]

PORT = 8100
FOLDER = "/topcoat/versions"
"""Where the server puts versions and vLLM reads them: an emptyDir."""
SLOTS = 32
"""Versions that vLLM computes in one batch, at most: each slot takes device memory for the highest rank."""
RUNNING = 256
WAITING = 1024
MOST_LOGPROBS = 20
# Where LoRA versions may change something: the linear modules of decoders' layers, by the names that families give
# them. Not the head: no version of ours changes it, and where one might, vLLM 0.32's engine dies when two prompts are
# scored at once (vllm #16668).
MODULES = (
    "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj", "out_proj",
    "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "c_attn", "c_proj", "c_fc", "fc1", "fc2", "fc_in",
    "fc_out", "w1", "w2", "w3", "Wqkv", "Wo", "wq", "wk", "wv", "wo", "in_proj", "linear_in", "linear_out",
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
)  # fmt: skip
DTYPES = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16"}
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - an emptyDir


@dataclass(frozen=True, slots=True)
class Shape:
    """What the arguments depend on."""

    file: server.ServerFile
    cpu_adapters: int
    gpus: int


def gpus(resources: Json) -> int:
    """GPUs that a container asks for."""
    asked = {**resources.get("requests", {}), **resources.get("limits", {})}
    return sum(int(count) for name, count in asked.items() if name.endswith("/gpu") and str(count).isdecimal())


def beside(gpus: int) -> server.BesideVLLM:
    """What the server is told of it. The number format is the one that training.precision Auto gives there."""
    precision = "BF16" if gpus else "FP32"
    return server.BesideVLLM(url=f"http://127.0.0.1:{PORT}", folder=FOLDER, precision=precision)


def command(shape: Shape) -> list[str]:
    """The command and its arguments. The image's own entry point is not relied on."""
    told, beside_us = shape.file, shape.file.vllm
    if beside_us is None:
        raise ValueError("the server file names no vLLM")
    # One more than are wanted: the base model answers as a version that changes nothing.
    held = told.max_adapters + 1
    arguments = {
        "--model": told.base_model_path,
        "--served-model-name": told.base_model_id,
        "--host": "127.0.0.1",
        "--port": beside_us.url.rsplit(":", 1)[-1],
        "--dtype": DTYPES[beside_us.precision],
        "--max-model-len": "auto",
        "--max-num-seqs": str(told.max_running),
        "--max-logprobs": str(MOST_LOGPROBS),
        # The model's own sampling settings would be mixed into what clients ask for.
        "--generation-config": "vllm",
        "--max-lora-rank": str(told.max_rank),
        "--max-loras": str(min(held, SLOTS)),
        "--max-cpu-loras": str(max(held, shape.cpu_adapters + 1)),
    }
    if shape.gpus > 1:
        arguments["--tensor-parallel-size"] = str(shape.gpus)
    pairs = [word for pair in arguments.items() for word in pair]
    flags = ["--enable-lora", "--disable-uvicorn-access-log", "--lora-target-modules", *MODULES]
    return ["python3", "-m", "vllm.entrypoints.openai.api_server", *pairs, *flags]


def environment() -> list[Json]:
    """Beside the variables of every pod. Caches go to the only places that can be written."""
    own = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        "VLLM_CACHE_ROOT": "/tmp/vllm",  # noqa: S108 - an emptyDir
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108 - an emptyDir
        "TRITON_CACHE_DIR": "/tmp/triton",  # noqa: S108 - an emptyDir
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",  # noqa: S108 - an emptyDir
        # The user has no name in the image, and torch asks for one.
        "USER": "topcoat",
        "LOGNAME": "topcoat",
    }
    return [{"name": name, "value": value} for name, value in own.items()]


def container(
    shape: Shape, found: profile.FineTuneProfile, mounts: tuple[pod.Mount, ...], resources: Json
) -> pod.Container:
    """It has the GPUs; the agent has the probes: a pod is ready when versions are proved, not when vLLM is up."""
    memory = pod.Mount("shared-memory", {"emptyDir": {"medium": "Memory"}}, SHARED_MEMORY, read_only=False)
    return pod.Container(
        name="vllm",
        image=str(found.spec.images.vllm),
        command=command(shape),
        resources=resources,
        env=[*pod.environment(found.spec.server, offline=True), *environment()],
        mounts=(*mounts, versions(read_only=True), memory),
    )


def versions(*, read_only: bool) -> pod.Mount:
    return pod.Mount("loaded-versions", {"emptyDir": {}}, FOLDER, read_only=read_only)
