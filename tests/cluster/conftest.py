"""One operator for the tests of this room, and a namespace, a profile and a tenant for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support import operators
from tests.support.kube import control_plane as planes

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture
def namespace(new_namespace: Callable[..., str]) -> str:
    """A tenant's namespace that admits restricted pods only: whatever we create must pass."""
    return new_namespace(RESTRICTED)


@pytest.fixture(scope="module")
def operator(control_plane: planes.ControlPlane) -> Iterator[operators.Operator]:
    """One operator for all tests of a file, with the rights of the chart. It watches every namespace."""
    made = operators.Operator(control_plane, [])
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def team(control_plane: planes.ControlPlane, namespace: str, operator: operators.Operator) -> Iterator[operators.Team]:
    """The tenant whose namespace the operator watches."""
    operators.make_profile(control_plane, namespace)
    yield operators.Team(control_plane, namespace, namespace)
    control_plane.kubectl("delete", "finetuneprofile", namespace, "--ignore-not-found")


@pytest.fixture
def fresh_operator(control_plane: planes.ControlPlane) -> Iterator[Callable[..., operators.Operator]]:
    """Makes operators that are not started yet."""
    made: list[operators.Operator] = []

    def make(watched: list[str], gate: str = "", **settings: str) -> operators.Operator:
        made.append(operators.Operator(control_plane, watched, settings, gate))
        made[-1].install()
        return made[-1]

    yield make
    for operator in made:
        operator.remove()
