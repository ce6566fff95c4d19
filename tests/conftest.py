"""Fixtures that tests of several rooms share, and what a run says at its end."""

from __future__ import annotations

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
