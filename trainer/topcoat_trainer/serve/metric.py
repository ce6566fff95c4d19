"""What Prometheus is told: vLLM's names where the meaning is the same, ours per version. Labels hold no client's text.

A registry of its own per server, so that two in one process (tests) do not meet.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from topcoat_trainer.serve.engine import Business

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # as the package has it
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
NOBODY = "unknown"
"""Label of requests that name no model here: what clients make up must not make time series."""


class Metrics:
    """All counters of a server. `base`: the base model's name, vLLM's label `model_name`."""

    def __init__(self, base: str, max_adapters: int) -> None:
        self.registry = CollectorRegistry()
        self._base = base
        self._max_adapters = max_adapters
        own, buckets = self.registry, SECONDS
        ours, theirs = ["model", "version"], ["model_name"]
        self._running = Gauge("vllm:num_requests_running", "Requests that take turns now.", theirs, registry=own)
        self._waiting = Gauge("vllm:num_requests_waiting", "Requests that wait.", theirs, registry=own)
        self._first = Histogram(
            "vllm:time_to_first_token_seconds", "Seconds to the first token.", theirs, buckets=buckets, registry=own
        )
        self._whole = Histogram(
            "vllm:e2e_request_latency_seconds", "Seconds of a whole request.", theirs, buckets=buckets, registry=own
        )
        self._prompt = Counter("vllm:prompt_tokens", "Prompt tokens read.", theirs, registry=own)
        self._made = Counter("vllm:generation_tokens", "Tokens made.", theirs, registry=own)
        self._lora = Gauge(
            "vllm:lora_requests_info",
            "Time of the last change; labels name the adapters.",
            ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
            registry=own,
        )
        self._requests = Counter("topcoat_requests", "Requests by answer.", [*ours, "code"], registry=own)
        self._seconds = Histogram(
            "topcoat_request_seconds", "Seconds of a whole request.", ours, buckets=buckets, registry=own
        )
        self._first_ours = Histogram(
            "topcoat_time_to_first_token_seconds", "Seconds to the first token.", ours, buckets=buckets, registry=own
        )
        self._tokens = Counter("topcoat_tokens", "Tokens by kind (prompt, generation).", [*ours, "kind"], registry=own)
        self._loaded = Gauge("topcoat_adapter_loaded", "1: loaded and proved.", ["version", "digest"], registry=own)

    def first_token(self, model: str, version: str, seconds: float) -> None:
        self._first.labels(self._base).observe(seconds)
        self._first_ours.labels(model, version).observe(seconds)

    def tokens(self, model: str, version: str, prompt: int, made: int) -> None:
        self._prompt.labels(self._base).inc(prompt)
        self._made.labels(self._base).inc(made)
        self._tokens.labels(model, version, "prompt").inc(prompt)
        self._tokens.labels(model, version, "generation").inc(made)

    def request(self, model: str, version: str, code: int, seconds: float) -> None:
        self._requests.labels(model, version, str(code)).inc()
        if code == 200:
            self._whole.labels(self._base).observe(seconds)
            self._seconds.labels(model, version).observe(seconds)

    def loaded(self, version: str, digest: str) -> None:
        self._loaded.labels(version, digest).set(1)

    def unloaded(self, version: str, digest: str) -> None:
        self._loaded.remove(version, digest)

    def text(self, business: Business, running: Iterable[str]) -> bytes:
        """All of it in Prometheus' format, with what the engine does at this moment."""
        self._running.labels(self._base).set(business.running)
        self._waiting.labels(self._base).set(business.waiting)
        self._lora.clear()
        self._lora.labels(str(self._max_adapters), ",".join(sorted(running)), "").set(time.time())
        return prometheus_client.generate_latest(self.registry)
