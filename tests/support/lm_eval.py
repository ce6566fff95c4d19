"""EleutherAI's lm-evaluation-harness, in an environment of its own that is made once from the pins. For tests only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.kube import left_out

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".tools" / "lm-eval"
PINS = ROOT / "constraints" / "lm-eval.txt"


def python() -> Path:
    """The interpreter of the environment, which is made first where it is missing or its pins have changed."""
    made, stamp = FOLDER / "bin" / "python", FOLDER / "pins.txt"
    if not stamp.exists() or stamp.read_bytes() != PINS.read_bytes():
        found = shutil.which("uv", path=f"{ROOT / '.tools' / 'uv' / 'bin'}:{os.environ['PATH']}")
        if found is None:
            left_out.leave_out("there is no uv to make lm-eval's environment with (make setup)")
        _uv(found, "venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER))
        _uv(found, "pip", "sync", "--quiet", "--python", str(made), "--require-hashes", str(PINS))
        shutil.copy(PINS, stamp)
    return made


def _uv(program: str, *words: str) -> None:
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_TIMEOUT": "300"}
    for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        left_out.leave_out(f"lm-eval's environment cannot be made: {done.stderr.strip().splitlines()[-1][:200]}")


def evaluated(folder: Path, model: dict[str, Any], tasks: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs tasks (name -> the rest of its file, all local) by `local-completions`; each task's samples."""
    for name, task in tasks.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **task}))  # JSON is YAML
    command = [
        str(python()), "-m", "lm_eval", "run", "--model", "local-completions",
        "--model_args", ",".join(f"{name}={value}" for name, value in model.items()),
        "--tasks", ",".join(tasks), "--include_path", str(folder), "--batch_size", "4",
        "--log_samples", "--output_path", str(folder / "out"),
    ]  # fmt: skip
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "NO_PROXY": "127.0.0.1",
    }
    environment = os.environ | offline | {"OPENAI_API_KEY": model.get("auth_token", "none"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {name: _samples(folder / "out", name) for name in tasks}


def _samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
