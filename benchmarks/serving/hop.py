"""`make bench-hop`: what our server adds to a real vLLM's answers. A tiny model on the CPU, one client, answers of one
token, asked of vLLM directly and through the server in turn; the same text, tokens and version.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support import served, vllm

WARM_UP_REQUESTS = 20
PROMPT_TOKENS = 100
# Of a shape that vLLM's attention takes on a CPU.
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 128}
TARGET_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Hop:
    """Seconds. `added_*`: the difference of what stands before."""

    requests: int
    direct_median: float
    direct_p95: float
    through_median: float
    through_p95: float
    added_median: float
    added_p95: float


def hop(direct: list[float], through: list[float]) -> Hop:
    one, other = statistics.median(direct), statistics.median(through)
    late, later = _p95(direct), _p95(through)
    return Hop(len(direct), one, late, other, later, other - one, later - late)


def _p95(found: list[float]) -> float:
    return sorted(found)[min(len(found) - 1, int(0.95 * len(found)))]


@contextmanager
def doors(folder: Path) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Address and model name: vLLM's, and ours in front of it."""
    base = served.base(folder / "base", **SHAPE)
    version = served.version(base, folder / "volume" / "v1", 1)
    with vllm.running(base.path, folder / "engine", versions=1) as real:
        server = served.Server(folder / "server", base, {"vllm": real.told.as_json(), "maxRank": 16})
        server.write(served.alias("claims", 1, [version], ["v1"]))
        try:
            server.start()
            server.until(lambda: server.get("/ready", None).status_code == 200, "it is ready", 120)
            cards = httpx2.get(f"{real.url}/v1/models", trust_env=False).json()["data"]
            name = next(card["id"] for card in cards if card["id"].startswith("claims--v1"))
            yield (f"{real.url}/v1", name), (server.url, "claims")
        finally:
            server.stop(signal.SIGKILL)


def measure(count: int, folder: Path) -> Hop:
    """Which comes first is drawn anew for each pair."""
    chance = random.Random(0)
    with doors(folder) as (direct, through), httpx2.Client(trust_env=False, timeout=60) as client:
        taken: dict[str, list[float]] = {direct[0]: [], through[0]: []}
        for number in range(WARM_UP_REQUESTS + count):
            prompt = [20 + chance.randrange(200) for _ in range(PROMPT_TOKENS)]
            pair = [direct, through]
            chance.shuffle(pair)
            for url, model in pair:
                seconds = _asked(client, url, {"model": model, "prompt": prompt})
                if number >= WARM_UP_REQUESTS:
                    taken[url].append(seconds)
    return hop(taken[direct[0]], taken[through[0]])


def _asked(client: httpx2.Client, url: str, body: dict[str, Any]) -> float:
    started = time.perf_counter()
    said = client.post(f"{url}/completions", json={**body, "max_tokens": 1, "temperature": 0.0})
    seconds = time.perf_counter() - started
    said.raise_for_status()
    if said.json()["usage"]["completion_tokens"] != 1:
        raise RuntimeError("an answer is not one token long")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.serving.hop", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="of each of both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    asked = parser.parse_args()
    try:
        vllm.environment()
    except vllm.Missing as missing:
        raise SystemExit(str(missing)) from None
    with tempfile.TemporaryDirectory() as folder:
        found = measure(asked.requests, Path(folder))
    print(f"{'milliseconds':<16}{'median':>10}{'p95':>10}   ({found.requests} requests each)")
    for name in ("direct", "through", "added"):
        middle, late = (getattr(found, f"{name}_{part}") * 1000 for part in ("median", "p95"))
        print(f"{name:<16}{middle:>10.2f}{late:>10.2f}")
    print(f"target: added at p95 under {TARGET_SECONDS * 1000:g} ms")
    if asked.json:
        asked.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
