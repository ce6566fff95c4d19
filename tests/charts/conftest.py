"""A control plane of these tests' own, on which Helm meets a cluster that has never heard of Topcoat."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import charts
from tests.support.kube import control_plane as planes
from tests.support.kube import fixtures, folder, left_out, tools


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first build takes minutes, so it happens before the first test, out of reach of any test's time limit."""
    wanted = any(Path(__file__).parent in item.path.parents for item in session.items)
    if wanted and not session.config.option.collectonly:
        with contextlib.suppress(tools.NoTools):  # the fixture says why
            tools.prepare()


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    try:
        tools.prepare()
    except tools.NoTools as why:
        left_out.leave_out(f"no Helm: {why}")


@pytest.fixture(scope="session")
def bare_plane() -> Iterator[planes.ControlPlane]:
    """Without Topcoat, at first."""
    plane = planes.ControlPlane(folder.Owned.new("chart"))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="module")
def installed(bare_plane: planes.ControlPlane) -> Iterator[planes.ControlPlane]:
    """With the chart as it comes."""
    arguments = [charts.RELEASE, "--namespace", charts.NAMESPACE]
    done = charts.run("install", *arguments, str(charts.CHART), "--create-namespace", kubeconfig=bare_plane.kubeconfig)
    assert done.returncode == 0, done.stderr
    yield bare_plane
    charts.run("uninstall", *arguments, kubeconfig=bare_plane.kubeconfig)


@pytest.fixture
def team(installed: planes.ControlPlane, request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes namespaces, gone after the test."""
    made: list[str] = []

    def make() -> str:
        made.append(fixtures.namespace_name(request.node.name))
        installed.create_namespace(made[-1])
        return made[-1]

    yield make
    for name in made:
        installed.kubectl("delete", "namespace", name, "--wait=false")
