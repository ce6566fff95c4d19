"""The API server of the kubeconfig's context: calls with dict bodies, a time limit on each, refusals in plain words.

The official client does the talking and is imported when somebody connects. Knows no kind and no verb.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topcoat.cli import refusal, terminal

Json = dict[str, Any]

CALL_SECONDS = 20.0
CONNECT_SECONDS = 10.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_KUBECONFIG = Path("~/.kube/config")


@dataclass(frozen=True, slots=True)
class Where:
    """Which cluster and namespace somebody means; what is empty comes from the kubeconfig."""

    namespace: str = ""
    context: str = ""
    kubeconfig: str = ""

    def words(self) -> str:
        """The options that say the same again."""
        given = (("-n", self.namespace), ("--context", self.context), ("--kubeconfig", self.kubeconfig))
        return "".join(f" {name} {value}" for name, value in given if value)


@dataclass(frozen=True, slots=True)
class Request:
    """One call."""

    method: str
    path: str
    body: Any = None
    query: Mapping[str, str] | None = None
    content_type: str = ""
    seconds: float = CALL_SECONDS


@dataclass(slots=True)
class ApiServer:
    """A connection. `api` is the official client, for its streams."""

    api: Any
    namespace: str
    context: str
    _calls: Any = field(repr=False)

    @property
    def server(self) -> str:
        return str(self.api.configuration.host)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Json:
        """One call; the answer as a dict. `more`: the other parts of a `Request`."""
        data = self._sent(Request(method, path, body, **more)).data
        found: Json = json.loads(data) if data else {}
        return found

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The answer as text: logs, health."""
        data: bytes = self._sent(Request("GET", path, query=query)).data
        return data.decode(errors="replace")

    def get_or_none(self, path: str, query: Mapping[str, str] | None = None) -> Json | None:
        """The answer, or None where there is no such thing."""
        try:
            return self.call("GET", path, query=query)
        except refusal.Refused as refused:
            if refused.status == 404:
                return None
            raise

    def lines(self, path: str, query: Mapping[str, str], seconds: float) -> Iterator[bytes]:
        """A stream's lines, until it ends or is silent for so long."""
        answer = self._sent(Request("GET", path, query=query, seconds=seconds))
        rest = b""
        try:
            with self._plain_words():
                for piece in answer.stream(amt=None, decode_content=True):
                    *whole, rest = (rest + piece).split(b"\n")
                    yield from whole
        finally:
            answer.close()
        if rest:
            yield rest

    def _sent(self, request: Request) -> Any:
        more: Json = {"content_type": request.content_type} if request.content_type else {}
        with self._plain_words():
            return self._calls.request(
                request.method,
                request.path,
                body=request.body,
                query_params=list((request.query or {}).items()),
                header_params={"Accept": "application/json, */*"},
                serialize=False,
                _request_timeout=(CONNECT_SECONDS, request.seconds),
                **more,
            )

    @contextlib.contextmanager
    def _plain_words(self) -> Iterator[None]:
        """Errors of the official client and of its transport become ours."""
        import urllib3.exceptions
        from kubernetes.client import exceptions
        from kubernetes.dynamic import exceptions as dynamic

        try:
            yield
        except (exceptions.ApiException, dynamic.DynamicApiError) as error:
            if not error.status:  # it never got there: TLS
                raise refusal.unreachable(error, self.server, self.where()) from None
            answer = refusal.Answer.read(int(error.status or 0), error.body or b"")
            raise refusal.explained(answer, self.where()) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise refusal.unreachable(error, self.server, self.where()) from None

    def where(self) -> str:
        """The cluster, as people know it."""
        return f"context {self.context!r}" if self.context else "this cluster"


def connect(where: Where) -> ApiServer:
    """The API server of the kubeconfig's context, or of the pod that this runs in."""
    from kubernetes import client, config

    configuration = client.Configuration()
    path = where.kubeconfig or os.environ.get("KUBECONFIG") or str(DEFAULT_KUBECONFIG.expanduser())
    files = [Path(part) for part in path.split(os.pathsep) if part]
    if not any(file.is_file() for file in files):
        if where.kubeconfig or where.context or "KUBERNETES_SERVICE_HOST" not in os.environ:
            hint = (
                "--kubeconfig FILE or the variable KUBECONFIG names one; without --cluster, verbs read the local store"
            )
            terminal.fail("there is no kubeconfig, so no cluster to speak to", path, hint)
        config.load_incluster_config(client_configuration=configuration)
        inside = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        return _opened(configuration, where.namespace or inside, "")
    try:
        known, active = config.list_kube_config_contexts(path)
        chosen = _chosen(known, active, where.context)
        config.load_kube_config(path, context=chosen["name"], client_configuration=configuration)
    except config.ConfigException as error:
        hint = "`kubectl config view` shows what is in it"
        terminal.fail(f"the kubeconfig cannot be used: {' '.join(str(error).split())}", path, hint)
    namespace = where.namespace or (chosen.get("context") or {}).get("namespace") or "default"
    return _opened(configuration, namespace, chosen["name"])


def _chosen(known: list[Json], active: Json, wished: str) -> Json:
    if not wished:
        return active
    found = next((one for one in known if one["name"] == wished), None)
    if found is None:
        has = ", ".join(sorted(one["name"] for one in known)[:12])
        terminal.fail(f"the kubeconfig has no context {wished!r}", hint=f"it has: {has}")
    return found


def _opened(configuration: Any, namespace: str, context: str) -> ApiServer:
    from kubernetes import client, dynamic

    configuration.retries = False  # an answer that does not come is said at once
    api = client.ApiClient(configuration)
    api.user_agent = "topcoat-cli"
    # Paths are ours: nothing needs to be discovered, which would cost several calls.
    calls = dynamic.DynamicClient(api, discoverer=lambda *_: None)
    return ApiServer(api, namespace, context, calls)
