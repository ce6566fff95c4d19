"""`topcoat support-bundle`: objects and the ends of logs in one file, for whoever looks for a fault.

No Secret is read. What else is left out, and what could not be read, stands in the bundle's README.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from topcoat.api import names
from topcoat.cli import cluster, examination, place, redaction, refusal, terminal, version
from topcoat.manifests import metadata

Json = dict[str, Any]
TAIL_LINES = "500"
MOST_PODS = 40
NAME_HELP = "Name of a FineTuneJob; all of the namespace without it."
# What is listed: folder, path below the namespace, whether a job's name picks its own.
LISTS = (
    ("jobs", "/apis/batch/v1/namespaces/{}/jobs", True),
    ("pods", "/api/v1/namespaces/{}/pods", False),
    ("persistentvolumeclaims", "/api/v1/namespaces/{}/persistentvolumeclaims", False),
    ("services", "/api/v1/namespaces/{}/services", False),
    ("deployments", "/apis/apps/v1/namespaces/{}/deployments", False),
    ("networkpolicies", "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", False),
)
LEFT_OUT = """Left out, always:
- Secrets: none was read.
- ConfigMaps: none was read, so no data-set row and no alias file is here.
- run files in annotations: only the names of their fields; all other annotations of yours: only their names.
- values of environment variables; what a pod's last word says beyond how it ended.
- what looks like a token, a key or a password, in objects and in logs.
- logs before their last 500 lines; models, versions and reports on the volumes.
Logs may still name files, labels or users: read them before you send this."""


@dataclass(slots=True)
class Bundle:
    """Files to be, and what could not be read."""

    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(self, folder: str, found: list[Json]) -> None:
        import yaml

        for body in found:
            path = f"objects/{folder}/{body['metadata']['name']}.yaml"
            self.files[path] = yaml.safe_dump(redaction.body(body), sort_keys=False, allow_unicode=True)

    def packed(self) -> bytes:
        """The file's bytes."""
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w:gz") as archive:
            for name, said in sorted(self.files.items()):
                data = said.encode()
                entry = tarfile.TarInfo(f"topcoat-support/{name}")
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o644
                archive.addfile(entry, io.BytesIO(data))
        return target.getvalue()


@place.given_cluster
def support_bundle(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=NAME_HELP, show_default=False)] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write.", show_default=False)
    ] = None,
    here: cluster.Cluster,
) -> None:
    """Write objects, events and the ends of logs into one .tar.gz, without secrets and data.

    What it leaves out stands in its README. Read it before you send it.
    """
    jobs = [here.raw(name)] if name else here.bodies()
    target = out or Path(f"topcoat-support-{here.namespace}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    if target.exists():
        terminal.fail("it is there already", where=str(target), hint="name a file that is not there yet with --out")
    bundle = Bundle()
    bundle.add("finetunejobs", jobs)
    _collect(here, bundle, jobs)
    bundle.files["README.txt"] = _readme(here, bundle)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(bundle.packed())
    terminal.say(f"{target} has {len(bundle.files)} files of {here.describe()}.")
    for missing in bundle.missing:
        terminal.note(f"Note: {missing}.")
    terminal.next_step(f"tar tzf {target}", "lists them; read it before you send it")


def _collect(here: cluster.Cluster, bundle: Bundle, jobs: list[Json]) -> None:
    mine = [f"{metadata.JOB} in ({', '.join(names.label(body['metadata']['name']) for body in jobs)})"] if jobs else []
    for folder, path, owned in LISTS:
        selector = ",".join([metadata.SELECTOR, *(mine if owned else [])])
        bundle.add(folder, _listed(here, bundle, path, {"labelSelector": selector}))
    pods = _listed(here, bundle, "/api/v1/namespaces/{}/pods", {"labelSelector": metadata.SELECTOR})
    bundle.add("modelservers", _listed(here, bundle, "/apis/topcoat.dev/v1alpha1/namespaces/{}/modelservers"))
    bundle.add("finetuneprofiles", _listed(here, bundle, "/apis/topcoat.dev/v1alpha1/finetuneprofiles"))
    bundle.add("events", list(_events(here, bundle)))
    operators = _listed(here, bundle, "/api/v1/pods", {"labelSelector": examination.OPERATOR})
    bundle.add("operator", operators)
    newest = sorted(pods, key=lambda body: str(body["metadata"]["creationTimestamp"]), reverse=True)[:MOST_PODS]
    for body in [*operators, *newest]:
        _log(here, bundle, body)
    said = "\n".join(f"{one.verdict:<7}  {one.check}: {one.message}" for one in examination.findings(here.api))
    bundle.files["doctor.txt"] = said + "\n"


def _listed(here: cluster.Cluster, bundle: Bundle, path: str, query: dict[str, str] | None = None) -> list[Json]:
    try:
        return here.listed(path.format(here.namespace), query)
    except refusal.Refused as refused:
        if refused.message not in bundle.missing:
            bundle.missing.append(refused.message)
        return []


def _events(here: cluster.Cluster, bundle: Bundle) -> Iterator[Json]:
    """Events about our objects: those of the namespace that name one that is in the bundle."""
    known = {Path(path).stem for path in bundle.files}
    for event in _listed(here, bundle, "/api/v1/namespaces/{}/events"):
        if event["involvedObject"].get("name") in known:
            yield event


def _log(here: cluster.Cluster, bundle: Bundle, body: Json) -> None:
    meta = body["metadata"]
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log"
    try:
        said = here.api.text(path, {"tailLines": TAIL_LINES})
    except (refusal.Refused, refusal.Unreachable) as failure:
        bundle.missing.append(f"the log of pod {meta['name']} could not be read: {failure.message}")
        return
    bundle.files[f"logs/{meta['namespace']}/{meta['name']}.log"] = redaction.text(said)


def _readme(here: cluster.Cluster, bundle: Bundle) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    parts = [f"{version.own()}, {moment}, namespace {here.namespace}", LEFT_OUT]
    if bundle.missing:
        parts.append("Could not be read:\n" + "\n".join(f"- {missing}" for missing in bundle.missing))
    return "\n\n".join([*parts, "Files:\n" + "\n".join(sorted(bundle.files))]) + "\n"
