"""The command line against a test's control plane, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import operators, stores
from tests.support.kube import account

PROGRAM = "import sys; from topcoat.cli import app; sys.argv = {argv!r}; app.main()"


def topcoat(team: operators.Team, *words: object, user: str = account.ADMIN) -> stores.Said:
    """A command line on the team's namespace, as from a pipe."""
    kubeconfig = team.plane.kubeconfig_of(user, team.namespace)
    return stores.topcoat(*words, "--cluster", KUBECONFIG=str(kubeconfig))


class Running:
    """A command line in a process of its own: for what waits for the cluster."""

    def __init__(
        self, team: operators.Team, *words: object, program: str = "topcoat", user: str = account.ADMIN
    ) -> None:
        kubeconfig = team.plane.kubeconfig_of(user, team.namespace)
        code = PROGRAM.format(argv=[program, *map(str, words)])
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self, seconds: float = 60) -> stores.Said:
        """What it said and how it ended."""
        try:
            out, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            raise AssertionError(f"not ended after {seconds} s\n{out}\n{err}") from None
        return stores.Said(self._process.returncode, out, err)


def manifest(folder: Path, team: operators.Team, name: str = "claims", more: str = "") -> Path:
    """A small valid manifest without a server; `more` goes below spec."""
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""apiVersion: topcoat.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: {name}
spec:
  profile: {team.profile}
  baseModel:
    uri: pvc://models/base
  dataset:
    train:
      uri: pvc://data/train.jsonl
"""
        + (more or "  serving:\n    mode: None\n")
    )
    return path
