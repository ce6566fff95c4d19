"""What prepare estimated is in status, in words: known, unknown, and the same after a restart."""

from __future__ import annotations

from typing import Any

from tests.support import worlds
from tests.support.worlds import World
from topcoat.api import prepared, report, status
from topcoat.cluster import remembered
from topcoat.plan import estimate, intent, observed
from topcoat.plan import progress as progresses

STAGES: list[dict[str, Any]] = [
    {"stage": "Loading", "seconds": 12.0},
    {"stage": "Caching", "operations": 1e12, "seconds": 0.2},
    {"stage": "Training", "operations": 2e13, "seconds": 130.0},
]


def found(**changes: Any) -> prepared.Estimate:
    facts = {
        "memoryBytes": 3 << 30,
        "durationSeconds": 142.2,
        "trainedParameters": 10,
        "totalParameters": 1000,
        "stages": STAGES,
        "diskBytes": 60 << 20,
        "device": "the CPU",
    }
    return prepared.Estimate.model_validate(facts | changes)


def on_gpus(**changes: Any) -> prepared.Estimate:
    stages = [{**stage, "seconds": None} for stage in STAGES]
    facts = {"durationSeconds": None, "gpus": 2, "gpuMemoryBytes": 8 << 30, "stages": stages, "device": "a GPU"}
    return found(**facts | changes)


def settled(world: World, told: prepared.Estimate) -> status.EstimateStatus:
    world.prepared = worlds.prepare_report().model_copy(update={"estimate": told})
    world.settle()
    assert world.status.estimate is not None
    return world.status.estimate


def test_the_estimate_is_in_status_with_its_parts() -> None:
    said = settled(World(), found())
    assert (said.memory, said.disk, said.duration_seconds, said.gpu_hours) == ("3.0Gi", "60Mi", 142, "")
    assert said.stages == {"Loading": "12s", "Caching": "1s", "Training": "2m10s"}
    assert said.operations == "2.1e+13"


def test_a_gpus_time_is_called_unknown_and_its_operations_are_told() -> None:
    said = settled(World(), on_gpus())
    assert (said.duration_seconds, said.gpu_hours, said.gpu_memory) == (None, "unknown", "8.0Gi")
    assert said.stages == {
        "Loading": "unknown",
        "Caching": "1.0e+12 operations",
        "Training": "2.0e+13 operations",
    }


def test_gpu_hours_that_are_known_are_told() -> None:
    assert settled(World(), on_gpus(gpuHours=1.234)).gpu_hours == "1.23"


def test_status_keeps_its_words_when_all_else_has_forgotten_the_estimate() -> None:
    for told in (found(), on_gpus()):
        world = World()
        said = settled(world, told)
        memo = status.PreparedStatus(key="k", finished_at="2026-01-01T12:00:00Z")
        job = world.job.model_copy(update={"status": world.status.model_copy(update={"prepared": memo})})
        again = remembered.prepared_or_none(job)
        assert again is not None
        assert again.report is not None
        assert estimate.kept(again.report.estimate, said) == said


def test_when_the_run_is_over_a_look_on_a_busier_machine_is_no_news() -> None:
    world = World()
    said = settled(world, found())
    slower = [{**stage, "seconds": 2 * stage["seconds"]} for stage in STAGES]
    world.prepared = worlds.prepare_report().model_copy(
        update={"estimate": found(durationSeconds=284.4, stages=slower)}
    )
    world.run_again()
    assert world.status.estimate == said


def test_a_new_estimate_takes_the_place_of_the_old_one() -> None:
    said = settled(World(), found())
    assert estimate.kept(found(durationSeconds=99.0, stages=[]), said).duration_seconds == 99


def test_the_trainer_is_told_of_all_the_gpus_that_its_pods_will_have() -> None:
    world = worlds.in_cluster(trainer={"nodes": 2, "resources": {"limits": {"nvidia.com/gpu": "4"}}})
    first = world.step().actions[0]
    assert isinstance(first, intent.StartPrepare)
    assert (first.order.gpus, first.order.processes) == (8, 8)


def test_on_one_machine_the_trainer_looks_for_gpus_itself() -> None:
    first = World().step().actions[0]
    assert isinstance(first, intent.StartPrepare)
    assert (first.order.gpus, first.order.processes) == (None, 1)


def test_measured_steps_and_memory_are_in_the_progress() -> None:
    progress = report.Progress(stage="Training", seconds_per_step=0.4117, peak_memory_bytes=3 << 30)
    said = progresses.shown_progress(progress, done=False, state=observed.AttemptState.RUNNING)
    assert (said.seconds_per_step, said.peak_memory) == ("0.412", "3.0Gi")
