"""Who is measured: what each subject tells about itself, and the control plane that each has to itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tests.support.kube import control_plane as planes
from tests.support.kube import folder, process

Json = dict[str, Any]

NAMESPACE = "bench"
READY_SECONDS = 60.0


class Controller(Protocol):
    """The process of a subject."""

    @property
    def pid(self) -> int: ...

    @property
    def user(self) -> str:
        """Who it is to the API server."""
        ...

    def launch(self) -> None:
        """Starts the process; need not wait for it."""

    def stop(self) -> None: ...

    def ready(self) -> bool:
        """What its own probe says."""
        ...

    def looks(self) -> int:
        """How often it has looked at a job, by its own metrics."""
        ...


class Subject(Protocol):
    """A controller, and what its jobs look like."""

    name: str
    collection: str
    """Path of what it makes, one for each job."""

    def install(self, plane: planes.ControlPlane) -> Controller:
        """Everything but the start of its process."""
        ...

    def job(self, number: int) -> tuple[str, Json]:
        """Path and body of the n-th job."""
        ...


class Finishing(Subject, Protocol):
    """A subject whose jobs come to an end."""

    def learn(self, plane: planes.ControlPlane, controller: Controller) -> None:
        """Sees how a finished job looks; the controller runs."""

    def old_job(self, number: int) -> tuple[str, Json]:
        """Path and body of the n-th job that is to be finished."""
        ...

    def finished(self, made: Json) -> Json:
        """The status of this job, had it lived its whole life."""
        ...


@contextmanager
def alone(subject: Subject) -> Iterator[tuple[planes.ControlPlane, Controller]]:
    """A fresh control plane with this subject on it, started. No node: pods stay pending."""
    plane = planes.ControlPlane(folder.Owned.new("bench"))
    try:
        plane.start()
        controller = subject.install(plane)
        # It learns of new kinds every half minute; better now than in the middle of a measurement.
        controllers = plane.programs["kube-controller-manager"]
        controllers.stop()
        controllers.start()
        plane.create_namespace(NAMESPACE)
        try:
            start(controller)
            yield plane, controller
        finally:
            controller.stop()
    finally:
        plane.stop()


def start(controller: Controller) -> None:
    controller.launch()
    process.wait_until("the subject", controller.ready, seconds=READY_SECONDS)
