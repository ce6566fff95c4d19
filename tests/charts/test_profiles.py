"""Profiles that people copy: valid in what a schema cannot see, too."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import yaml

from tests.support import charts
from topcoat.api import finetunejob, profile
from topcoat.plan import profile as planned

FILES = sorted((charts.ROOT / "examples" / "profiles").glob("*.yaml"))


def test_there_is_one_for_jobs_that_name_none() -> None:
    names = [yaml.safe_load(path.read_text())["metadata"]["name"] for path in FILES]
    assert names == [path.stem for path in FILES]
    assert finetunejob.FineTuneJobSpec.model_fields["profile"].default in names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_defaults_fit_a_job_and_its_blocks_are_addresses(path: Path) -> None:
    found = profile.FineTuneProfile.model_validate(yaml.safe_load(path.read_text()))
    job = finetunejob.FineTuneJobSpec.model_validate(
        {"baseModel": {"uri": "hf://a/b"}, "dataset": {"train": {"uri": "pvc://c/d.jsonl"}}}
    )
    assert planned.with_defaults(job, found.spec.defaults).base_model == job.base_model
    assert all(ipaddress.ip_network(block) for block in found.spec.network.prepare_egress)
