"""`topcoat run` from end to end on a tiny model: train, judge, serve, lose, go back, be interrupted, go on."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import runs, stores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM = "from topcoat.cli import app; app.main()"
MANIFEST = """apiVersion: topcoat.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: claims
spec:
  baseModel: {{uri: file://model}}
  dataset:
    train: {{uri: file://{data}.jsonl}}
    evaluation: {{uri: file://heldout.jsonl}}
  method: {{layers: 2, lora: {{rank: 8}}}}
  training: {{epochs: {epochs}, effectiveBatchSize: 8, learningRate: "0.005", maxSequenceLength: 128}}
  lifecycle: {{checkpoint: {{intervalSteps: 2}}}}
  evaluation: {{generation: {{maxTokens: 4}}, baselines: [], metrics: [{{name: Loss}}]}}
  promotion:
    requirements:
      - {{metric: Loss, minImprovement: "0", minSamples: 10}}
      - {{metric: Loss, against: Serving, minImprovement: "0", minSamples: 10}}
  serving: {{{serving}}}
"""


@dataclass(frozen=True)
class Desk:
    """A folder with model, data and a manifest, and the store beside them."""

    folder: Path

    def write(self, data: str = "data", epochs: int = 1, serving: str = "") -> None:
        (self.folder / "job.yaml").write_text(MANIFEST.format(data=data, epochs=epochs, serving=serving))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, "run", "-f", "job.yaml", *words]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=280, check=False)

    def start(self) -> subprocess.Popen[bytes]:
        """`topcoat run` under way; what it says goes to a file."""
        command = [sys.executable, "-c", PROGRAM, "run", "-f", "job.yaml"]
        with (self.folder / "said.txt").open("wb") as said:
            return subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said)

    def said_at_the_end_of(self, process: subprocess.Popen[bytes]) -> str:
        process.wait(timeout=250)
        return (self.folder / "said.txt").read_text()

    def topcoat(self, *words: str) -> stores.Said:
        return stores.topcoat(*words, store=self.folder / ".topcoat")

    @property
    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.folder / ".topcoat/finetunejobs/claims.json").read_text())
        return dict(body.get("status", {}))

    @property
    def job(self) -> Path:
        return next((self.folder / ".topcoat/jobs").iterdir())

    @property
    def serves(self) -> str | None:
        path = self.folder / ".topcoat/aliases.json"
        return json.loads(path.read_text()).get("claims", {}).get("version") if path.exists() else None

    def attempts(self, run: int) -> list[dict[str, Any]]:
        path = self.job / f"runs/r{run}/attempts.json"
        found: list[dict[str, Any]] = json.loads(path.read_text())["attempts"] if path.exists() else []
        return found


def made(folder: Path) -> Desk:
    runs.tiny(folder / "model")
    rows = runs.rows(64)
    runs.write_rows(folder / "data.jsonl", rows)
    runs.write_rows(folder / "heldout.jsonl", runs.rows(24, seed=5))
    answers = [row["messages"][1]["content"][::-1] * 3 for row in rows]
    spoilt = [
        [row["messages"][0], {"role": "assistant", "content": answer}]
        for row, answer in zip(rows, answers, strict=True)
    ]
    runs.write_rows(folder / "spoilt.jsonl", [{"messages": messages} for messages in spoilt])
    desk = Desk(folder)
    desk.write()
    return desk


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """v1 promoted. Copy it before you change it."""
    desk = made(tmp_path_factory.mktemp("one"))
    done = desk.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return desk


@pytest.fixture
def desk(one_version: Desk, tmp_path: Path) -> Desk:
    shutil.copytree(one_version.folder, tmp_path / "desk")
    return Desk(tmp_path / "desk")


@pytest.fixture
def fresh(one_version: Desk, tmp_path: Path) -> Iterator[Desk]:
    """Model, data and manifest, and no store."""
    shutil.copytree(one_version.folder, tmp_path / "desk", ignore=shutil.ignore_patterns(".topcoat"))
    desk = Desk(tmp_path / "desk")
    yield desk
    for path in desk.folder.glob(".topcoat/jobs/*/runs/r*/attempts.json"):
        for attempt in json.loads(path.read_text())["attempts"]:
            if attempt.get("pid") and "endedAt" not in attempt:
                kill(attempt["pid"])


def kill(pid: int) -> None:
    try:
        if b"topcoat_trainer" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    except OSError:
        return


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)


def test_a_winner_is_promoted_and_the_last_line_asks_it(one_version: Desk) -> None:
    status = one_version.status
    assert (status["promotedVersion"], status["servedVersion"], one_version.serves) == ("v1", "v1", "v1")
    assert status["evaluation"]["verdict"] == "Promote"
    assert status["phase"] == "Ready"
    assert (
        status["run"]["inputHash"]
        == json.loads((one_version.job / "versions/v1/manifest.json").read_text())["inputHash"]
    )
    assert status["versions"][0]["digest"] == f"sha256:{stores.sha256(one_version.job / 'versions/v1/manifest.json')}"


def test_the_same_manifest_does_nothing_and_says_so(desk: Desk) -> None:
    before = desk.status
    done = desk.run()
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing to do")
    assert done.stdout.splitlines()[-1].startswith('Next: topcoat ask claims "…"')
    assert desk.status == before
    assert len(desk.attempts(1)) == 1


def test_what_a_dry_run_says_would_run_and_changes_nothing(desk: Desk) -> None:
    assert "nothing would run" in desk.run("--dry-run").stdout
    desk.write(epochs=2)
    said = desk.run("--dry-run")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("claims: would start run 2, attempt 1: TrainingChanged")
    facts = dict(line.split(maxsplit=1) for line in said.stdout.splitlines() if line.startswith("  "))
    assert facts["Memory"].startswith("about ")
    assert facts["Disk"].startswith("about ")
    assert re.match(r"about .*: loading .*, caching .*, training .*, evaluating ", facts["Time"])
    assert "GPU" not in facts
    assert desk.status["run"]["number"] == 1


def test_a_dry_run_says_what_trials_will_choose_among(desk: Desk) -> None:
    runs.write_rows(desk.folder / "data.jsonl", runs.rows(240, seed=8))
    desk.write(epochs=14)
    text = (desk.folder / "job.yaml").read_text().replace("layers: 2, lora: {rank: 8}", "layers: Auto")
    text = text.replace('learningRate: "0.005"', 'sweep: {learningRates: ["0.005", "0.001"], ranks: [8, 16]}')
    (desk.folder / "job.yaml").write_text(text)
    said = desk.run("--dry-run")
    assert said.returncode == 0, said.stderr
    assert "trials will decide between the last 2 and 3" in said.stdout
    assert "4 trials" in said.stdout


def test_a_loser_is_kept_and_explained_and_the_winner_serves_on(desk: Desk) -> None:
    desk.write(data="spoilt")
    done = desk.run()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "verdict: Reject" in done.stdout
    assert desk.serves == "v1"
    assert {version["version"]: version["state"] for version in desk.status["versions"]} == {
        "v1": "Promoted", "v2": "Rejected",
    }  # fmt: skip
    assert (desk.job / "versions/v2/report.html").exists()
    again = desk.run()
    assert (again.returncode, again.stdout.startswith("Nothing to do")) == (2, True)
    desk.write()
    back = desk.run()
    assert back.returncode == 0
    assert "the manifest is that of v1 again; nothing is trained" in back.stdout
    assert len(list((desk.job / "runs").iterdir())) == 2
    assert desk.topcoat("promote", "claims", "v2").code == 0
    assert desk.serves == "v2"
    desk.write(serving="pinnedVersion: v1")
    assert desk.run().returncode == 0
    assert desk.serves == "v1"
    desk.write()
    assert desk.run().returncode == 0
    assert desk.serves == "v2"
    assert desk.topcoat("rollback", "claims").code == 0
    assert desk.serves == "v1"


def test_a_pinned_version_that_is_missing_is_an_error_and_serving_stays(desk: Desk) -> None:
    desk.write(serving="pinnedVersion: v7")
    done = desk.run()
    assert done.returncode == 1
    assert "serving.pinnedVersion: v7 is not among the sealed versions" in done.stderr
    assert desk.serves == "v1"


def test_a_flipped_bit_moves_no_alias(desk: Desk) -> None:
    desk.write(serving="mode: None")
    assert desk.run().returncode == 0
    assert desk.serves is None
    stores.flip(desk.job / "versions/v1/adapter_model.safetensors")
    desk.write()
    done = desk.run()
    assert done.returncode == 1
    assert "adapter_model.safetensors has sha256" in done.stderr
    assert desk.serves is None


def test_sigterm_stops_at_a_checkpoint_and_the_next_run_ends_with_the_same_weights(
    fresh: Desk, one_version: Desk
) -> None:
    process = fresh.start()
    until(lambda: bool(list(fresh.folder.glob(".topcoat/jobs/*/runs/r1/checkpoints/*"))), process)
    process.send_signal(signal.SIGTERM)
    said = fresh.said_at_the_end_of(process)
    assert process.returncode == 4, said
    assert "goes on from its last checkpoint" in said
    assert fresh.status["phase"] == "Suspended"
    done = fresh.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [attempt["exitCode"] for attempt in fresh.attempts(1)] == [19, 0]
    assert fresh.status["run"]["resumedFromStep"] >= 1
    assert weights(fresh) == weights(one_version)


def weights(desk: Desk) -> str:
    return stores.sha256(desk.job / "versions/v1/adapter_model.safetensors")


def test_a_killed_topcoat_leaves_its_trainer_and_the_next_one_follows_it(fresh: Desk, one_version: Desk) -> None:
    process = fresh.start()
    until(lambda: bool(list(fresh.folder.glob(".topcoat/jobs/*/runs/r1/progress.json"))), process)
    process.kill()
    process.wait()
    done = fresh.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(fresh.attempts(1)) == 1
    assert weights(fresh) == weights(one_version)


def test_a_trainer_killed_at_random_moments_is_resumed_each_time(fresh: Desk, one_version: Desk) -> None:
    chance = random.Random(7)
    for _ in range(3):
        process = fresh.start()
        until(lambda: len(list(fresh.folder.glob(".topcoat/jobs/*/runs/r1/.lock"))) > 0, process)
        time.sleep(chance.uniform(0.0, 2.0))
        process.kill()
        process.wait()
        kill(fresh.attempts(1)[-1].get("pid", 0))
    done = fresh.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights(fresh) == weights(one_version)


def test_two_runs_on_one_job_exclude_each_other(fresh: Desk) -> None:
    process = fresh.start()
    until(lambda: bool(list(fresh.folder.glob(".topcoat/jobs/*/prepare.json"))), process)
    second = fresh.run()
    assert second.returncode == 1
    assert "another `topcoat run` carries out 'claims'" in second.stderr
    process.send_signal(signal.SIGINT)
    said = fresh.said_at_the_end_of(process)
    assert process.returncode == 4, said


def test_bad_rows_are_an_error_before_anything_is_trained(fresh: Desk) -> None:
    path = fresh.folder / "data.jsonl"
    path.write_text(path.read_text() + '{"messages": []}\n')
    done = fresh.run()
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "65" in done.stderr
    assert "To fix it: " in done.stderr
    assert fresh.status["failure"]["category"] == "Data"
    assert not (fresh.job / "runs").exists()
