"""Events for `kubectl describe`: one a transition, past tense, Normal or Warning. Never retried: news, not truth."""

from __future__ import annotations

import contextlib
import secrets

from topcoat.api import finetunejob, metadata
from topcoat.cluster import client, clock
from topcoat.plan import intent, shown


async def post(api: client.Client, job: finetunejob.FineTuneJob, found: intent.Event) -> None:
    """Writes one event; one that is lost is not missed."""
    meta = job.metadata
    moment = shown.time(clock.now())
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta.name[:50]}.{secrets.token_hex(6)}", "namespace": meta.namespace},
        "involvedObject": {
            "apiVersion": metadata.API_VERSION,
            "kind": "FineTuneJob",
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
        },
        "type": found.type,
        "reason": found.reason[:128],
        "message": shown.clip(found.message, 1000),
        "source": {"component": "topcoat"},
        "reportingComponent": "topcoat.dev/operator",
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
    with contextlib.suppress(client.ApiError):
        await api.create(body)
