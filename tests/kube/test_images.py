"""The images: built from the Dockerfile on this machine's own base, pushed to the cluster, run under `restricted`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kube import cluster as clusters
from tests.support.kube import images, left_out, pod

IMPORTS = "import topcoat.api.run, importlib.metadata as m; print(m.version('topcoat'))"
# What the operator's image must not carry, and what no image may.
FOREIGN = ("torch", "transformers", "peft", "topcoat_trainer")
BUILDING = ("pip", "hatchling", "uv", "cyclonedx_py")
NOT_TRAINERS = ("kopf", "kubernetes", "topcoat.cli", "topcoat.plan", *BUILDING)
# What building the trainer's image takes: PyTorch comes with its CUDA libraries.
TRAINER_BYTES = 25 * 10**9


@pytest.fixture(scope="module")
def operator_image(cluster: clusters.Cluster) -> str:
    """In the cluster's registry."""
    try:
        images.build("operator")
    except images.NoImages as why:
        left_out.leave_out(str(why))
    return cluster.push("operator")


def missing(modules: tuple[str, ...]) -> str:
    """A script that prints which of these can be imported."""
    return f"import importlib.util as u; print([name for name in {modules} if u.find_spec(name)])"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_operators_image_is_pulled_and_runs_on_a_read_only_disk(
    cluster: clusters.Cluster, new_namespace: Callable[..., str], operator_image: str
) -> None:
    pods = pod.Pods(cluster, new_namespace(pod.RESTRICTED))
    pods.create(pod.pod("imports", IMPORTS, operator_image))
    pods.create(pod.pod("foreign", missing((*FOREIGN, *BUILDING)), operator_image))
    pods.create(pod.pod("user", "import os, getpass; print(os.getuid(), getpass.getuser())", operator_image))
    assert pods.ended("imports", 120)[1] == f"{images.version()}\n"
    assert pods.ended("foreign")[1] == "[]\n"
    assert pods.ended("user")[1] == "65532 topcoat\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_image_carries_the_list_of_its_contents(operator_image: str, tmp_path: Path) -> None:
    found = json.loads(images.write_sbom("operator", tmp_path).read_text())
    names = {component["name"] for component in found["components"]}
    assert found["bomFormat"] == "CycloneDX"
    assert {"kopf", "aiohttp", "pydantic"} <= names
    assert "torch" not in names


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_image_says_nothing_of_the_machine_that_built_it(operator_image: str) -> None:
    said = images.inspect("operator")
    assert "/run/secrets/ca" not in said
    assert all(setting.partition(" = ")[2] not in said for setting in images.pip_settings() if "://" in setting)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_trainers_image_has_all_that_its_pods_run_and_nothing_of_the_operator() -> None:
    if why := clusters.missing(0 if images.built("trainer") else TRAINER_BYTES):
        left_out.leave_out(f"the trainer's image: {why}")
    images.build("trainer")
    script = f"import torch, transformers, peft, topcoat_trainer.run, topcoat.api.run; {missing(NOT_TRAINERS)}"
    assert images.run("trainer", "python", "-c", script) == "[]\n"
    assert images.run("trainer", "python", "-c", IMPORTS) == f"{images.version()}\n"
    assert "usage: torchrun" in images.run("trainer", "torchrun", "--help")


def test_a_mirror_is_taken_from_pips_own_words() -> None:
    said = "global.index-url='https://mirror.test/simple'\n:env:.timeout='180'\nglobal.find-links='/somewhere'\n"
    assert images.settings(said) == ["index-url = https://mirror.test/simple", "timeout = 180"]


def test_the_environments_word_about_a_mirror_is_the_last() -> None:
    said = ":env:.index-url='https://b.test'\nglobal.index-url='https://a.test'\n"
    assert images.settings(said) == ["index-url = https://b.test"]
