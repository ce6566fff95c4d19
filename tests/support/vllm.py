"""A real vLLM on this machine's CPU, in an environment of its own that is made once from the pins. For tests only.

It wants 6 GB of disk and 5 GB of memory, so there is one at a time, whoever else runs tests here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support.crews import free_port
from tests.support.guard import guard
from tests.support.kube import folder as folders
from tests.support.kube import left_out
from topcoat.api import server
from topcoat.manifests import vllm

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "constraints" / "vllm.txt"
NEEDED_BYTES = 7 << 30
NAME = "tests/tiny"


class Missing(Exception):
    """Why this machine has no vLLM."""


def python() -> Path:
    """As `environment`; leaves the test out where there is none."""
    try:
        return environment()
    except Missing as missing:
        left_out.leave_out(str(missing))


def environment() -> Path:
    """The interpreter of the environment, which is made first where it is missing or its pins have changed."""
    home = folders.cache() / "vllm"
    made, stamp = home / "bin" / "python", home / "pins.txt"
    with folders.locked(folders.cache() / "vllm.lock"):
        if not stamp.exists() or stamp.read_bytes() != PINS.read_bytes():
            if shutil.disk_usage(folders.cache()).free < NEEDED_BYTES:
                raise Missing("a real vLLM needs 7 GB of disk")
            found = shutil.which("uv", path=f"{ROOT / '.tools' / 'uv' / 'bin'}:{os.environ['PATH']}")
            if found is None:
                raise Missing("there is no uv to make vLLM's environment with (make setup)")
            _uv(found, "venv", "--quiet", "--clear", "--python", sys.executable, str(home))
            _uv(found, "pip", "sync", "--quiet", "--python", str(made), "--require-hashes", str(PINS))
            shutil.copy(PINS, stamp)
    return made


def _uv(program: str, *words: str) -> None:
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_TIMEOUT": "300"}
    for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"uv ended with {done.returncode}"]
        raise Missing(f"vLLM's environment cannot be made: {said[-1][:200]}")


@dataclass
class RealVLLM:
    """One vLLM process, started as the pod's container starts it. `versions` 0: the base alone, without LoRA."""

    model: Path
    folder: Path
    versions: int = 2
    threads: int = 1
    port: int = 0
    child: subprocess.Popen[bytes] | None = None
    guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def told(self) -> server.BesideVLLM:
        """What a server beside it is told."""
        return server.BesideVLLM(url=self.url, folder=str(self.folder / "versions"), precision="FP32")

    @property
    def log(self) -> Path:
        return self.folder / "vllm.log"

    def start(self) -> RealVLLM:
        """Takes a while to answer; `ready` waits for that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        file = server.ServerFile(
            name="tiny", namespace="default", base_model_id=NAME, base_model_path=str(self.model),
            base_model_digest="0" * 64, max_adapters=max(1, self.versions), max_rank=16, vllm=self.told,
            max_running=vllm.RUNNING, admin_token_sha256="0" * 64,
        )  # fmt: skip
        shape = vllm.Shape(file, cpu_adapters=8, gpus=0)
        here = {
            "VLLM_CPU_KVCACHE_SPACE": "1", **self._threads(),
            "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TMPDIR": str(self.folder), "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
        }  # fmt: skip
        # What vLLM compiles at its first request takes it 20 seconds; it is kept from run to run.
        kept = str(folders.cache() / "vllm-compiled")
        told = {row["name"]: row["value"].replace("/tmp", kept) for row in vllm.environment()} | here
        words = vllm.command(shape)[1:]
        if not self.versions:
            words = [*words[: words.index("--enable-lora")], "--disable-uvicorn-access-log"]
        command = [str(python()), *words, "--enforce-eager"]
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                command, env=told, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self.guard = guard(self.child.pid, os.getpid())
        return self

    def _threads(self) -> dict[str, str]:
        """One is not bound: nobody knows which core is free."""
        cores = sorted(os.sched_getaffinity(0))[: self.threads]
        bound = ",".join(map(str, cores)) if self.threads > 1 else "nobind"
        return {"VLLM_CPU_OMP_THREADS_BIND": bound, "OMP_NUM_THREADS": str(self.threads)}

    def ready(self, seconds: float = 240) -> RealVLLM:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.child is not None
            assert self.child.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return self
            time.sleep(0.5)
        raise AssertionError(f"vLLM is not up after {seconds} s\n{self.log.read_text()[-3000:]}")

    def signal(self, number: int) -> None:
        """To all that belongs to it."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)

    def processes(self) -> list[int]:
        """All that belongs to it."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.child is not None and os.getpgid(int(path.name)) == self.child.pid:
                    found.append(int(path.name))
        return found

    def core(self) -> int:
        """The process that computes."""
        return next(one for one in self.processes() if "EngineCor" in Path(f"/proc/{one}/comm").read_text())

    def kill(self) -> None:
        """At once, with all that belongs to it."""
        if self.child is None:
            return
        if self.guard is not None:
            self.guard.kill()
            self.guard.wait(30)
        self.signal(signal.SIGKILL)
        self.child.wait(30)
        self.child = None


@contextlib.contextmanager
def running(model: Path, folder: Path, versions: int = 2) -> Iterator[RealVLLM]:
    """A vLLM that is up. Waits while another one runs on this machine."""
    with folders.locked(folders.cache() / "vllm.running"):
        made = RealVLLM(model, folder, versions)
        try:
            yield made.start().ready()
        finally:
            made.kill()
