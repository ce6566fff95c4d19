"""`doctor data` and `init` with the real doctor, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import stores
from topcoat.api.finetunejob import FineTuneJob


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def labelled(count: int = 120) -> list[Any]:
    words = {"roof": "property", "car": "vehicle"}
    return [
        {"customer_id": i // 4, "text": f"claim {i} {word}", "label": label}
        for i in range(count // 2)
        for word, label in words.items()
    ]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "Claims of 2025.jsonl", labelled())


def test_the_doctor_says_what_a_file_is_and_what_to_do_next(data: Path) -> None:
    said = stores.topcoat("doctor", "data", data.name)
    assert said.code == 0
    for word in ("120 rows, every row can be used", "Classification", "property 60", "customer_id"):
        assert word in said.out
    assert said.last.startswith("Next: topcoat init 'Claims of 2025.jsonl'")


def test_the_doctor_lists_every_bad_row_but_not_its_text(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [*labelled(20), "{zebra\n", {"text": "zebra", "label": ""}])
    said = stores.topcoat("doctor", "data", path)
    assert said.code == 1
    assert "2 cannot be used" in said.out
    assert "row 21:" in said.out
    assert "zebra" not in said.out + said.err
    assert "zebra" in stores.topcoat("doctor", "data", path, "--show-rows").out
    body = stores.topcoat("doctor", "data", path, "-o", "json")
    assert body.code == 1
    assert [problem["row"] for problem in body.body["problems"]] == [21, 22]


@pytest.mark.parametrize("verb", [("doctor", "data"), ("init",)])
def test_a_file_that_is_not_there_is_said_before_anything_starts(tmp_path: Path, verb: tuple[str, ...]) -> None:
    said = stores.topcoat(*verb, tmp_path / "none.jsonl")
    assert said.code == 1
    assert "there is no such file" in said.err


def test_a_file_that_nobody_can_read_is_one_error_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 not really")
    said = stores.topcoat("doctor", "data", path)
    assert said.code == 1
    assert said.err.startswith("Error: x.parquet")
    assert "To fix it:" in said.err


def test_init_writes_a_manifest_that_the_api_accepts(data: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    said = stores.topcoat("init", data.name, "--base-model", "model")
    assert said.code == 0, said.err
    assert said.last.startswith("Next: topcoat run -f job.yaml --local --dry-run")
    text = (tmp_path / "job.yaml").read_text()
    job = FineTuneJob.read(yaml.safe_load(text))
    assert job.metadata.name == "claims-of-2025"
    assert job.spec.dataset.train.uri == "file://Claims of 2025.jsonl"
    assert job.spec.base_model.uri == "file://model"
    assert job.spec.dataset.holdout.group_by == "customer_id"
    assert job.spec.evaluation.metrics[0].name == "Accuracy"
    assert text.count("#") >= 6


def test_run_accepts_what_init_wrote(data: Path, tiny: Path, tmp_path: Path) -> None:
    assert stores.topcoat("init", data.name, "--base-model", tiny).code == 0
    said = stores.topcoat("run", "-f", "job.yaml", "--local", "--dry-run", store=tmp_path / "store")
    assert said.code == 0, said.err
    assert "claims-of-2025" in said.out


def test_what_stands_in_comments_is_valid_too(data: Path) -> None:
    lines = stores.topcoat("init", data.name, "--out", "-").out.splitlines()
    opened = [line.replace("# ", "", 1) if line.startswith("    # ") else line for line in lines]
    job = FineTuneJob.read(yaml.safe_load("\n".join(opened)))
    assert job.spec.promotion.requirements[0].min_improvement == "0.05"
    assert job.spec.training.max_sequence_length == 512


@pytest.mark.parametrize(
    ("rows", "metric"),
    [
        ([{"prompt": f"say {i}", "completion": f"answer number {i}"} for i in range(60)], "Loss"),
        ([{"prompt": f"say {i}", "completion": json.dumps({"n": i})} for i in range(60)], "ExactMatch"),
        ([{"text": f"plain words {i} and more"} for i in range(60)], "Loss"),
    ],
)
def test_init_fits_the_task(tmp_path: Path, rows: list[Any], metric: str) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    job = FineTuneJob.read(yaml.safe_load(stores.topcoat("init", path, "--out", "-").out))
    assert job.spec.evaluation.metrics[0].name == metric
    assert job.spec.dataset.holdout.min_samples == 12


def test_own_held_out_rows_are_taken_instead_of_a_share(data: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "heldout.jsonl", labelled(40))
    out = stores.topcoat("init", data.name, "--evaluation", other.name, "--out", "-").out
    job = FineTuneJob.read(yaml.safe_load(out))
    assert job.spec.dataset.evaluation is not None
    assert job.spec.dataset.evaluation.uri == "file://heldout.jsonl"


def test_a_manifest_elsewhere_names_the_whole_path(data: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    assert stores.topcoat("init", data.name, "--out", "jobs/a.yaml", "--name", "a").code == 0
    job = FineTuneJob.read(yaml.safe_load((tmp_path / "jobs" / "a.yaml").read_text()))
    assert job.spec.dataset.train.uri == f"file://{data.resolve()}"


def test_init_never_writes_over_a_file_unasked(data: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("mine")
    said = stores.topcoat("init", data.name)
    assert said.code == 1
    assert "use --force" in said.err
    assert (tmp_path / "job.yaml").read_text() == "mine"
    assert stores.topcoat("init", data.name, "--force").code == 0


def test_init_refuses_a_file_with_bad_rows_as_the_run_would(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [*labelled(20), "{zebra\n"])
    said = stores.topcoat("init", path, "--out", tmp_path / "job.yaml")
    assert said.code == 1
    assert "row 21" in said.err
    assert f"topcoat doctor data {path}" in said.err
    assert not (tmp_path / "job.yaml").exists()


@pytest.mark.parametrize("name", ["A b", "x" * 64, "-a", "a_b"])
def test_a_name_that_no_object_may_have_is_refused(data: Path, name: str) -> None:
    assert "is no name" in stores.topcoat("init", data.name, f"--name={name}").err


def test_a_path_that_no_address_may_hold_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a#b.jsonl", labelled(40))
    said = stores.topcoat("init", path, "--out", "-")
    assert said.code == 1
    assert "rename it" in said.err
