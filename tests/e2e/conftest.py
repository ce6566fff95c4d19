"""One cluster with the chart installed and a tenant's model and data on a claim, for all tests of this folder."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import story
from tests.support.kube import cluster as clusters
from tests.support.kube import folder, images, left_out, leftover, tools

# PyTorch comes with its CUDA libraries.
BUILD_BYTES = 25 * 10**9


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first build takes minutes, so it happens before the first test, out of reach of any test's time limit."""
    wanted = any(Path(__file__).parent in item.path.parents for item in session.items)
    if not wanted or session.config.option.collectonly or _missing():
        return
    with contextlib.suppress(tools.NoTools, images.NoImages):  # the fixture says why
        tools.prepare()
        clusters.prepare()
        for part in images.PARTS:
            images.build(part)


def _missing() -> str:
    with contextlib.suppress(KeyError):
        return clusters.missing(0 if images.built("trainer") else BUILD_BYTES)
    return "no buildah"


@pytest.fixture(scope="session")
def material() -> Iterator[story.Material]:
    with tempfile.TemporaryDirectory() as place:
        yield story.tiny_material(Path(place) / "tiny")


@pytest.fixture(scope="session")
def told(material: story.Material) -> Iterator[story.Story]:
    """The chart is installed by the real Helm; the team's namespace admits restricted pods only."""
    if why := clusters.missing(0):
        left_out.leave_out(why)
    try:
        tools.prepare()
    except tools.NoTools as why_not:
        left_out.leave_out(f"no cluster: {why_not}")
    if why := _missing():
        left_out.leave_out(f"the trainer's image: {why}")
    leftover.clean()
    found = clusters.Cluster.in_sandbox(folder.Owned.new("e2e"))
    try:
        clusters.prepare()
        found.start()
        one = story.Story(found)
        one.install()
        one.bring(material)
        yield one
    finally:
        found.stop()
