"""The server in front of a real vLLM, started as the pod's container is: right answers, refusals, a sudden end.

Slow: vLLM takes most of a minute to start.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from tests.support import engines, served, vllm
from topcoat.api.report import VersionManifest
from topcoat.api.server import AliasFile, WantedVersion
from topcoat_trainer.model import BaseModel
from topcoat_trainer.serve import vllm_base, vllm_http

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
NEAR = 1e-4
TOKEN = "open-sesame"
TOKENS = 12
REQUEST_SECONDS = 8
LABELS = ["the claim", "the label", "answer"]
# Of a shape that vLLM's attention takes on a CPU.
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 128}
Make = Callable[[BaseModel, Path], Any]


@dataclass
class Room:
    """A server, its vLLM, and versions: as many as vLLM has slots for, beside the base."""

    stand: engines.Stand
    real: vllm.RealVLLM
    server: served.Server
    versions: dict[str, WantedVersion] = field(default_factory=dict)
    generation: int = 1

    def alias(self, names: list[str], *more: Any) -> AliasFile:
        """`claims`, newer than before."""
        self.generation += 1
        return served.alias("claims", self.generation, [*(self.versions[name] for name in names), *more], ["v1"])

    def ready(self) -> None:
        """vLLM's first answer after its start takes long: it compiles."""
        self.server.until(lambda: self.server.get("/ready", None).status_code == 200, "it is ready", 120)
        for name in self.versions:
            self.server.until_proved(name)

    def cards(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx2.get(f"{self.real.url}/v1/models", trust_env=False).json()["data"]
        return found

    def loaded(self, key: str) -> list[str]:
        return [card["id"] for card in self.cards() if card["id"].startswith(key)]

    def metric(self, name: str) -> float:
        rows = httpx2.get(f"{self.real.url}/metrics", trust_env=False).text.splitlines()
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows if row.startswith((f"{name}{{", f"{name} ")))

    def complete(self, model: str, ids: tuple[int, ...], **more: Any) -> dict[str, Any]:
        body = {"model": model, "prompt": list(ids), "max_tokens": TOKENS, "logprobs": 2, **more}
        said = self.server.post("/completions", body, authorization=f"Bearer {TOKEN}")
        assert said.status_code == 200, said.text
        choice: dict[str, Any] = said.json()["choices"][0]
        return choice


NAMES = {"claims--v1": "v1", "claims--v2": "v2", "claims--v4": "v4", served.BASE: None}
"""What clients call, and the version behind it."""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    root = tmp_path_factory.mktemp("vllm")
    base = served.base(root / "base", **SHAPE)
    versions = {
        "v1": served.version(base, root / "volume" / "v1", 1),
        "v2": served.version(base, root / "volume" / "v2", 2, rank=16),
        "v4": served.version(base, root / "volume" / "v4", 4),
    }
    folders: dict[str | None, Path | None] = {None: None, **{name: Path(v.path) for name, v in versions.items()}}
    claims = served.alias("claims", 1, list(versions.values()), ["v1"])
    with vllm.running(base.path, root / "engine", versions=len(versions)) as real:
        told = {"vllm": real.told.as_json(), "maxAdapters": 8, "maxRank": 16}
        server = served.Server(root / "server", base, told)
        server.write(claims)
        made = Room(engines.Stand(base, folders), real, server, versions)
        try:
            server.start()
            made.ready()
            yield made
        finally:
            server.stop(signal.SIGKILL)


def asked(room: Room, model: str, start: int) -> dict[str, Any]:
    found: dict[str, Any] = room.complete(model, engines.prompt(start, 5 + 3 * start), echo=True)["logprobs"]
    return found


def compare(room: Room, model: str, start: int, said: dict[str, Any]) -> None:
    """The answer and its log-probabilities, and the prompt's, are those of stock transformers and PEFT."""
    key, ids = NAMES[model], engines.prompt(start, 5 + 3 * start)
    made = room.stand.greedy(key, ids, TOKENS)
    table = room.stand.table(key, [*ids, *made])
    whole = [*ids, *made][: len(said["tokens"])]
    assert said["tokens"][: len(whole)] == engines.words(room.stand.base, whole)
    assert said["token_logprobs"][0] is None
    for place in range(1, len(whole)):
        assert said["token_logprobs"][place] == pytest.approx(float(table[place - 1, whole[place]]), abs=NEAR)
        best = max(said["top_logprobs"][place].values())
        assert best == pytest.approx(float(table[place - 1].max()), abs=NEAR)


def agrees(room: Room, model: str, start: int) -> None:
    compare(room, model, start, asked(room, model, start))


def test_all_versions_and_the_base_answer_as_stock_peft_at_the_same_time(room: Room) -> None:
    """With every slot of vLLM's taken: there its own base would be answered by the version of the last slot."""
    assert room.server.state()["engine"]["name"] == "VLLM"
    assert room.server.state()["engine"]["withoutBase"] == ""
    assert {state["probe"]["ok"] for state in room.server.state()["versions"]} == {True}
    wanted = [(model, start) for start in range(5) for model in NAMES]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: asked(room, *one), wanted))
    for (model, start), said in zip(wanted, answers, strict=True):
        compare(room, model, start, said)


def test_a_base_that_answers_otherwise_beside_a_version_is_not_proved(room: Room) -> None:
    async def proved(name: str) -> str:
        http = vllm_http.VLLM(room.real.url, 60)
        found = vllm_base.Base(http, served.BASE, 1e-3)
        await found.listen(room.stand.base.facts.vocabulary_size)
        found.name = name
        await found.prove(room.loaded("claims--v2")[0])
        await http.close()
        return found.problem

    assert asyncio.run(proved(room.loaded("base-")[0])) == ""
    assert "it differs from itself alone by" in asyncio.run(proved(room.loaded("claims--v1")[0]))
    assert "could not be compared" in asyncio.run(proved("nobody"))


def test_labels_have_the_shares_that_the_model_gives_them(room: Room) -> None:
    tokenizer: Any = room.stand.base.tokenizer
    messages = [{"role": "user", "content": "Where is it?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    scores = []
    for label in LABELS:
        tokens = [*tokenizer(label)["input_ids"], 2]
        table = room.stand.table("v2", [*ids, *tokens])
        scores.append(sum(float(table[len(ids) + place - 1, token]) for place, token in enumerate(tokens)))
    total = sum(map(math.exp, scores))
    body = {
        "model": "claims--v2", "messages": messages, "structured_outputs": {"choice": LABELS}, "logprobs": True,
        "top_logprobs": len(LABELS),
    }  # fmt: skip
    said = room.server.post("/chat/completions", body).json()["choices"][0]
    found = {top["token"]: top["logprob"] for top in said["logprobs"]["content"][0]["top_logprobs"]}
    for label, score in zip(LABELS, scores, strict=True):
        assert found[label] == pytest.approx(score - math.log(total), abs=1e-3)
    assert said["message"]["content"] == LABELS[max(range(len(LABELS)), key=lambda place: scores[place])]


def test_a_client_that_goes_away_ends_the_work_in_vllm(room: Room) -> None:
    made = room.metric("vllm:generation_tokens_total")
    body = {"model": "claims--v4", "prompt": [1, 2], "max_tokens": 480, "temperature": 1.5, "seed": 3, "stream": True}
    with httpx2.stream("POST", f"{room.server.url}/completions", json=body, timeout=60, trust_env=False) as said:
        next(said.iter_lines())
    room.server.until(lambda: room.metric("vllm:num_requests_running") == 0, "vLLM has nothing to do")
    assert room.metric("vllm:generation_tokens_total") - made < 300


def tail(base: BaseModel, folder: Path) -> Any:
    return served.version(base, folder, 9, kind="tail")


def dora(base: BaseModel, folder: Path) -> Any:
    return served.version(base, folder, 9, kind="dora")


def of_high_rank(base: BaseModel, folder: Path) -> Any:
    return served.version(base, folder, 9, rank=32)


def corrupt(base: BaseModel, folder: Path) -> Any:
    made = served.version(base, folder, 9)
    data = bytearray((folder / "adapter_model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(data)
    return made


def of_another_base(base: BaseModel, folder: Path) -> Any:
    return served.version(served.base(folder.with_name("base"), seed=5, **SHAPE), folder, 9)


def with_anothers_probes(base: BaseModel, folder: Path) -> Any:
    other = served.version(base, folder.with_name("v8"), 7)
    sealed = VersionManifest.model_validate_json((Path(other.path) / "manifest.json").read_bytes())
    return served.version(base, folder, 9, probes=sealed.probes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (tail, "whole layers"),
        (dora, "DoRA"),
        (of_high_rank, "rank 32"),
        (corrupt, "adapter_model.safetensors"),
        (of_another_base, "base"),
        (with_anothers_probes, "answers as another model"),
    ],
)
def test_what_vllm_cannot_serve_rightly_is_refused_in_words(room: Room, tmp_path: Path, make: Make, words: str) -> None:
    wanted = make(room.stand.base, tmp_path / "v9")
    room.server.push(room.alias(["v1", "v2", "v4"], wanted))
    held = room.server.until(
        lambda: (found := room.server.held("v9")).get("state") == "Refused" and found, "v9 is refused"
    )  # fmt: skip
    assert words in held["probe"]["problem"]
    agrees(room, "claims--v1", 1)
    room.server.push(room.alias(["v1", "v2", "v4"]))
    room.server.until(lambda: room.server.held("v9") == {} and not room.loaded("claims--v9"), "v9 is gone")


def test_a_version_that_nobody_wants_leaves_vllm_and_comes_back_under_another_name(room: Room) -> None:
    (before,) = room.loaded("claims--v2")
    assert (Path(room.real.told.folder) / before).is_dir()
    room.server.push(room.alias(["v1", "v4"]))
    room.server.until(lambda: not room.loaded("claims--v2"), "v2 is unloaded")
    room.server.until(lambda: not (Path(room.real.told.folder) / before).exists(), "its folder is gone")
    assert room.server.post("/completions", {"model": "claims--v2", "prompt": "x"}).status_code == 404
    room.server.push(room.alias(["v1", "v2", "v4"]))
    room.server.until_proved("v2")
    (after,) = room.loaded("claims--v2")
    assert after != before
    agrees(room, "claims--v2", 2)


@pytest.mark.exhaustive  # the same file passes through the server itself in every run
def test_the_conformance_file_passes_through_the_server(room: Room) -> None:
    token = room.server.folder.with_name("token")
    token.write_text(TOKEN)
    room.server.push(served.alias("conforms", 1, [room.versions["v1"]], ["v1"], token_file=str(token)))
    room.server.until(lambda: room.server.held("v1", "conforms").get("state") == "Proved", "it is proved")
    told = {"URL": room.server.url, "MODEL": "conforms", "TOKEN": TOKEN, "ENGINE": "topcoat"}
    environment = os.environ | {f"TOPCOAT_CONFORMANCE_{name}": value for name, value in told.items()}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/conformance"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
    room.server.push(dropped=("conforms",))


def test_a_new_agent_clears_what_the_one_before_it_left(room: Room) -> None:
    before = {card["id"] for card in room.cards()} - {served.BASE}
    room.server.stop(signal.SIGKILL)
    (room.server.folder / "claims.json").unlink()
    room.server.told["requestSeconds"] = REQUEST_SECONDS
    room.server.start().ready()
    assert {card["id"] for card in room.cards()} == {served.BASE}
    said = room.server.post("/completions", {"model": served.BASE, "prompt": "x"})
    assert (said.status_code, said.json()["error"]["code"]) == (404, "model_not_found")
    assert "not served here: it is answered for once" in said.json()["error"]["message"]
    room.server.push(room.alias(["v1", "v2", "v4"]))
    room.ready()
    after = {card["id"] for card in room.cards()} - {served.BASE}
    assert len(after) == len(before)
    assert not after & before
    assert {path.name for path in Path(room.real.told.folder).iterdir()} == after
    agrees(room, "claims--v1", 3)
    agrees(room, served.BASE, 3)


def test_while_vllm_hangs_requests_end_in_time_and_nothing_is_lost(room: Room) -> None:
    boot, names = room.server.state()["engine"]["bootId"], room.loaded("claims--")
    room.real.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        said = room.server.post("/completions", {"model": "claims--v1", "prompt": "x", "max_tokens": 4})
        assert (said.status_code, said.json()["error"]["code"]) == (504, "timeout")
        assert time.monotonic() - started < REQUEST_SECONDS + 2
        assert room.server.get("/health", None).status_code == 200
    finally:
        room.real.signal(signal.SIGCONT)
    agrees(room, "claims--v1", 2)
    assert room.server.state()["engine"]["bootId"] == boot
    assert room.loaded("claims--") == names


class Crowd:
    """Clients that go on asking, and note every answer."""

    def __init__(self, room: Room) -> None:
        self.answers: list[tuple[str, str]] = []
        self.codes: set[int] = set()
        self._room = room
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(model,)) for model in NAMES for _ in range(2)]

    def _ask(self, model: str) -> None:
        body = {"model": model, "prompt": [1, 20, 33], "max_tokens": TOKENS}
        while not self._ends.is_set():
            said = self._room.server.post("/completions", body)
            self.codes.add(said.status_code)
            if said.status_code == 200:
                self.answers.append((model, said.json()["choices"][0]["text"]))
            else:
                time.sleep(0.05)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(60)


def lost(room: Room) -> bool:
    return bool(room.server.get("/ready", None).status_code == 503)


def test_when_vllm_is_killed_all_is_loaded_and_proved_again_and_nobody_else_ever_answers(room: Room) -> None:
    """First what computes, as the kernel does it when memory runs out; then all of it."""
    right = {model: room.complete(model, (1, 20, 33))["text"] for model in NAMES}
    assert len(set(right.values())) == len(NAMES)
    boot, names = room.server.state()["engine"]["bootId"], room.loaded("claims--")
    with Crowd(room) as crowd:
        room.server.until(lambda: len(crowd.answers) > 40, "the crowd is answered")
        os.kill(room.real.core(), signal.SIGKILL)
        room.server.until(lambda: lost(room), "it is unready", 30)
        room.real.kill()
        assert room.server.get("/health", None).status_code == 200
        for model in ("claims", "claims--v2", served.BASE):
            said = room.server.post("/completions", {"model": model, "prompt": "x"})
            assert (said.status_code, said.json()["error"]["code"]) == (503, "loading")
        count = len(crowd.answers)
        room.real.start().ready()
        room.ready()
        room.server.until(lambda: len({model for model, _ in crowd.answers[count:]}) == len(NAMES), "all answer again")
    assert crowd.codes == {200, 503}
    for model, text in crowd.answers:
        assert text == right[model]
    assert room.server.state()["engine"]["bootId"] != boot
    assert not set(room.loaded("claims--")) & set(names)
    agrees(room, "claims--v2", 4)
