"""Fixtures: a control plane per test process, a namespace per test. tests/conftest.py hands them to all tests."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.support.kube import cluster as clusters
from tests.support.kube import control_plane as planes
from tests.support.kube import folder, left_out, leftover, tools

# What needs the built programs.
BUILT = {"control_plane", "cluster"}


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first build takes minutes, so it happens before the first test, out of reach of any test's time limit."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    with contextlib.suppress(tools.NoTools):  # the fixture says why
        if wanted & BUILT:
            tools.program("kubectl")
        if "cluster" in wanted and not clusters.missing():
            clusters.prepare()


@pytest.fixture(scope="session")
def control_plane() -> Iterator[planes.ControlPlane]:
    """A real API server with controllers and scheduler, with Topcoat's kinds, shared by this process's tests."""
    try:
        tools.program("kubectl")
    except tools.NoTools as why:
        left_out.leave_out(f"no control plane: {why}")
    leftover.clean()
    plane = planes.ControlPlane(folder.Owned.new("plane"))
    try:
        plane.start()
        plane.apply_crds()
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[clusters.Cluster]:
    """A real Kubernetes with one node, with Topcoat's kinds, shared by this process's tests."""
    if why := clusters.missing():
        left_out.leave_out(why)
    try:
        tools.program("kubectl")
    except tools.NoTools as why_not:
        left_out.leave_out(f"no cluster: {why_not}")
    leftover.clean()
    found = clusters.Cluster.in_sandbox(folder.Owned.new("cluster"))
    try:
        found.start()
        found.apply_crds()
        yield found
    finally:
        found.stop()


@pytest.fixture
def new_namespace(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Makes namespaces with names of their own, on the cluster if the test has one; deleted after the test."""
    made: list[str] = []
    plane = request.getfixturevalue("cluster" if "cluster" in request.fixturenames else "control_plane")

    def make(labels: Mapping[str, str] | None = None) -> str:
        made.append(namespace_name(request.node.name))
        plane.create_namespace(made[-1], labels)
        return made[-1]

    yield make
    for name in made:
        plane.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def namespace(new_namespace: Callable[..., str]) -> str:
    """A namespace of the test's own."""
    return new_namespace()


def namespace_name(test: str) -> str:
    """The test's name as far as it fits, and something that no other run has."""
    words = re.sub(r"[^a-z0-9]+", "-", test.lower()).removeprefix("test-").strip("-")[:40].strip("-")
    return f"{words}-{secrets.token_hex(3)}"
