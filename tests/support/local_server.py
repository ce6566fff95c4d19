"""`topcoat serve` as a person starts it: two real processes, a folder for their files, clients. For tests only."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai

PROGRAM = "from topcoat.cli import app; app.main()"


@dataclass
class LocalServer:
    """The command, the folder where it says what it does, and the one for temporary files."""

    command: subprocess.Popen[bytes]
    folder: Path

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def left(self) -> list[str]:
        """What it left among the temporary files."""
        return [path.name for path in self.temporary.iterdir()]

    @property
    def url(self) -> str:
        found = re.search(r"^Serving at (\S+)$", self.out, re.MULTILINE)
        assert found is not None, self.out
        return found[1]

    @property
    def engine(self) -> int:
        """Process id of the trainer's process; 0: there is none."""
        pid = self.command.pid
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(words[0]) if words else 0

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.02)
        raise AssertionError(f"after {seconds} s still not: {what}\n{self.out}\n{self.err}")

    def ready(self) -> LocalServer:
        self.until(lambda: "Next: " in self.out or self.command.poll() is not None, "it answers")
        assert "Next: " in self.out, self.err
        return self

    def ended(self) -> int:
        """Exit code, once it has ended by itself or by a signal."""
        return self.command.wait(timeout=60)

    def stop(self, number: int = signal.SIGINT) -> int:
        self.command.send_signal(number)
        return self.ended()

    @contextlib.contextmanager
    def client(self, token: str = "none") -> Iterator[openai.OpenAI]:
        with httpx2.Client(trust_env=False) as http, openai.OpenAI(
            base_url=self.url, api_key=token, max_retries=0, timeout=60, http_client=http
        ) as made:  # fmt: skip
            yield made

    def fingerprint(self, model: str = "claims", token: str = "none") -> str:
        """Digest of whoever answers."""
        with self.client(token) as client:
            return asked(client, model)


def asked(client: openai.OpenAI, model: str = "claims") -> str:
    messages: Any = [{"role": "user", "content": "roof hail"}]
    said = client.chat.completions.create(model=model, messages=messages, max_tokens=3)
    assert said.choices[0].message.content is not None
    return said.system_fingerprint or ""


def is_alive(pid: int) -> bool:
    """Whether the process is there; one that ended and that nobody waits for is not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@contextlib.contextmanager
def begun(store: Path, folder: Path, *words: str) -> Iterator[LocalServer]:
    """`topcoat serve` under way; at the end nothing of it is alive."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-c", PROGRAM, "serve", "--store", str(store), *(words or ("--port", "0"))]
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        command = subprocess.Popen(line, stdout=out, stderr=err, env=environment)
    made = LocalServer(command, folder)
    engine = 0
    try:
        yield made
    finally:
        if command.poll() is None:
            engine = made.engine
            command.kill()
            command.wait()
        if engine and is_alive(engine):
            made.until(lambda: not is_alive(engine), "its engine ends with it")
