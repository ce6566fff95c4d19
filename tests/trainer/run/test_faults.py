"""Kills, signals, full disks, wrong numbers: the run goes on where it was, or says why not, and older versions live."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import runs
from topcoat.api.exits import Exit
from topcoat_trainer import adapter, candidate, files, run, seal, stage
from topcoat_trainer.gate import judge
from topcoat_trainer.loop.loop import Loop

Step = Callable[[Loop], None]


def same_as_unbroken(root: Path, unbroken: Path) -> None:
    assert runs.adapter(root) == runs.adapter(unbroken)
    assert runs.steps(root / "versions/v1/metrics.jsonl") == runs.steps(unbroken / "versions/v1/metrics.jsonl")
    seal.verify(root / "versions/v1")
    assert runs.termination(root)["outcome"] == "Sealed"


def before_each_step(action: Step) -> None:
    inner = Loop._step

    def step(self: Loop) -> None:
        action(self)
        inner(self)

    Loop._step = step  # type: ignore[method-assign]  # in a forked child only


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_kills_at_twenty_random_moments_change_no_bit(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    chance = random.Random(7)
    kills, longest = 0, 0.2
    while kills < 20 and not (tmp_path / "versions/v1").exists():
        if runs.killed_after(path, chance.uniform(0.0, longest)) == -signal.SIGKILL:
            kills += 1
        longest += 0.1
    assert kills >= 5
    assert runs.carry_out(path) == 0
    same_as_unbroken(tmp_path, unbroken)


@pytest.mark.parametrize("step", [0, 4, 9])
def test_a_kill_between_steps_resumes_at_the_last_checkpoint(
    unbroken: Path, tiny: Path, tmp_path: Path, step: int
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    code = runs.carry_out(path, lambda: before_each_step(lambda loop: kill() if loop.state.step == step else None))
    assert code == -signal.SIGKILL
    assert runs.carry_out(path) == 0
    same_as_unbroken(tmp_path, unbroken)
    assert runs.termination(tmp_path).get("resumedFromStep") == (step // 3 * 3 or None)


STAGES: dict[str, tuple[Any, str]] = {
    "loading": (stage, "attach"),
    "caching": (stage, "open_cache"),
    "exporting": (candidate, "export"),
    "judging": (candidate, "judge"),
    "describing": (candidate, "describe"),
    "sealing": (candidate, "seal_version"),
    "renaming": (files, "publish"),
}


def disturbed(where: str, how: Callable[[], object], *, after: bool = False) -> None:
    """Before (or after) the stage's function something happens."""
    room, name = STAGES[where]
    inner = getattr(room, name)

    def function(*arguments: Any, **named: Any) -> Any:
        wanted = where != "renaming" or arguments[1].name == "v1"
        if wanted and not after:
            how()
        result = inner(*arguments, **named)
        if wanted and after:
            how()
        return result

    setattr(room, name, function)


@pytest.mark.parametrize(
    ("where", "after"), [("judging", False), ("sealing", False), ("renaming", False), ("renaming", True)]
)
def test_a_kill_in_any_stage_after_training_repeats_no_training(
    unbroken: Path, tiny: Path, tmp_path: Path, where: str, after: bool
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    assert runs.carry_out(path, lambda: disturbed(where, kill, after=after)) == -signal.SIGKILL

    def no_training() -> None:
        before_each_step(lambda _: os._exit(99))

    assert runs.carry_out(path, no_training) == 0
    same_as_unbroken(tmp_path, unbroken)


@pytest.mark.parametrize("where", sorted(STAGES))
def test_sigterm_in_any_stage_ends_with_its_own_code_and_the_run_goes_on(
    unbroken: Path, tiny: Path, tmp_path: Path, where: str
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    code = runs.carry_out(path, lambda: disturbed(where, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert code == Exit.CHECKPOINTED
    word = runs.termination(tmp_path)
    assert (word["category"], word["reason"]) == ("Preempted", "Checkpointed")
    assert runs.carry_out(path) == 0
    same_as_unbroken(tmp_path, unbroken)


def test_sigterm_in_training_saves_the_step_it_was_in(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")

    def at_four(loop: Loop) -> None:
        if loop.state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    assert runs.carry_out(path, lambda: before_each_step(at_four)) == Exit.CHECKPOINTED
    assert "step 5 of 10 is saved" in runs.termination(tmp_path)["message"]
    assert runs.carry_out(path) == 0
    same_as_unbroken(tmp_path, unbroken)
    assert runs.termination(tmp_path)["resumedFromStep"] == 5


@pytest.mark.slow
def test_a_process_as_a_planner_starts_it_hears_sigterm_from_its_first_second_on(
    unbroken: Path, tiny: Path, tmp_path: Path
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    process = runs.started(path)
    deadline = time.monotonic() + 60
    while not (runs.folder(tmp_path) / "progress.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=100)
    assert process.returncode == Exit.CHECKPOINTED, said
    assert "To fix it" in said.strip().splitlines()[-1]
    again = runs.started(path)
    _, said = again.communicate(timeout=100)
    assert again.returncode == 0, said
    same_as_unbroken(tmp_path, unbroken)
    assert "<html" in (tmp_path / "versions/v1/report.html").read_text()


def test_a_second_process_on_the_same_run_is_refused_until_the_first_is_gone(
    unbroken: Path, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    folder = runs.folder(tmp_path)
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert runs.carry_out(path) == Exit.UNEXPECTED
        assert "another process" in capfd.readouterr().err
        told = tmp_path / "told"
        told.touch()
        assert run.main(["--run-file", str(path), "--last-word", str(told)]) == Exit.UNEXPECTED
        assert "another process" in json.loads(told.read_text())["message"]
        assert not (folder / "termination.json").exists()
    assert runs.carry_out(path) == 0


def unlocked() -> None:
    """As on a volume whose locks do not reach from one node to the other."""
    fcntl.flock = lambda *_: None


@pytest.mark.parametrize("moment", ["training", "judging"])
def test_a_process_that_was_given_up_and_lives_on_does_its_replacement_no_harm(
    unbroken: Path, tiny: Path, tmp_path: Path, moment: str
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")

    def frozen() -> None:
        unlocked()
        if moment == "training":
            before_each_step(lambda loop: os.kill(os.getpid(), signal.SIGSTOP) if loop.state.step == 7 else None)
        else:
            disturbed("judging", lambda: os.kill(os.getpid(), signal.SIGSTOP))

    zombie = runs.begun(path, frozen)
    assert os.WIFSTOPPED(os.waitpid(zombie, os.WUNTRACED)[1])

    def wakes() -> None:
        """In the middle of the replacement's work the zombie wakes, and has all the time that it needs."""
        os.kill(zombie, signal.SIGCONT)
        ended = os.pidfd_open(zombie)
        select.select([ended], [], [], 30)

    def replacement() -> None:
        unlocked()
        if moment == "training":
            before_each_step(lambda loop: wakes() if loop.state.step == 8 else None)
        else:
            disturbed("judging", wakes)

    code = runs.carry_out(path, replacement)
    assert os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1]) == Exit.UNEXPECTED
    assert code == 0
    same_as_unbroken(tmp_path, unbroken)


def test_whoever_seals_first_has_sealed(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")

    def somebody_seals() -> None:
        shutil.copytree(unbroken / "versions", tmp_path / "versions")

    assert runs.carry_out(path, lambda: disturbed("renaming", somebody_seals)) == 0
    same_as_unbroken(tmp_path, unbroken)


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    unbroken: Path, tiny: Path, tmp_path: Path, damage: str
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    runs.carry_out(path, lambda: before_each_step(lambda loop: kill() if loop.state.step == 8 else None))
    weights = next(runs.folder(tmp_path).glob("checkpoints/step-00000006-*/weights.safetensors"))
    data = bytearray(weights.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
    else:
        del data[len(data) // 2 :]
    weights.write_bytes(data)
    assert runs.carry_out(path) == 0
    assert runs.termination(tmp_path)["resumedFromStep"] == 3
    same_as_unbroken(tmp_path, unbroken)


def poisoned(loop: Loop) -> None:
    if loop.state.step == 4:
        with torch.no_grad():
            next(iter(loop.parameters.values())).fill_(float("nan"))


def test_not_a_number_is_diverged_with_a_hint_and_older_versions_are_intact(
    unbroken: Path, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(unbroken / "versions", tmp_path / "versions")
    path = runs.run_file(tmp_path, tiny, run=2)
    assert runs.carry_out(path, lambda: before_each_step(poisoned)) == Exit.DIVERGED
    word = runs.termination(tmp_path, 2)
    assert (word["category"], word["exitCode"]) == ("Diverged", 14)
    assert "learningRate" in word["hint"]
    assert "not finite" in word["message"]
    seal.verify(tmp_path / "versions/v1")
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["v1"]


def test_an_adapter_that_learnt_nothing_is_diverged_and_not_sealed(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")

    def blank() -> None:
        inner = adapter.export

        def export(tail: adapter.Tail, directory: Path, base_id: str) -> list[Path]:
            tail.load_state({name: torch.zeros_like(tensor) for name, tensor in tail.state().items()})
            return inner(tail, directory, base_id)

        adapter.export = export

    assert runs.carry_out(path, blank) == Exit.DIVERGED
    assert runs.termination(tmp_path)["hint"]
    assert not (tmp_path / "versions").exists()


def test_memory_that_runs_out_in_the_judgement_is_out_of_memory(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert (
        runs.carry_out(runs.run_file(tmp_path, tiny, cache=unbroken / "cache"), lambda: setattr(judge, "judge", full))
        == Exit.OUT_OF_MEMORY
    )
    assert runs.termination(tmp_path)["category"] == "OutOfMemory"


def test_a_full_volume_has_its_own_code_and_leaves_versions_and_checkpoints_intact(
    unbroken: Path, tiny: Path, small_volume: Path
) -> None:
    root = small_volume
    shutil.copytree(unbroken / "versions", root / "versions")
    path = runs.run_file(root, tiny, run=2)
    filler = root / "filler"

    def fill(loop: Loop) -> None:
        if loop.state.step == 4:
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()

    assert runs.carry_out(path, lambda: before_each_step(fill)) == Exit.STORAGE_FULL
    word = runs.termination(root, 2)
    assert word["reason"] == "StorageFull"
    assert "free space" in word["hint"]
    seal.verify(root / "versions/v1")
    assert not (root / "versions/v2").exists()
    filler.unlink()
    assert runs.carry_out(path) == 0
    assert runs.termination(root, 2)["resumedFromStep"] == 3
    seal.verify(root / "versions/v2")


def test_checkpoints_of_another_run_are_never_resumed(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    runs.carry_out(path, lambda: before_each_step(lambda loop: kill() if loop.state.step == 7 else None))
    runs.run_file(tmp_path, tiny, inputHash="sha256:" + "f" * 64)
    assert runs.carry_out(path) == 0
    assert "resumedFromStep" not in runs.termination(tmp_path)
