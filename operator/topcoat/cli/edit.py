"""Edits of a job's spec in a cluster: promote, roll back, ask for a run, suspend. Nothing else is ever changed.

One merge patch per edit, so that no other field of ours is taken back. Whoever keeps the manifest in Git is told
the lines that belong there, and who else owns the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from topcoat.api import finetunejob, promotion, serving
from topcoat.cli import api_server, cluster, terminal
from topcoat.plan import shown

Json = dict[str, Any]
PIN = ("serving", "pinnedVersion")
APPROVE = ("promotion", "approvedVersion")
REQUEST = ("retrain", "requestedAt")
SUSPEND = ("suspend",)
# Marks that tools leave on what they keep as Git has it.
KEEPERS = (
    ("Argo CD", "annotations", "argocd.argoproj.io/tracking-id"),
    ("Argo CD", "labels", "argocd.argoproj.io/instance"),
    ("Flux", "labels", "kustomize.toolkit.fluxcd.io/name"),
    ("Flux", "labels", "helm.toolkit.fluxcd.io/name"),
    ("Helm", "annotations", "meta.helm.sh/release-name"),
)
OWNERS = (("argocd", "Argo CD"), ("kustomize-controller", "Flux"), ("helm-controller", "Flux"), ("helm", "Helm"))


@dataclass(frozen=True, slots=True)
class Edit:
    """One field below spec and its new value; None takes the field away."""

    field: tuple[str, ...]
    value: Any

    def nested(self) -> Json:
        made = self.value
        for name in reversed(self.field):
            made = {name: made}
        return {"spec": made}

    def lines(self) -> list[str]:
        """The edit as YAML."""
        names = ("spec", *self.field)
        above = [f"{'  ' * depth}{name}:" for depth, name in enumerate(names[:-1])]
        value = {True: "true", False: "false"}.get(self.value, self.value)
        text = f'"{value}"' if self.field == REQUEST else str(value)
        return [*above, f"{'  ' * (len(names) - 1)}{names[-1]}: {text}"]


def promote(here: cluster.Cluster, job: finetunejob.FineTuneJob, version: str) -> None:
    """With policy Manual an approval; else a pin, which holds whatever the gate promotes later."""
    name = job.metadata.name
    if job.spec.promotion.policy is promotion.Policy.MANUAL:
        carry_out(here, name, Edit(APPROVE, version), f"{version} is approved")
        if job.spec.serving.pinned_version not in (None, version):
            terminal.note(f"Note: serving.pinnedVersion keeps {job.spec.serving.pinned_version} serving.")
        terminal.next_step(f"topcoat watch {name}{here.words}", "follows until it serves")
        return
    _check_served(job)
    carry_out(here, name, Edit(PIN, version), f"{version} is to serve, whatever the gate promotes later")
    terminal.next_step(f"topcoat rollback {name} --unpin{here.words}", "takes it back")


def rollback(here: cluster.Cluster, job: finetunejob.FineTuneJob, previous: str) -> None:
    """A pin to the version before."""
    name, pinned = job.metadata.name, job.spec.serving.pinned_version
    _check_served(job)
    if pinned not in (None, previous):
        hint = f"`topcoat promote {name} vN` names another version; `topcoat rollback {name} --unpin` takes it away"
        terminal.fail(f"serving.pinnedVersion of {name!r} is {pinned} already", hint=hint)
    carry_out(here, name, Edit(PIN, previous), f"{previous} is to serve, whatever the gate promotes later")
    terminal.next_step(f"topcoat rollback {name} --unpin{here.words}", "takes it back")


def unpin(here: cluster.Cluster, job: finetunejob.FineTuneJob) -> None:
    name = job.metadata.name
    promoted = job.status.promoted_version if job.status else None
    carry_out(here, name, Edit(PIN, None), f"the pin is gone; {promoted or 'the next winner'} is to serve")
    terminal.next_step(f"topcoat status {name}{here.words}")


def retrain(here: cluster.Cluster, job: finetunejob.FineTuneJob) -> None:
    """One run now; the sources are read again."""
    name = job.metadata.name
    carry_out(here, name, Edit(REQUEST, shown.time(datetime.now(UTC))), "one run is asked for")
    if job.spec.suspend or job.spec.retrain.suspend:
        field = "suspend" if job.spec.suspend else "retrain.suspend"
        terminal.note(f"Note: {field} is true, so nothing starts before that changes.")
    terminal.next_step(f"topcoat watch {name}{here.words}", "follows it")


def suspend(here: cluster.Cluster, job: finetunejob.FineTuneJob, *, wanted: bool) -> None:
    name = job.metadata.name
    said = "a run stops at a checkpoint and none starts; what serves goes on" if wanted else "runs may start again"
    carry_out(here, name, Edit(SUSPEND, wanted), said)
    if wanted:
        terminal.next_step(f"topcoat resume {name}{here.words}", "goes on from the checkpoint")
    else:
        terminal.next_step(f"topcoat watch {name}{here.words}", "follows it")


def carry_out(here: cluster.Cluster, name: str, edit: Edit, said: str) -> None:
    """The edit, unless it holds already; then the lines for Git, and who else owns the object."""
    body = here.raw(name)
    label = ".".join(edit.field)
    if _value(body["spec"], edit.field) == edit.value:
        terminal.say(f"{label} of {name} is {edit.value} already." if edit.value is not None else f"{name} has no pin.")
        return
    # The UID: an object that was made anew meanwhile is another one.
    patch = {"metadata": {"uid": body["metadata"]["uid"]}, **edit.nested()}
    query = {"fieldManager": cluster.MANAGER, "fieldValidation": "Strict"}
    here.api.call("PATCH", here.path(name), patch, query=query, content_type=api_server.MERGE)
    terminal.say(f"{name} in {here.describe()}: {said}.")
    if edit.value is None:
        terminal.say(f"If the manifest is kept in Git, take {label} out there, too.\n")
    else:
        lines = "\n".join(f"  {line}" for line in edit.lines())
        terminal.say(f"If the manifest is kept in Git, these lines belong there, too:\n\n{lines}\n")
    for keeper in keepers(body):
        terminal.note(f"Warning: {keeper} keeps {name} as Git has it and will take the edit back until Git says it.")


def _check_served(job: finetunejob.FineTuneJob) -> None:
    if job.spec.serving.mode is serving.Mode.NONE:
        hint = "set serving.mode to Shared or Dedicated in the manifest and apply it"
        terminal.fail(f"serving.mode of {job.metadata.name!r} is None, so no version can serve", hint=hint)


def _value(spec: Json, field: tuple[str, ...]) -> Any:
    found: Any = spec
    for name in field:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def keepers(body: Json) -> list[str]:
    """Tools that keep the object as somebody else has it: by their marks, or because they wrote the spec."""
    meta = body["metadata"]
    marked = [tool for tool, group, mark in KEEPERS if mark in (meta.get(group) or {})]
    wrote = [
        str(entry.get("manager")).lower()
        for entry in meta.get("managedFields") or []
        if "f:spec" in (entry.get("fieldsV1") or {})
    ]
    owning = [tool for manager in wrote for word, tool in OWNERS if word in manager]
    return list(dict.fromkeys([*marked, *owning]))
