from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support import stores, worlds
from topcoat.api import status
from topcoat.api.finetunejob import FineTuneJob
from topcoat.cli import show


def test_the_table_has_the_columns_of_kubectl_and_ends_with_the_next_command(store: Path) -> None:
    said = stores.topcoat("get", store=store)
    assert said.code == 0
    head, row, last = said.out.strip().splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "ETA", "SCORE", "VERSION", "AGE"]
    assert row.split()[:2] == ["claims", "Ready"]
    assert "v1" in row.split()
    assert last.startswith("Next: topcoat status claims")
    assert "\x1b" not in said.out


def test_wide_has_more_columns(store: Path) -> None:
    said = stores.topcoat("get", "claims", "-o", "wide", store=store)
    assert {"REASON", "LAYERS", "ENDPOINT"} <= set(said.out.splitlines()[0].split())
    assert "CandidateRejected" in said.out.splitlines()[1]


@pytest.mark.parametrize(("form", "read"), [("json", "json"), ("yaml", "yaml")])
def test_a_job_as_data_is_the_object_itself_and_nothing_else(store: Path, form: str, read: str) -> None:
    said = stores.topcoat("get", "claims", "-o", form, store=store)
    body = said.body if read == "json" else yaml.safe_load(said.out)
    assert FineTuneJob.read(body).metadata.name == "claims"
    assert body["status"]["promotedVersion"] == "v1"
    assert set(body["status"]["evaluation"]) >= {"base", "candidate", "lowerBound", "samples", "verdict"}
    assert "Next" not in said.out


def test_all_jobs_as_data_are_a_list(store: Path) -> None:
    stores.write_job(store, worlds.job().model_copy(update={"status": None}))
    assert [item["kind"] for item in stores.topcoat("get", "-o", "json", store=store).body["items"]] == ["FineTuneJob"]
    assert stores.topcoat("get", "-o", "json", store=store).body["kind"] == "List"


def test_names_go_in_as_they_come_out(store: Path) -> None:
    name = stores.topcoat("get", "-o", "name", store=store).out.strip()
    assert name == "finetunejob.topcoat.dev/claims"
    assert stores.topcoat("get", name, store=store).code == 0


def test_an_empty_store_is_no_error(tmp_path: Path) -> None:
    said = stores.topcoat("get", store=tmp_path / "none")
    assert said.code == 0
    assert said.last.startswith("Next: topcoat init")
    assert not (tmp_path / "none").exists()
    assert stores.topcoat("get", "-o", "json", store=tmp_path / "none").body["items"] == []


def test_an_unknown_job_is_answered_with_the_jobs_that_are_there(store: Path) -> None:
    said = stores.topcoat("get", "claim", store=store)
    assert said.code == 1
    assert "did you mean 'claims'?" in said.err
    assert not said.out


def test_the_next_command_finds_the_same_store(store: Path) -> None:
    assert stores.topcoat("get", store=store).last.endswith(f"topcoat status claims --store {store}")
    assert stores.topcoat("get", TOPCOAT_STORE=str(store)).last.endswith("topcoat status claims")


def test_the_store_may_come_from_the_environment(store: Path) -> None:
    assert stores.topcoat("get", "claims", TOPCOAT_STORE=str(store)).code == 0


def test_a_damaged_object_is_named(store: Path) -> None:
    path = store / "finetunejobs" / "claims.json"
    path.write_text(path.read_text().replace('"FineTuneJob"', '"Other"'))
    said = stores.topcoat("get", "claims", store=store)
    assert said.code == 1
    assert str(path) in said.err.replace("\n", "")
    assert "kind" in said.err


def test_status_says_phase_verdict_versions_and_the_next_command(store: Path) -> None:
    said = stores.topcoat("status", "claims", store=store)
    assert said.code == 0
    for word in ("claims  Ready", "v1, as claims", "Reject on 300", "Promoted", "Rejected", "600 rows to learn from"):
        assert word in said.out
    assert said.last.startswith("Next: topcoat ask claims")


def test_status_as_data_is_the_status(store: Path) -> None:
    assert stores.topcoat("status", "claims", "-o", "json", store=store).body["servedVersion"] == "v1"


def test_a_failure_stands_in_the_status_with_its_way_out(tmp_path: Path) -> None:
    world = worlds.World(job=worlds.job(), trainer=worlds.ends_with(11))
    world.settle()
    stores.write_job(tmp_path, world.job)
    said = stores.topcoat("status", "claims", store=tmp_path)
    assert "Failed" in said.out
    assert "To fix it: mend the rows" in said.out
    assert said.code == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (".a.b", 1),
        (".a.c", None),
        (".x.y", None),
        (".list[?(@.type=='Ready')].reason", "Idle"),
        (".list[?(@.type=='Gone')].reason", None),
    ],
)
def test_a_column_finds_its_field(path: str, value: object) -> None:
    assert show._at(path, {"a": {"b": 1}, "list": [{"type": "Ready", "reason": "Idle"}]}) == value


def test_a_runs_needs_are_told_with_their_parts_and_the_unknown_is_called_so() -> None:
    stages = {"Loading": "12s", "Training": "2m10s"}
    said = show.needs(status.EstimateStatus(memory="3.0Gi", disk="60Mi", duration_seconds=142, stages=stages))
    assert said["Memory"] == "about 3.0Gi"
    assert said["Time"] == "about 2m22s: loading 12s, training 2m10s"
    assert said["GPU hours"] == ""
    counted = {"Training": "2.0e+13 operations"}
    said = show.needs(status.EstimateStatus(memory="3.0Gi", gpu_memory="8.0Gi", gpu_hours="unknown", stages=counted))
    assert said["Time"] == "unknown: training 2.0e+13 operations"
    assert (said["GPU memory"], said["GPU hours"]) == ("about 8.0Gi on each", "unknown")
