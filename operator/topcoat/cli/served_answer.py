"""Questions to a model server in a cluster, in OpenAI's protocol, through a port-forward to one of its pods.

Labels, aliases and the base model's id come from the server's own list of models.
"""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from topcoat.api import finetunejob
from topcoat.cli import cluster, place, server_pod, terminal

Json = dict[str, Any]
ANSWER_SECONDS = 180.0
MOST_SHARES = 20


@dataclass(frozen=True, slots=True)
class Question:
    """A text, and the bearer token for the model."""

    text: str
    token: str = ""


def answers(
    here: cluster.Cluster, job: finetunejob.FineTuneJob, question: Question, who: Sequence[place.Asked]
) -> list[Json]:
    """What each of them answers."""
    pod = server_pod.name_of(here, job)
    cards = {card["id"]: card for card in _called(here, pod, question, "GET", "/v1/models")["data"]}
    return [_answer(here, pod, question, _request(job, question, cards, one)) for one in who]


def _request(job: finetunejob.FineTuneJob, question: Question, cards: dict[str, Json], one: place.Asked) -> Json:
    alias, name = job.alias, job.metadata.name
    wanted = f"{alias}--{one.version}" if one.version else alias
    if one.base:
        bases = [card["id"] for card in cards.values() if card.get("parent") is None]
        wanted = bases[0] if bases else (job.status.base_model.id if job.status and job.status.base_model else "")
    card = cards.get(wanted)
    if card is None:
        has = ", ".join(sorted(cards)) or "nothing that this token opens"
        hint = f"it has {has}; --token gives a bearer token, `topcoat status {name}` says what serves"
        terminal.fail(f"the model server does not answer as {wanted!r}", hint=hint)
    asked: Json = {"model": wanted, "messages": [{"role": "user", "content": question.text}]}
    if one.base or not card.get("labels"):
        return {**asked, "max_tokens": job.spec.evaluation.generation.max_tokens}
    shares = {"logprobs": True, "top_logprobs": min(MOST_SHARES, len(card["labels"]))}
    return {**asked, **shares, "structured_outputs": {"choice": card["labels"]}}


def _answer(here: cluster.Cluster, pod: str, question: Question, request: Json) -> Json:
    """The answer as local mode gives it."""
    said = _called(here, pod, question, "POST", "/v1/chat/completions", request)
    choice = said["choices"][0]
    shown = ((choice.get("logprobs") or {}).get("content") or []) if "structured_outputs" in request else []
    shares = {top["token"]: math.exp(top["logprob"]) for top in shown[0]["top_logprobs"]} if shown else None
    return {
        "answer": choice["message"]["content"],
        "version": said["version"],
        "digest": str(said.get("system_fingerprint") or "").removeprefix("sha256:"),
        "probabilities": shares,
        "promptTokens": (said.get("usage") or {}).get("prompt_tokens"),
    }


def _called(  # noqa: PLR0913, PLR0917 - one HTTP request
    here: cluster.Cluster, pod: str, question: Question, method: str, path: str, body: Json | None = None
) -> Json:
    """One request through a connection of its own."""
    headers = {"Host": "model", "Content-Type": "application/json"}
    if question.token:
        headers["Authorization"] = f"Bearer {question.token}"
    with server_pod.forwarded(here, pod) as line:
        line.settimeout(ANSWER_SECONDS)
        connection = http.client.HTTPConnection("model", timeout=ANSWER_SECONDS)
        connection.sock = line
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            reply = connection.getresponse()
            data = reply.read()
        except (OSError, http.client.HTTPException) as error:
            hint = f"`kubectl -n {here.namespace} logs {pod}` shows what it says"
            terminal.fail(f"the model server in pod {pod!r} gave no answer ({type(error).__name__})", hint=hint)
    found: Json = json.loads(data) if data else {}
    if reply.status != 200:
        _refused(reply.status, found, question)
    return {"version": reply.headers.get("x-topcoat-version"), **found}


def _refused(status: int, found: Json, question: Question) -> None:
    said = str((found.get("error") or {}).get("message") or f"status {status}")
    hints = {
        401: "give its bearer token with --token, or in the variable TOPCOAT_TOKEN",
        404: "`topcoat status` says what serves",
        429: "try again in a minute",
        503: "try again in a minute",
    }
    if status == 401 and question.token:
        hints[401] = "the token is not the one in the Secret that serving.authentication names"
    terminal.fail(f"the model server refused: {said}", hint=hints.get(status, "change the question and try again"))
