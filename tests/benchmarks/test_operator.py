"""What the benchmark of the operator says about figures; the measuring itself runs by `make bench-operator`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.operator import figures, table, target

OURS = figures.Burst(
    subject="topcoat", jobs=1000, seconds=4.5, cpu_ms=2.5, cpu_ms_settled=3.0, peak_mib=120, writes_by_then=1.2,
    writes=2.0, events=0.0, gets=0.0, requests={"create jobs": 1000},
)  # fmt: skip
PEER = replace(OURS, subject="kubeflow", cpu_ms_settled=4.0, events=0.5)


def aims(ours: figures.Burst) -> str:
    return "\n".join(target.lines({"burst": {"topcoat": ours, "kubeflow": PEER}}))


def test_the_median_of_each_figure_is_taken() -> None:
    rounds = [replace(OURS, seconds=seconds) for seconds in (9.0, 4.0, 5.0)]
    found = figures.median(rounds)
    assert found == replace(OURS, seconds=5.0)
    assert isinstance(found.jobs, int)


def test_targets_are_met_missed_or_not_measured() -> None:
    said = aims(replace(OURS, peak_mib=180))
    assert "CPU per job up to its Job: <= 2.5 ms: 2.5: met" in said
    assert "peak memory with 1,000 jobs: <= 150 MiB: 180: MISSED by 30 MiB, +20%" in said
    assert "start to first reconcile: < 3 s: not measured" in said


@pytest.mark.parametrize(("seconds", "word"), [(4.99, "met"), (5.0, "MISSED")])
def test_a_time_to_stay_under_is_missed_when_it_is_reached(seconds: float, word: str) -> None:
    assert f"1,000 jobs to 1,000 Jobs: < 5 s: {seconds:g}: {word}" in aims(replace(OURS, seconds=seconds))


def test_a_smaller_run_is_not_taken_for_proof() -> None:
    assert "met (with 100, not 1,000)" in aims(replace(OURS, jobs=100))


def test_less_cpu_than_the_peer_is_a_target() -> None:
    assert aims(OURS).endswith("3 to 4 ms, 0.75 times: met")
    assert aims(replace(OURS, cpu_ms_settled=4.4)).endswith("4.4 to 4 ms, 1.10 times: MISSED")


def test_the_table_shows_ours_as_a_multiple_of_the_others() -> None:
    lines = table.burst({"topcoat": OURS, "kubeflow": PEER}).splitlines()
    assert lines[3].split()[:3] == ["topcoat", "/", "kubeflow"]
    assert lines[3].split()[3:] == ["1.00x", "1.00x", "0.75x", "1.00x", "1.00x", "1.00x", "0.00x", "-"]
    assert lines[-1].strip() == "kubeflow: 1000 create jobs"


def test_a_write_while_nothing_happens_is_named() -> None:
    line = "12:00 patch finetunejobs/status job-7: 200"
    idle = figures.Idle("topcoat", 1000, 0, 30.0, 0.1, 0.0, writes=1, written=(line,), requests={"get leases": 6})
    assert table.idle({"topcoat": idle}).endswith(line)
