from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import stores
from topcoat.api import report as reports
from topcoat.cli import report


def test_the_report_of_the_newest_version_is_shown_rejected_or_not(store: Path) -> None:
    said = stores.topcoat("report", "claims", store=store)
    assert said.code == 0
    assert "claims v2  Reject, now Rejected" in said.out
    assert "SUBJECT" in said.out
    assert "report.html" in said.out
    assert said.last.startswith("Next: topcoat compare claims --version v2")


def test_trials_and_what_they_chose_are_shown(store: Path) -> None:
    said = " ".join(stores.topcoat("report", "claims", "--version", "v1", store=store).out.split())
    assert "8 chosen 15 1.234 97% 2 x" in said
    assert "15 15 0% 3.8 x memory ran out" in said
    assert "0.001 chosen 16 68 0.875" in said
    assert "a gradient of step 3 is not finite" in said
    assert "LEARNING RATE TRIED" not in stores.topcoat("report", "claims", store=store).out


def test_only_the_path_when_asked_for(store: Path) -> None:
    said = stores.topcoat("report", "claims", "--version", "v1", "-o", "path", store=store)
    assert Path(said.out.strip()).read_text() == "<h1>report</h1>"


def test_the_evidence_as_data(store: Path) -> None:
    assert stores.topcoat("report", "claims", "-o", "json", store=store).body["verdict"] == "Reject"


def test_an_unknown_version_is_answered_with_those_that_are_there(store: Path) -> None:
    said = stores.topcoat("report", "claims", "--version", "v3", store=store)
    assert said.code == 1
    assert "it has v1, v2" in said.err


def test_wins_and_losses_stand_side_by_side(store: Path) -> None:
    said = stores.topcoat("compare", "claims", "--version", "v1", store=store)
    assert said.code == 0
    for word in ("Wins", "Losses", "asked", "right", "base", "tuned", "held-out rows"):
        assert word in said.out
    assert said.last.startswith("Next: topcoat report claims")
    body = stores.topcoat("compare", "claims", "-o", "json", store=store).body
    assert {"wins", "losses", "base", "candidate"} <= set(body)


@pytest.mark.parametrize("name", ["evaluation.json", "manifest.json"])
@pytest.mark.parametrize("verb", ["report", "compare"])
def test_evidence_that_is_not_what_was_sealed_is_not_shown(store: Path, name: str, verb: str) -> None:
    (path,) = store.glob(f"jobs/*/versions/v2/{name}")
    before = stores.sha256(path)
    stores.flip(path)
    said = stores.topcoat(verb, "claims", store=store)
    assert said.code == 1
    assert not said.out
    assert str(path) in said.err
    assert before in said.err
    assert stores.sha256(path) in said.err


def test_a_missing_page_is_said(store: Path) -> None:
    (path,) = store.glob("jobs/*/versions/v2/report.html")
    path.parent.chmod(0o755)
    path.unlink()
    assert "missing" in stores.topcoat("report", "claims", "-o", "path", store=store).err


def test_a_job_without_versions_points_to_its_status(store: Path, tmp_path: Path) -> None:
    from tests.support import worlds

    stores.write_job(tmp_path / "new", worlds.job())
    said = stores.topcoat("report", "claims", store=tmp_path / "new")
    assert said.code == 1
    assert "topcoat status claims" in said.err


def test_what_was_estimated_is_shown_beside_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        reports.EstimateCheck(part="Training", unit=reports.Unit.SECONDS, estimated=60.0, measured=75.0, ratio=1.25),
        reports.EstimateCheck(part="Peak memory", unit=reports.Unit.BYTES, estimated=2 << 30, measured=3 << 30),
        reports.EstimateCheck(part="GPU hours", unit=reports.Unit.HOURS, measured=0.25),
    ]
    report.estimates(lines)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Training", "60.0", "s", "75.0", "s", "1.25"] in rows
    assert ["Peak", "memory", "2.0Gi", "3.0Gi"] in rows
    assert ["GPU", "hours", "unknown", "0.250", "h"] in rows
