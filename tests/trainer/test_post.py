"""Progress reaches the operator in Kubeflow's protocol, and no server can hold a run up."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.listeners import Operator
from topcoat.api.report import Progress
from topcoat_trainer import post
from topcoat_trainer.progress import Reporter


@pytest.fixture
def operator() -> Iterator[Operator]:
    with Operator() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first\n")
    return tmp_path / "token"


def at(stage: str, percent: int) -> Progress:
    return Progress(stage=stage, progress_percentage=percent, last_updated_time="2026-01-01T00:00:00Z")


def test_what_is_told_has_kubeflows_fields_and_ours(operator: Operator, token: Path, tmp_path: Path) -> None:
    posted = post.Post(operator.address(token), interval_seconds=0.0)
    reporter = Reporter(tmp_path / "progress.json", posted)
    reporter.stage("Training")
    reporter.share(1.0, metrics={"loss": 0.25}, step=(7, 7), tokens_per_second=12.3)
    posted.close()
    told = operator.told[-1]
    assert told["progressPercentage"] == 80
    assert told["estimatedRemainingSeconds"] >= 0
    assert told["metrics"] == [{"name": "loss", "value": "0.25"}]
    assert told["lastUpdatedTime"].endswith("Z")
    assert (told["currentStep"], told["totalSteps"], told["tokensPerSecond"]) == (7, 7, 12.3)
    assert told["stage"] == "Training"
    assert (operator.tokens[-1], operator.paths[-1]) == ("Bearer first", "/jobs/claims")
    assert told == json.loads((tmp_path / "progress.json").read_text())


def test_the_latest_value_wins_and_a_new_stage_is_told_at_once(operator: Operator, token: Path) -> None:
    posted = post.Post(operator.address(token), interval_seconds=0.6)
    posted(at("Loading", 0))
    operator.wait_for(1)
    for percent in range(1, 50):
        posted(at("Loading", percent))
        time.sleep(0.002)
    assert len(operator.told) == 1
    operator.wait_for(2)
    assert operator.told[1]["progressPercentage"] == 49
    assert operator.times[1] - operator.times[0] > 0.5
    posted(at("Training", 50))
    operator.wait_for(3)
    assert operator.times[2] - operator.times[1] < 0.5
    posted(at("Training", 51))
    posted.close()
    assert [told["progressPercentage"] for told in operator.told] == [0, 49, 50, 51]


def test_the_token_is_read_anew_because_it_is_renewed(operator: Operator, token: Path) -> None:
    posted = post.Post(operator.address(token), interval_seconds=0.0)
    posted(at("Loading", 0))
    operator.wait_for(1)
    token.write_text("second")
    posted(at("Training", 8))
    posted.close()
    assert operator.tokens == ["Bearer first", "Bearer second"]


def quickly(posted: post.Post, count: int = 200) -> None:
    """So many values in no time at all, whatever the other side does."""
    began = time.monotonic()
    for percent in range(count):
        posted(at(("Training", "Evaluating")[percent % 2], percent % 100))
    assert time.monotonic() - began < 1.0


def test_a_server_that_hangs_holds_nothing_up(token: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        posted = post.Post(post.Address(f"http://127.0.0.1:{silent.getsockname()[1]}", token))
        quickly(posted)
        began = time.monotonic()
        posted.close(patience_seconds=0.2)
        assert time.monotonic() - began < 2.0


def test_a_server_that_fails_ends_nothing_and_is_said_once(
    operator: Operator, token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator.status = 500
    posted = post.Post(operator.address(token), interval_seconds=0.0)
    for percent in range(5):
        posted(at("Training", percent))
        operator.wait_for(percent + 1)
    operator.status = 200
    posted(at("Evaluating", 80))
    posted.close()
    assert operator.told[-1]["progressPercentage"] == 80
    assert caplog.text.count("could not be posted: HTTPError 500") == 1
    assert "first" not in caplog.text


def test_no_server_no_token_and_no_certificate_end_nothing(token: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    nowhere = f"://127.0.0.1:{port}"
    for address in (
        post.Address(f"http{nowhere}", token),
        post.Address(f"http{nowhere}", token.with_name("none")),
        post.Address(f"https{nowhere}", token, token),
    ):
        posted = post.Post(address)
        quickly(posted, 10)
        posted.close()
    assert "URLError" in caplog.text
    assert "FileNotFoundError" in caplog.text
    assert "SSLError" in caplog.text


def test_a_token_is_never_sent_to_another_address(operator: Operator, token: Path) -> None:
    operator.status = 307
    posted = post.Post(operator.address(token))
    posted(at("Loading", 0))
    posted.close()
    assert operator.paths == ["/jobs/claims"]


def test_the_address_is_the_pods_own() -> None:
    whole = {post.URL: "https://operator:8082/x", post.TOKEN: "/var/run/token", post.CA_CERT: "/ca.crt"}
    assert post.address_or_none(whole) == post.Address(
        "https://operator:8082/x", Path("/var/run/token"), Path("/ca.crt")
    )
    assert post.address_or_none({post.URL: "http://operator", post.TOKEN: "/t"}) is not None
    assert post.address_or_none({}) is None
    assert post.address_or_none({**whole, post.URL: "file:///etc/passwd"}) is None
    assert post.address_or_none({post.URL: "http://operator"}) is None
