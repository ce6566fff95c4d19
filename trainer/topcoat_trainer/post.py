"""Tells the operator how far a run is, in Kubeflow's trainer protocol: POST `{"trainerStatus": {…}}` with a token.

Best effort from a thread of its own: it never blocks, slows or ends a run, whatever the other side does. The latest
value wins. Variables and their meaning are Kubeflow's, as transformers' KubeflowCallback has them. Never imports torch.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from topcoat.api.report import Progress

logger = logging.getLogger(__name__)

URL = "KUBEFLOW_TRAINER_SERVER_URL"
TOKEN = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 - the name of a variable that holds a path
CA_CERT = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
INTERVAL_SECONDS = 5.0
TIMEOUT_SECONDS = 5.0
ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """Where to post, and the files with the token and the server's certificate."""

    url: str
    token: Path
    certificate: Path | None = None


def address_or_none(environment: Mapping[str, str] = os.environ) -> Address | None:
    """The operator's address, where the pod was given one."""
    url, token, certificate = (environment.get(name, "") for name in (URL, TOKEN, CA_CERT))
    if not url.startswith(("http://", "https://")) or not token:
        return None
    return Address(url, Path(token), Path(certificate) if certificate else None)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for one address only."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def send(address: Address, progress: Progress) -> None:
    """One POST. The token is read anew each time, because the kubelet renews it."""
    token = address.token.read_text(encoding="ascii").strip()
    body = json.dumps({"trainerStatus": progress.as_json()}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(address.url, data=body, headers=headers, method="POST")  # noqa: S310 - see address_or_none
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), urllib.request.ProxyHandler({})]
    if address.certificate is not None:
        context = ssl.create_default_context(cafile=str(address.certificate))
        handlers.append(urllib.request.HTTPSHandler(context=context))
    with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read(ANSWER_BYTES)


class Post:
    """A sink for progress: posted at most every few seconds, and at once where a new stage begins."""

    def __init__(self, address: Address, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._address = address
        self._interval_seconds = interval_seconds
        self._changed = threading.Condition()
        self._latest: Progress | None = None
        self._stage = ""
        self._closing = False
        self._complaint = ""
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)
        self._thread.start()

    def __call__(self, progress: Progress) -> None:
        with self._changed:
            self._latest = progress
            self._changed.notify()

    def close(self, patience_seconds: float = TIMEOUT_SECONDS) -> None:
        """Lets the latest value out, for as long as patience lasts."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(patience_seconds)

    def _work(self) -> None:
        sent_at = float("-inf")
        while True:
            with self._changed:
                while not self._due(sent_at):
                    if self._closing:
                        return
                    waiting = self._latest is not None
                    self._changed.wait(sent_at + self._interval_seconds - time.monotonic() if waiting else None)
                progress, self._latest = self._latest, None
            assert progress is not None  # noqa: S101 - _due saw it, and nobody else takes it
            sent_at, self._stage = time.monotonic(), progress.stage
            self._send(progress)

    def _due(self, sent_at: float) -> bool:
        latest = self._latest
        if latest is None:
            return False
        late = time.monotonic() - sent_at >= self._interval_seconds
        return late or self._closing or latest.stage != self._stage

    def _send(self, progress: Progress) -> None:
        try:
            send(self._address, progress)
        except Exception as error:  # noqa: BLE001 - progress is for people; it never ends a run
            said = f"{type(error).__name__} {getattr(error, 'code', '')}".strip()
            if said != self._complaint:
                logger.warning("progress could not be posted: %s", said)
            self._complaint = said
