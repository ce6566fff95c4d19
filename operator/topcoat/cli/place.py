"""Where a verb works: the local store, or a namespace of a cluster. One interface for both, chosen by options.

A verb takes `here: place.Place` and is wrapped by `given`; what only a cluster can do takes a `cluster.Cluster`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from topcoat.api import finetunejob
from topcoat.api import status as statuses
from topcoat.cli import option, terminal

if TYPE_CHECKING:
    from topcoat.cli import follow, sealed

Json = dict[str, Any]


class Place(Protocol):
    """Where jobs are."""

    words: str
    """The options that bring the next command to the same place."""
    runner: tuple[str, str]
    """What makes a job go on here, and why one would call it."""

    def describe(self) -> str:
        """The place, as people know it."""

    def bodies(self) -> list[Json]:
        """All jobs as they are written."""

    def body(self, name: str) -> Json:
        """One job as it is written. Fails with what is there instead."""

    def job(self, name: str) -> finetunejob.FineTuneJob:
        """One job, read."""

    def changes(self, name: str) -> Iterator[finetunejob.FineTuneJob]:
        """The job again and again, until it is settled or nobody carries it on."""

    def progress(self, job: finetunejob.FineTuneJob) -> follow.Source:
        """Where its progress is told."""

    def files(self, job: finetunejob.FineTuneJob, entry: statuses.VersionStatus) -> sealed.Files:
        """The files of a sealed version."""

    def served(self, job: finetunejob.FineTuneJob) -> str | None:
        """The version that the alias points to."""

    def promote(self, job: finetunejob.FineTuneJob, version: str) -> None:
        """Makes a version that a person chose the promoted one."""

    def rollback(self, job: finetunejob.FineTuneJob, previous: str) -> None:
        """Goes back to the version before."""

    def unpin(self, job: finetunejob.FineTuneJob) -> None:
        """Takes a pin away."""

    def ask(self, job: finetunejob.FineTuneJob, text: str, who: Sequence[Asked], token: str) -> list[Json]:
        """What each of them answers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a question goes to: a version (None: the one that serves), or the base model."""

    version: str | None = None
    base: bool = False


def settled(job: finetunejob.FineTuneJob) -> bool:
    """Whether everything that the manifest asks for has been carried out, or nothing can be."""
    said = job.status
    if said is None or said.observed_generation < job.metadata.generation:
        return False
    return any(one.type == "Reconciling" and one.status == "False" for one in said.conditions)


def unknown(name: str, known: list[str], where: str, first: str) -> NoReturn:
    """Fails with the jobs that are there instead; `first`: what to do where there is none."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"`topcoat get` lists the jobs there: {', '.join(known[:8])}" if known else first
    meant = f"; did you mean {near[0]!r}?" if near else ""
    terminal.fail(f"there is no job {name!r} in {where}{meant}", hint=hint)


def given(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb gets its place from the options --store, --cluster, --namespace, --context and --kubeconfig."""
    return _with_options(verb, [_parameter("store_folder", option.Store, option.DEFAULT_STORE), *_CLUSTER], _anywhere)


def given_cluster(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a verb that only a cluster has."""
    return _with_options(verb, _CLUSTER, _in_cluster)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_CLUSTER = [
    _parameter("cluster", option.Cluster, False),
    _parameter("namespace", option.Namespace, None),
    _parameter("context", option.Context, None),
    _parameter("kubeconfig", option.Kubeconfig, None),
]


def _with_options(
    verb: Callable[..., Any], options: list[inspect.Parameter], choose: Callable[..., Place]
) -> Callable[..., Any]:
    """The verb as typer sees it: without `here`, with the options that choose it."""
    signature = inspect.signature(verb, eval_str=True)
    own = [
        part.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, part in signature.parameters.items()
        if name != "here"
    ]

    @functools.wraps(verb)
    def called(**words: Any) -> Any:
        chosen = {part.name: words.pop(part.name) for part in options}
        return verb(**words, here=choose(**chosen))

    seen = [*own, *options]
    vars(called).pop("__wrapped__")
    called.__signature__ = signature.replace(parameters=seen)  # type: ignore[attr-defined]  # typer reads it
    called.__annotations__ = {part.name: part.annotation for part in seen}
    return called


def as_plugin() -> bool:
    """Whether kubectl called us: then we always mean its cluster."""
    return terminal.program() != "topcoat"


def _anywhere(
    *, store_folder: Path, cluster: bool, namespace: str | None, context: str | None, kubeconfig: Path | None
) -> Place:
    if cluster or namespace or context or kubeconfig or as_plugin():
        return _in_cluster(cluster=cluster, namespace=namespace, context=context, kubeconfig=kubeconfig)
    from topcoat.cli import local_place

    return local_place.LocalPlace(store_folder)


def _in_cluster(*, cluster: bool, namespace: str | None, context: str | None, kubeconfig: Path | None) -> Place:  # noqa: ARG001 - the flag chose this function
    from topcoat.cli import api_server
    from topcoat.cli import cluster as clusters

    where = api_server.Where(namespace or "", context or "", str(kubeconfig) if kubeconfig else "")
    return clusters.Cluster(where)


def not_in_cluster(what: str, hint: str) -> None:
    """Ends a verb that only the local store has, where kubectl called it."""
    if as_plugin():
        terminal.fail(what, hint=hint)
