"""Each file in invalid/ is refused, by whom its first line says, with the message that stands beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from tests.support.structural import refusals
from topcoat.api import crd
from topcoat.api.finetunejob import FineTuneJob

FOLDER = Path(__file__).parent / "invalid"
FILES = sorted(FOLDER.glob("*.yaml"))
SCHEMA = crd.custom_resource_definition(crd.KINDS[0])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@dataclass(frozen=True)
class Case:
    by: str
    field: str
    message: str
    body: Any


def case(path: Path) -> Case:
    lines = path.read_text(encoding="utf-8").splitlines()
    by, field, message = (line.split(": ", 1)[1] for line in lines[:3])
    return Case(by, field, message, yaml.safe_load("\n".join(lines)))


def complaints_of_python(body: Any) -> list[tuple[str, str]]:
    try:
        FineTuneJob.read(body)
    except pydantic.ValidationError as error:
        return [(".".join(str(part) for part in item["loc"]), item["msg"]) for item in error.errors()]
    return []


def test_the_corpus_is_large_and_says_who_must_speak() -> None:
    assert len(FILES) >= 120
    assert {case(path).by for path in FILES} == {"schema", "CEL", "plan", "trainer"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_python_says_the_message_that_stands_beside_the_manifest(path: Path) -> None:
    given = case(path)
    complaints = complaints_of_python(given.body)
    if given.by in ("plan", "trainer"):
        assert complaints == []
        return
    assert any(given.message in message and field.startswith(given.field) for field, message in complaints), complaints


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_crd_refuses_by_the_part_that_the_corpus_names(path: Path) -> None:
    given = case(path)
    found = refusals(SCHEMA, given.body)
    if given.by in ("plan", "trainer"):
        assert found == []
        return
    assert {refusal.by for refusal in found} == {given.by}, found


VALID: dict[str, dict[str, Any]] = {
    "six lines": {},
    "all layers": {"method": {"layers": "All"}},
    "eight layers": {"method": {"layers": 8}},
    "canary": {"serving": {"rollout": {"type": "Canary", "steps": [{"weight": 5}, {"weight": 50}]}}},
    "manual": {"promotion": {"policy": "Manual", "approvedVersion": "v3"}},
    "full": {"method": {"type": "Full"}, "serving": {"engine": "Transformers"}},
    "small learning rate": {"training": {"learningRate": "1e-5", "earlyStopping": {"patience": 1}}},
    "guards": {
        "dataset": {"train": {"uri": "hf://org/name"}, "guards": [{"name": "a", "source": {"uri": "pvc://c/g"}}]}
    },
    "budget": {"budget": {"maxGPUHours": "1.5"}},
    "resources": {"trainer": {"resources": {"limits": {"nvidia.com/gpu": "1", "memory": "16Gi"}}, "nodes": 2}},
    "schedule": {"retrain": {"schedule": "0 3 * * 1", "timeZone": "Europe/Berlin"}},
    "pinned": {"serving": {"pinnedVersion": "v1"}},
    "sweep of both": {"training": {"sweep": {"learningRates": ["1e-4", "5e-4"], "ranks": [8, 16, 32, 64, 128]}}},
    "sweep of rates": {"method": {"type": "Full"}, "training": {"sweep": {"learningRates": ["1e-5", "5e-5"]}}},
    "sweep of ranks": {"training": {"learningRate": "1e-3", "sweep": {"ranks": [8, 64]}}},
    "sweep of rates beside a rank": {"method": {"lora": {"rank": 8}}, "training": {"sweep": {"learningRates": ["1"]}}},
}


@pytest.mark.parametrize("spec", VALID.values(), ids=VALID.keys())
def test_python_and_crd_accept_the_same_good_manifests(spec: dict[str, Any]) -> None:
    body = {
        "apiVersion": "topcoat.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "claims"},
        "spec": {"baseModel": {"uri": "hf://org/name"}, "dataset": {"train": {"uri": "pvc://c/a.jsonl"}}, **spec},
    }
    assert complaints_of_python(body) == []
    assert refusals(SCHEMA, body) == []
