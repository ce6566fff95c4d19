"""Who we are to the API server: the pod's own ServiceAccount, or a kubeconfig. One HTTP session for kopf and for us."""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import kopf

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_AGE_SECONDS = 60.0


class LoginError(Exception):
    """Neither a ServiceAccount nor a kubeconfig."""


@dataclass(slots=True)
class FreshToken:
    """The ServiceAccount's token, read again as it rotates."""

    path: Path
    text: str = ""
    read_at: float = float("-inf")

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if time.monotonic() - self.read_at > TOKEN_AGE_SECONDS:
            self.text, self.read_at = self.path.read_text().strip(), time.monotonic()
        request.headers["Authorization"] = f"Bearer {self.text}"
        return await handler(request)


@dataclass(frozen=True, slots=True)
class Connection:
    """An open session to one API server."""

    server: str
    session: aiohttp.ClientSession


def connect() -> Connection:
    """Opens the session. Must be called inside the event loop."""
    if (SERVICE_ACCOUNT / "token").exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
        return _in_cluster()
    found = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    if found is None:
        raise LoginError("there is no ServiceAccount and no kubeconfig; run in a pod, or set KUBECONFIG")
    return Connection(found.server.rstrip("/"), _session(found.as_ssl_context(), found.as_http_headers()))


def _in_cluster() -> Connection:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    trust = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
    name = f"[{host}]" if ":" in host else host
    return Connection(f"https://{name}:{port}", _session(trust, {}, FreshToken(SERVICE_ACCOUNT / "token")))


def _session(trust: ssl.SSLContext, headers: dict[str, str], token: FreshToken | None = None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ssl=trust, keepalive_timeout=60)
    said = {**headers, "User-Agent": "topcoat-operator"}
    return aiohttp.ClientSession(connector=connector, headers=said, middlewares=(token,) if token else ())
