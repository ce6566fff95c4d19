"""A pod's processes start together, hear its signals, and its exit code is the trainer's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import crews, runs
from topcoat.api.exits import Exit
from topcoat_trainer import launch

FIRST = launch.Place(nodes=1, node=0, processes=2, address="127.0.0.1", port=1)
SECOND = launch.Place(nodes=2, node=1, processes=2, address="first", port=1)


def code_of(here: launch.Place, *programs: str) -> int:
    """The launcher's code when its processes are these programs."""
    return launch.carry_out(lambda rank: [sys.executable, "-c", f"import os, signal, time\n{programs[rank]}"], here)


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("here", "programs", "code"),
    [
        (FIRST, ("exit(0)", "exit(0)"), 0),
        (FIRST, ("exit(14)", "exit(14)"), 14),
        (FIRST, ("time.sleep(0.5); exit(11)", "exit(19)"), 11),
        (FIRST, ("time.sleep(0.5); exit(20)", KILL), 137),
        (FIRST, (KILL, "exit(20)"), 137),
        (FIRST, ("exit(20)", "exit(20)"), 20),
        (FIRST, ("time.sleep(0.5); exit(0)", "exit(1)"), 0),
        (SECOND, ("exit(20)", "time.sleep(0.5); exit(13)"), 13),
        (SECOND, ("exit(0)", "exit(0)"), 0),
        (SECOND, ("exit(20)", "exit(20)"), 20),
    ],
)
def test_the_pods_code_is_that_of_whoever_knows_best(here: launch.Place, programs: tuple[str, str], code: int) -> None:
    assert code_of(here, *programs) == code


def test_every_process_is_told_its_place() -> None:
    told = "exit(int(os.environ['RANK']) * 10 + int(os.environ['LOCAL_RANK']) + int(os.environ['WORLD_SIZE']))"
    assert code_of(SECOND, told, "exit(0)") == 20 + 0 + 4
    assert SECOND.environment(1) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "first",
        "MASTER_PORT": "1",
    }


def test_the_place_is_read_as_torchrun_reads_it() -> None:
    whole = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "2", "PET_MASTER_ADDR": "first"}
    assert launch.place(whole) == launch.Place(2, 1, 2, "first", 29500)
    alone = launch.place({})
    assert (alone.nodes, alone.processes, alone.address) == (1, 1, "127.0.0.1")
    assert alone.port > 0
    with pytest.raises(SystemExit, match="PET_NNODES is 'two'"):
        launch.place({"PET_NNODES": "two"})


def test_a_process_that_does_not_end_after_the_first_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(launch, "KILL_SECONDS", 0.5)
    began = time.monotonic()
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    assert code_of(FIRST, "time.sleep(1); exit(14)", deaf) == 14
    assert time.monotonic() - began < 20


def test_the_pods_signal_reaches_every_process() -> None:
    code = (
        "import sys; from topcoat_trainer import launch\n"
        "here = launch.Place(1, 0, 2, '127.0.0.1', 1)\n"
        "child = 'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(19)); "
        "print(1, flush=True); time.sleep(60)'\n"
        "code = launch.carry_out(lambda _: [sys.executable, '-c', child], here)\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        process.terminate()
        assert process.wait(timeout=30) == 19


@pytest.mark.slow
def test_two_pods_train_as_one_and_each_has_the_last_word(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    """Two launchers as in two pods, on one machine; rank 1's pod hears SIGTERM first, then all is done again."""
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    port = crews.free_port()

    def pod(node: int) -> subprocess.Popen[bytes]:
        told = {"PET_NNODES": "2", "PET_NODE_RANK": str(node), "PET_MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-m", "topcoat_trainer.launch", "--run-file", str(path)]
        command += ["--last-word", str(tmp_path / f"told{node}")]
        return subprocess.Popen(command, env={**os.environ, **told, "PET_MASTER_PORT": str(port)})

    pods = [pod(0), pod(1)]
    deadline = time.monotonic() + 120
    while not list(runs.folder(tmp_path).glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    pods[1].send_signal(signal.SIGTERM)
    codes = {process.wait(timeout=120) for process in pods}
    assert codes <= {0, int(Exit.CHECKPOINTED)}
    port = crews.free_port()
    assert [process.wait(timeout=240) for process in [pod(0), pod(1)]] == [0, 0]
    words = [json.loads((tmp_path / f"told{node}").read_text()) for node in (0, 1)]
    assert [word["outcome"] for word in words] == ["Sealed", "Sealed"]
    assert words[0]["digest"] == words[1]["digest"]
