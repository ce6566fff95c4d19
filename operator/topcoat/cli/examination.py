"""What `topcoat doctor cluster` looks at: one check each, with a verdict and the way out. Reads; changes nothing.

What a person may not see is unknown, not wrong. No Secret is ever read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from topcoat.api import crd
from topcoat.cli import api_server, refusal, terminal

Json = dict[str, Any]
Verdict = Literal["ok", "blocks", "mind", "unknown"]
LEAST = (1, 31)
OPERATOR = "app.kubernetes.io/name=topcoat,app.kubernetes.io/component=operator"
PULL_SECRETS = "TOPCOAT_IMAGE_PULL_SECRETS"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
READS = "get,list,watch"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    verdict: Verdict
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Right:
    """Something that a person must be allowed to do, and what they cannot do without it."""

    verbs: str
    group: str
    resource: str
    without: str
    blocks: bool = False


RIGHTS = (
    Right(READS, "topcoat.dev", "finetunejobs", "get, status, watch", blocks=True),
    Right("create,patch", "topcoat.dev", "finetunejobs", "apply, promote, rollback, retrain, suspend"),
    Right("list", "", "pods", "logs, ask, report"),
    Right("get", "", "pods/log", "logs"),
    Right("create", "", "pods/portforward", "ask"),
    Right("create", "", "pods/exec", "report, compare"),
)


def findings(api: api_server.ApiServer) -> Iterator[Finding]:
    """Everything that was found, in the order in which it is mended."""
    try:
        yield _version(api)
    except terminal.Failure as failure:  # nothing else can be asked
        yield Finding("API server", "blocks", failure.message, failure.hint)
        return
    for check, look in CHECKS.items():
        try:
            yield from (Finding(check, *found) for found in look(api))
        except refusal.Refused as refused:
            verdict: Verdict = "unknown" if refused.status == 403 else "blocks"
            yield Finding(check, verdict, refused.message, "" if verdict == "unknown" else refused.hint)


Found = Iterator[tuple[Verdict, str, str]]


def _version(api: api_server.ApiServer) -> Finding:
    said = api.call("GET", "/version")
    numbers = tuple(int(re.sub(r"\D", "", said[part]) or 0) for part in ("major", "minor"))
    if numbers < LEAST:
        hint = f"Topcoat needs Kubernetes {LEAST[0]}.{LEAST[1]} or later"
        return Finding("API server", "blocks", f"Kubernetes {said['gitVersion']} is too old", hint)
    return Finding("API server", "ok", f"Kubernetes {said['gitVersion']} at {api.server}")


def _kinds(api: api_server.ApiServer) -> Found:
    """The fields of our kinds, from what every user may read."""
    page = api.get_or_none("/openapi/v3/apis/topcoat.dev/v1alpha1")
    schemas = ((page or {}).get("components") or {}).get("schemas") or {}
    if not schemas:
        yield "blocks", "Topcoat's kinds are not installed", "install the chart: docs/how-to/install-with-helm.md"
        return
    for kind in crd.KINDS:
        name = kind.model.__name__
        theirs = next((body for title, body in schemas.items() if title.endswith(f".{name}")), None)
        ours = crd.custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        yield _compared(name, theirs, ours)


def _compared(name: str, theirs: Json | None, ours: Json) -> tuple[Verdict, str, str]:
    if theirs is None:
        return "blocks", f"kind {name} is not installed", "upgrade the chart"
    have, want = set(fields(theirs)), set(fields(ours))
    missing, more = sorted(want - have), sorted(have - want)
    if missing:
        text = f"{name} lacks {len(missing)} fields that this command line knows, such as {missing[0]}"
        return "mind", text, "the cluster has an older Topcoat: upgrade the chart, or use its command line"
    if more:
        text = f"{name} has {len(more)} fields that this command line does not know, such as {more[0]}"
        return "mind", text, "the cluster has a newer Topcoat: upgrade this command line"
    return "ok", f"{name} is the same here and there", ""


def fields(schema: Json, place: str = "") -> Iterator[str]:
    """All fields of a schema below spec and status, as `spec.dataset.train`."""
    for name, part in (schema.get("properties") or {}).items():
        if not place and name not in ("spec", "status"):
            continue
        path = f"{place}.{name}".lstrip(".")
        yield path
        yield from fields(part, path)
        yield from fields(part.get("items") or {}, f"{path}[]")


def _operator(api: api_server.ApiServer) -> Found:
    pods = api.call("GET", "/api/v1/pods", query={"labelSelector": OPERATOR})["items"]
    if not pods:
        yield "blocks", "no operator runs: nothing will happen to any job", "install the chart with Helm"
        return
    ready = [body for body in pods if _is_ready(body)]
    place = f"{pods[0]['metadata']['namespace']}/{pods[0]['metadata']['name']}"
    if not ready:
        said = (pods[0].get("status") or {}).get("phase")
        yield (
            "blocks",
            f"the operator's pod {place} is not ready ({said})",
            f"`kubectl logs -n {place.replace('/', ' ')}`",
        )
        return
    answers = [_readyz(api, body) for body in ready]
    if any(said == "ok" for said in answers):
        yield "ok", f"the operator in {place} answers that it is ready", ""
    elif all(said is None for said in answers):
        yield "mind", f"the operator's pod {place} is ready, but /readyz could not be asked through the API server", ""
    else:
        yield "blocks", f"the operator in {place} says: {next(said for said in answers if said)}", "read its log"


def _is_ready(body: Json) -> bool:
    said = (body.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in said)


def _readyz(api: api_server.ApiServer, body: Json) -> str | None:
    meta, ports = body["metadata"], body["spec"]["containers"][0].get("ports") or []
    port = next((one["containerPort"] for one in ports if one.get("name") == "http"), 8080)
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}:{port}/proxy/readyz"
    try:
        return api.text(path).strip()
    except refusal.Refused as refused:
        # Only the operator itself answers in plain text; anything else is the way to it.
        return None if refused.answer.reason or refused.status == 403 else refused.answer.message
    except refusal.Unreachable:
        return None


def _pull_secrets(api: api_server.ApiServer) -> Found:
    pods = api.call("GET", "/api/v1/pods", query={"labelSelector": OPERATOR})["items"]
    env = [one for body in pods for one in body["spec"]["containers"][0].get("env") or []]
    wanted = next((one.get("value", "") for one in env if one["name"] == PULL_SECRETS), "")
    if wanted:
        text = f"pods pull their image with Secret {wanted}, which namespace {api.namespace} needs, too"
        yield "mind", text, "it was not looked at: this command never reads a Secret"
    elif pods:
        yield "ok", "none is asked for", ""


def _profile(api: api_server.ApiServer) -> Found:
    names = [
        body["metadata"]["name"] for body in api.call("GET", "/apis/topcoat.dev/v1alpha1/finetuneprofiles")["items"]
    ]
    write = "`kubectl apply -f` one: docs/how-to/write-a-profile.md"
    if "default" in names:
        yield "ok", f"{len(names)} there, with default", ""
    elif names:
        yield "mind", f"there is no default, so every job must name one of {', '.join(sorted(names)[:5])}", write
    else:
        yield "blocks", "there is no FineTuneProfile, so every job is refused", write


def _storage(api: api_server.ApiServer) -> Found:
    found = api.call("GET", "/apis/storage.k8s.io/v1/storageclasses")["items"]
    marked = [
        body["metadata"]["name"]
        for body in found
        if (body["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    ]
    if marked:
        yield "ok", f"default is {marked[0]}", ""
    else:
        hint = "mark one as default, or name one in the profile's storage"
        yield "blocks" if not found else "mind", "there is no default StorageClass, so claims may never bind", hint


def _rights(api: api_server.ApiServer) -> Found:
    lacking = False
    for right in RIGHTS:
        missing = [verb for verb in right.verbs.split(",") if not _may(api, verb, right)]
        if missing:
            lacking = True
            text = f"you may not {', '.join(missing)} {right.resource} in {api.namespace}: no {right.without}"
            yield "blocks" if right.blocks else "mind", text, "ask for a RoleBinding to `view`, `edit` or `admin`"
    if not lacking:
        yield "ok", f"you may do everything in namespace {api.namespace}", ""


def _may(api: api_server.ApiServer, verb: str, right: Right) -> bool:
    resource, _, part = right.resource.partition("/")
    wanted = {"namespace": api.namespace, "verb": verb, "group": right.group, "resource": resource, "subresource": part}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    said = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return bool(said["status"].get("allowed"))


def _queues(api: api_server.ApiServer) -> Found:
    there = api.get_or_none("/apis/kueue.x-k8s.io") is not None
    yield "ok", "Kueue is there; spec.queueName names a queue" if there else "no Kueue; spec.queueName is of no use", ""


def _gpus(api: api_server.ApiServer) -> Found:
    nodes = api.call("GET", "/api/v1/nodes")["items"]
    counts = {
        name: int(number)
        for body in nodes
        for name, number in ((body.get("status") or {}).get("allocatable") or {}).items()
        if name.endswith("/gpu")
    }
    said = ", ".join(sorted(name for name, count in counts.items() if count))
    yield ("ok", f"nodes offer {said}", "") if said else ("mind", f"none on {len(nodes)} nodes: runs use CPUs", "")


def _network(_: api_server.ApiServer) -> Found:
    text = "whether the network plug-in enforces NetworkPolicy cannot be asked"
    yield "unknown", text, "without it trainer pods are not cut off from the internet: ask the platform team"


CHECKS: dict[str, Callable[[api_server.ApiServer], Found]] = {
    "Kinds": _kinds,
    "Operator": _operator,
    "Profile": _profile,
    "Storage": _storage,
    "Rights": _rights,
    "Pull secrets": _pull_secrets,
    "Queues": _queues,
    "GPUs": _gpus,
    "Network": _network,
}


def as_json(found: list[Finding]) -> str:
    """The findings for programs."""
    names = ("check", "verdict", "message", "hint")
    return json.dumps([{name: getattr(one, name) for name in names} for one in found], indent=2)
