"""Fixtures that tests of several rooms share, and what a run says at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.kube.fixtures import cluster, control_plane, namespace, new_namespace, pytest_collection_finish
from tests.support.kube.left_out import pytest_terminal_summary

__all__ = [
    "cluster",
    "control_plane",
    "namespace",
    "new_namespace",
    "pytest_collection_finish",
    "pytest_terminal_summary",
]


# Files that take minutes: begun first, so that no process is left alone with one at the end.
LONG = ("e2e/test_story", "serve/test_vllm", "cluster/", "trainer/run/", "cli/", "serve/", "charts/", "kube/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order within a file stays."""

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((number for number, part in enumerate(LONG) if f"/tests/{part}" in path), len(LONG))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process sets logging up, onto a stream that is closed when the test ends."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if one not in before and type(one) is logging.StreamHandler]:
        root.removeHandler(handler)
    root.setLevel(level)
