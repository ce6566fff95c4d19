"""A model server with really sealed tiny versions: files as the operator writes them, a process of its own, a client.

For tests only. The process is forked from this one, where torch is loaded already, so that it starts in a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import safetensors.torch
import torch

from tests.support import sealing, tiny_models
from topcoat.api.method import LoRA, Method, MethodType
from topcoat.api.report import TaskKind
from topcoat.api.server import AliasFile, Target, WantedVersion
from topcoat_trainer import adapter, files, layers, model, probe, seal
from topcoat_trainer.model import BaseModel
from topcoat_trainer.serve import process, told

ADMIN = "the-operators-token"
BASE = "tests/tiny"
PROMPTS = ([1, 20, 30, 40], [1, 50, 60], [70])


def base(folder: Path, family: str = "llama", seed: int = 0, **changes: Any) -> BaseModel:
    """A tiny model that is sure of what it says: as made, all its tokens are about equally likely."""
    path = tiny_models.make(family, folder, seed=seed, **changes) / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    head = next(
        name for name in ("lm_head.weight", "model.embed_tokens.weight", "transformer.wte.weight") if name in tensors
    )
    tensors[head] *= 10
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return model.load(folder)


def candidate(base: BaseModel, folder: Path, seed: int, *, kind: str = "lora", rank: int = 8) -> Path:
    """Weights as a training run would export them, but random: each seed answers differently."""
    lora = LoRA(rank=rank, alpha=2 * rank, use_dora=kind == "dora")
    method = Method(type=MethodType.FULL) if kind == "tail" else Method(lora=lora)
    tail = adapter.attach(base, method, layers.boundary(base.model, 2, "Classification"), seed)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in tail.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.15)
    adapter.export(tail, folder, BASE)
    tail.detach()
    return folder


def sealed(base: BaseModel, made: Path, folder: Path, **changes: Any) -> WantedVersion:
    """The candidate `made`, sealed as `folder`, whose name is the version's."""
    with adapter.using(base, made) as tuned:
        probes = probe.make(tuned, PROMPTS)
    facts = sealing.facts()
    card = facts.base_model.model_copy(update={"path": str(base.path), "digest": base.digest})
    kind = "tail" if (made / "tail.safetensors").exists() else "lora"
    known = {"version": folder.name, "base_model": card, "probes": probes, "kind": kind, "task": TaskKind.GENERATION}
    digest = seal.seal(made, folder, facts.model_copy(update={**known, **changes}))
    return WantedVersion(version=folder.name, path=str(folder), digest=f"sha256:{digest}")


def version(base: BaseModel, folder: Path, seed: int, *, kind: str = "lora", rank: int = 8, **changes: Any) -> Any:
    made = candidate(base, folder.with_name(f"{folder.name}-candidate"), seed, kind=kind, rank=rank)
    return sealed(base, made, folder, **changes)


def alias(name: str, generation: int, versions: list[Any], targets: list[Any] | None = None, **more: Any) -> AliasFile:
    """Targets: version names, or (name, weight)."""
    found = [Target(version=t) if isinstance(t, str) else Target(version=t[0], weight=t[1]) for t in targets or []]
    fields = {"alias": name, "job": name, "generation": generation, "versions": versions, "targets": found}
    return AliasFile.model_validate({**fields, **more})


@dataclass
class Server:
    """One server process and the folder that it follows."""

    folder: Path
    base: BaseModel
    told: dict[str, Any] = field(default_factory=dict)
    child: int = 0
    client_port: int = 0
    agent_port: int = 0

    def write(self, *made: AliasFile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in made:
            files.write_json(self.folder / f"{file.alias}.json", file.as_json())

    def start(self) -> Server:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {
            "name": "tiny", "namespace": "default", "baseModelId": BASE, "baseModelPath": str(self.base.path),
            "baseModelDigest": self.base.digest, "noticeSeconds": 0,
            "adminTokenSha256": hashlib.sha256(ADMIN.encode()).hexdigest(),
        }  # fmt: skip
        files.write_json(self.folder / "server.json", known | self.told)
        self.output.unlink(missing_ok=True)
        self.client_port = 0
        self.child = sealing.forked(self._serve)
        self.until(lambda: self.output.exists() and "port" in self.output.read_text(), "it names its ports")
        words = self.output.read_text().split()
        self.client_port, self.agent_port = int(words[3].rstrip(",")), int(words[-1])
        return self

    @property
    def output(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.out"

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.log"

    def _serve(self) -> None:
        with self.output.open("w") as out, self.log.open("a") as err:
            os.dup2(err.fileno(), 2)
            sys.stdout = out
            logging.basicConfig(level=logging.INFO, stream=err, force=True, format="%(levelname)s %(message)s")
            places = process.Places(self.folder, "127.0.0.1", self.client_port, 0)
            try:
                asyncio.run(process.serve(told.server_file(self.folder / "server.json"), places))
            except Exception as error:  # noqa: BLE001 (a forked child must end here, whatever happens)
                err.write(f"{error}\n")
                err.flush()
                os._exit(getattr(error, "exit_code", 70))
        os._exit(0)

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 20) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.TransportError):
                if found := holds():
                    return found
            time.sleep(0.02)
        words = self.log.read_text()[-2000:] if self.log.exists() else ""
        raise AssertionError(f"after {seconds} s still not: {what}\n{words}")

    def until_proved(self, version: str) -> None:
        self.until(lambda: self.held(version).get("state") == "Proved", f"{version} is proved")

    def get(self, path: str, token: str | None = ADMIN) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx2.get(f"http://127.0.0.1:{self.agent_port}{path}", headers=headers, timeout=10, trust_env=False)

    def push(self, *made: AliasFile, dropped: tuple[str, ...] = (), token: str = ADMIN) -> httpx2.Response:
        body = {"aliases": [file.as_json() for file in made], "dropped": list(dropped)}
        url = f"http://127.0.0.1:{self.agent_port}/agent/aliases"
        headers = {"authorization": f"Bearer {token}"}
        return httpx2.post(url, json=body, headers=headers, timeout=10, trust_env=False)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/agent/state").json()
        return found

    def held(self, version: str, job: str = "claims") -> dict[str, Any]:
        """The state of one version; empty: it is not here."""
        rows = self.state().get("versions", [])
        return next((row for row in rows if (row["job"], row["version"]) == (job, version)), {})

    def ready(self) -> Server:
        self.until(lambda: self.get("/ready", None).status_code == 200, "it is ready")
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.client_port}/v1"

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body)
        return httpx2.post(f"{self.url}{path}", content=content, headers=headers, timeout=60, trust_env=False)

    @contextlib.contextmanager
    def client(self, token: str = "none") -> Iterator[openai.OpenAI]:
        with httpx2.Client(trust_env=False) as http, openai.OpenAI(
            base_url=self.url, api_key=token, max_retries=0, timeout=60, http_client=http
        ) as made:  # fmt: skip
            yield made

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Exit code, or minus the signal."""
        if not self.child:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)
        return self.ended()

    def ended(self, seconds: float = 30) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done, status = os.waitpid(self.child, os.WNOHANG)
            if done:
                self.child = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        self.child = 0
        raise AssertionError("the server did not end")


@contextlib.contextmanager
def begun(folder: Path, base: BaseModel, *made: AliasFile, **told: Any) -> Iterator[Server]:
    """A server that has just begun."""
    server = Server(folder, base, told)
    server.write(*made)
    try:
        yield server.start()
    finally:
        server.stop(signal.SIGKILL)


@contextlib.contextmanager
def running(folder: Path, base: BaseModel, *made: AliasFile, **told: Any) -> Iterator[Server]:
    """A server that is ready."""
    with begun(folder, base, *made, **told) as server:
        yield server.ready()


def greedy(base: BaseModel, folder: Path | None, ids: list[int], tokens: int) -> list[int]:
    """What transformers' own generate answers with base model and PEFT."""
    with adapter.using(base, folder) as tuned:
        made = tuned.generate(  # type: ignore[operator]  # transformers' mix-in
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=tokens, do_sample=False,
        )  # fmt: skip
    found: list[int] = made[0, len(ids) :].tolist()
    return found
