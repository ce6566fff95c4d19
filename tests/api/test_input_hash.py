"""Which change of a manifest starts a run: what the hash of its inputs depends on."""

from __future__ import annotations

from typing import Any

import pytest

from topcoat.api import finetunejob, input_hash


def parts(**spec: Any) -> dict[str, str]:
    made = finetunejob.FineTuneJobSpec.model_validate(
        {"baseModel": {"uri": "hf://org/name"}, "dataset": {"train": {"uri": "pvc://c/a.jsonl"}}, **spec}
    )
    return input_hash.input_parts(made, "d", "b")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "1:88b3c28e35061f56886df2bf99a95b13"),
        (
            {"training": {"learningRate": "1e-3"}, "method": {"layers": "Auto", "lora": {"rank": 8}}},
            "1:153a5346b26994f9dcd33e24a0e23102",
        ),
    ],
)
def test_manifests_of_older_versions_keep_their_hash(spec: dict[str, Any], expected: str) -> None:
    """A new field that is absent may not change it: everybody would train again. These were written before sweeps."""
    assert input_hash.input_hash(parts(**spec)) == expected


def test_a_sweep_and_each_of_its_values_count() -> None:
    sweeps = [None, {"ranks": [8, 16]}, {"ranks": [16, 8]}, {"learningRates": ["1e-3"]}, {"learningRates": ["2e-3"]}]
    found = [parts(training={"sweep": sweep}) for sweep in sweeps]
    assert len({part["training"] for part in found}) == len(sweeps)
    assert len({(part["method"], part["dataset"], part["baseModel"]) for part in found}) == 1
