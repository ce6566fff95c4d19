"""`topcoat serve` with a really tuned tiny model: it proves, follows, refuses and ends. Real processes and clients."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch

from tests.support import local_server, runs, stores, tuned
from topcoat.cli import durable
from topcoat.cli import store as stores_of_cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OTHERWISE = {"epochs": 3, "effectiveBatchSize": 8, "learningRate": "0.02", "maxSequenceLength": 128}


@pytest.fixture(scope="module")
def two_versions(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1 serves, v2 does not. Copy it before you change it."""
    torch.set_num_threads(1)
    root = tuned.store(tmp_path_factory.mktemp("served") / "store", tiny)
    tuned.another(root, tiny, 2, training=OTHERWISE)
    return root


@pytest.fixture(scope="module")
def two_bases(two_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`other` stands on another base model than `claims`."""
    root = tmp_path_factory.mktemp("bases")
    shutil.copytree(two_versions, root / "store")
    return tuned.store(root / "store", runs.tiny(root / "gpt", "gpt2"), name="other")


@pytest.fixture
def store(two_versions: Path, tmp_path: Path) -> Path:
    shutil.copytree(two_versions, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def server(two_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_server.LocalServer]:
    """One that nobody changes."""
    with local_server.begun(two_versions, tmp_path_factory.mktemp("server")) as made:
        yield made.ready()


def alias(store: Path) -> dict[str, str]:
    return stores_of_cli.Store(store).aliases()["claims"]


def digest(store: Path, version: str) -> str:
    status = stores_of_cli.Store(store).job("claims").status
    assert status is not None
    return next(entry.digest for entry in status.versions if entry.version == version)


def version(store: Path, name: str) -> Path:
    return store / "jobs" / "claims-0f0f0f0f" / "versions" / name


def test_it_says_where_it_answers_and_answers_with_the_promoted_version(
    server: local_server.LocalServer, two_versions: Path
) -> None:
    lines = server.out.splitlines()
    assert lines[0] == f"Serving at {server.url}"
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+/v1", server.url)
    assert lines[1].split()[:4] == ["claims", "answers", "with", "v1"]
    assert lines[-1].startswith(f"Next: curl {server.url}/models")
    assert "Warning" not in server.err
    assert server.fingerprint() == digest(two_versions, "v1")
    with server.client() as client:
        assert {card.id for card in client.models.list()} == {"claims", "claims--v1", "llama"}
        base = local_server.asked(client, "llama")
    assert base not in {digest(two_versions, "v1"), digest(two_versions, "v2")}


def test_nobody_else_can_read_its_files_or_find_its_admin_token(server: local_server.LocalServer) -> None:
    (room,) = server.temporary.iterdir()
    assert room.stat().st_mode & 0o777 == 0o700
    told = (room / "server.json").read_text()
    wanted = re.search(r'"adminTokenSha256": "([0-9a-f]{64})"', told)
    assert wanted is not None
    seen = [told, server.out, server.err, *(path.read_text() for path in room.iterdir() if path.is_file())]
    for pid in (server.command.pid, server.engine):
        seen += [Path(f"/proc/{pid}/{name}").read_text(errors="replace") for name in ("cmdline", "environ")]
    words = re.findall(r"[\w-]{32,}", "\n".join(seen))
    assert words
    assert not [word for word in words if hashlib.sha256(word.encode()).hexdigest() == wanted[1]]


def test_promotions_and_rollbacks_under_load_fail_no_request(store: Path, tmp_path: Path) -> None:
    first, second = digest(store, "v1"), digest(store, "v2")
    with local_server.begun(store, tmp_path / "server") as server:
        server.ready()
        halt = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            crowd = [pool.submit(_asks, server, halt) for _ in range(4)]
            delays = [_moved(server, store, "promote", second)]
            delays += [_moved(server, store, "rollback", wanted) for wanted in (first, second) * 3]
            halt.set()
            answers = [answer for done in crowd for answer in done.result()]
        assert len(answers) > 50
        assert {said for _, said, _ in answers} == {first, second}
        assert not [answer for answer in answers if answer[1] not in (answer[0], answer[2])]
        # The first time v2 is loaded and proved; later it is there already. About a second, and two busy cores.
        assert max(delays[1:]) < 3, delays
        assert max(delays) < 15, delays
        assert f"claims answers with v2 ({second}) now" in server.out
        assert server.stop() == 0


def _asks(server: local_server.LocalServer, halt: threading.Event) -> list[tuple[str, str, str]]:
    """Whom the alias named when asked, who answered, whom it named then."""
    found = []
    with server.client() as client:
        while not halt.is_set():
            before = _named(client)
            said = local_server.asked(client)
            found.append((before, said, _named(client)))
            time.sleep(0.02)
    return found


def _named(client: openai.OpenAI) -> str:
    return str(client.models.retrieve("claims").model_extra["digest"])  # type: ignore[index]


def _moved(server: local_server.LocalServer, store: Path, verb: str, wanted: str) -> float:
    """Seconds from the command's end until clients get the other version."""
    words = ("v2",) if verb == "promote" else ()
    said = stores.topcoat(verb, "claims", *words, store=store)
    assert said.code == 0, said.err
    began = time.monotonic()
    server.until(lambda: server.fingerprint() == wanted, f"{wanted} answers")
    return time.monotonic() - began


def test_a_version_that_becomes_corrupt_later_is_refused_while_the_old_one_answers_on(
    store: Path, tmp_path: Path
) -> None:
    with local_server.begun(store, tmp_path / "server") as server:
        server.ready()
        stores.flip(version(store, "v2") / "adapter_model.safetensors")
        assert stores.topcoat("promote", "claims", "v2", store=store).code == 1
        # As if the byte had changed between the check and the load.
        entry = {"version": "v2", "digest": digest(store, "v2"), "path": "jobs/claims-0f0f0f0f/versions/v2"}
        stores_of_cli.Store(store).point("claims", alias(store) | entry)
        server.until(lambda: "claims--v2: refused" in server.err, "it is refused")
        assert "adapter_model.safetensors: its sha256 is" in server.err
        assert server.fingerprint() == digest(store, "v1")
        (store / "aliases.json").write_text("{")
        server.until(lambda: "the store: " in server.err, "it says that it cannot read the aliases")
        assert server.fingerprint() == digest(store, "v1")
        durable.write_json(store / "aliases.json", {})
        server.until(lambda: "nobody answers as claims now" in server.out, "the alias is gone")
        with pytest.raises(openai.NotFoundError):
            server.fingerprint()
        assert server.stop() == 0


def test_clients_must_show_the_token_of_the_file(store: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("open-sesame\n")
    words = ("--port", "0", "--host", "0.0.0.0", "--token-file", str(token))
    with local_server.begun(store, tmp_path / "server", *words) as server:
        server.ready()
        assert "Warning" not in server.err
        assert "$(cat " in server.out
        for model in ("claims", "llama"):
            with pytest.raises(openai.AuthenticationError):
                server.fingerprint(model)
        assert server.fingerprint("claims", "open-sesame") == digest(store, "v1")
        stores_of_cli.Store(store).drop("claims")
        server.until(lambda: "nobody answers as claims now" in server.out, "the alias is gone")
        with pytest.raises(openai.AuthenticationError):
            server.fingerprint("llama")
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_gives_the_answers_under_way_and_leaves_nothing(
    two_versions: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with local_server.begun(two_versions, tmp_path / "server") as server:
        server.ready()
        engine = server.engine
        with server.client() as client:
            said = client.completions.create(model="claims", prompt="roof", max_tokens=300, logprobs=20, stream=True)
            next(iter(said))
            os.kill(server.command.pid, number)
            last = [piece.choices[0].finish_reason for piece in said if piece.choices][-1]
        assert last in ("length", "stop")
        assert server.ended() == 0
        assert not local_server.is_alive(engine)
        assert server.left == []


def test_it_can_be_stopped_while_it_loads(two_versions: Path, tmp_path: Path) -> None:
    with local_server.begun(two_versions, tmp_path / "server") as server:
        engine = server.until(lambda: server.engine, "its engine starts")
        time.sleep(0.5)
        assert server.stop() == 0
        assert not local_server.is_alive(engine)
        assert (server.out, server.left) == ("", [])


def test_an_engine_that_is_killed_ends_the_command_with_an_error(two_versions: Path, tmp_path: Path) -> None:
    with local_server.begun(two_versions, tmp_path / "server") as server:
        server.ready()
        os.kill(server.engine, signal.SIGKILL)
        assert server.ended() == 1
        assert "Error: the model server was ended by SIGKILL" in server.err
        assert "To fix it: " in server.err
        assert server.left == []


def test_a_killed_command_leaves_no_engine_and_the_next_one_takes_its_files(two_versions: Path, tmp_path: Path) -> None:
    with local_server.begun(two_versions, tmp_path / "server") as server:
        server.ready()
        engine = server.engine
        (left,) = server.left
        server.command.kill()
        server.ended()
        server.until(lambda: not local_server.is_alive(engine), "the engine ends", 20)
    with local_server.begun(two_versions, tmp_path / "server") as server:
        server.ready()
        assert left not in server.left
        assert len(server.left) == 1


def test_of_several_base_models_one_must_be_chosen(two_bases: Path, tmp_path: Path) -> None:
    said = stores.topcoat("serve", store=two_bases)
    assert said.code == 1
    assert "stand on several base models (claims on llama, other on gpt)" in said.err
    assert "`topcoat serve --job claims` serves llama" in said.err
    with local_server.begun(two_bases, tmp_path / "server", "--port", "0", "--job", "other") as server:
        server.ready()
        server.until(lambda: "claims: stands on another base model" in server.err, "it says what it does not serve")
        with server.client() as client:
            assert {card.id for card in client.models.list()} == {"other", "other--v1", "gpt"}
        assert server.stop() == 0


def test_nothing_promoted_says_what_to_run(store: Path, tmp_path: Path) -> None:
    empty = stores.topcoat("serve", store=tmp_path / "none")
    assert (empty.code, empty.out) == (1, "")
    assert empty.err.startswith("Error: nothing is promoted yet in the store")
    assert "`topcoat run -f job.yaml --local`" in empty.err
    stores_of_cli.Store(store).drop("claims")
    for words in ((), ("--job", "claims")):
        said = stores.topcoat("serve", *words, store=store)
        assert said.code == 1
        assert "promoted yet" in said.err
    assert "there is no job 'clams'" in stores.topcoat("serve", "--job", "clams", store=store).err


def test_a_port_that_is_taken_or_refused_is_one_error(two_versions: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = stores.topcoat("serve", "--port", port, store=two_versions)
    assert said.code == 1
    assert f"Error: 127.0.0.1:{port}: the port cannot be listened on (Address already in use)" in said.err
    assert "--port 0" in said.err
    elsewhere = stores.topcoat("serve", "--host", "192.0.2.1", store=two_versions)
    assert elsewhere.code == 1
    assert "--host takes an address of this machine" in elsewhere.err


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "manifest.json"])
def test_a_flipped_byte_is_found_before_anything_is_loaded(store: Path, name: str) -> None:
    stores.flip(version(store, "v1") / name)
    said = stores.topcoat("serve", store=store)
    assert said.code == 1
    assert "versions/v1" in said.err
    assert "To fix it: restore the file from a back-up" in said.err
    assert "Loading" not in said.err


def test_a_base_model_that_is_gone_or_changed_is_one_error(tiny: Path, two_versions: Path, tmp_path: Path) -> None:
    aside = tiny.with_name("aside")
    tiny.rename(aside)
    try:
        said = stores.topcoat("serve", store=two_versions)
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith(
            f"Error: {tiny}: the base model llama is gone: there is no such folder\nTo fix it: put"
        )
        shutil.copytree(aside, tiny)
        (tiny / "config.json").unlink()
        said = stores.topcoat("serve", store=two_versions)
        assert (said.code, "Loading" in said.err, "it holds no config.json" in said.err) == (1, False, True)
        shutil.copy(aside / "config.json", tiny)
        stores.flip(tiny / "model.safetensors")
        with local_server.begun(two_versions, tmp_path / "changed") as server:
            assert server.ended() == 1
            assert "the base model's digest is" in server.err
            assert server.left == []
    finally:
        shutil.rmtree(tiny, ignore_errors=True)
        aside.rename(tiny)


def test_a_token_file_must_hold_a_token(two_versions: Path, tmp_path: Path) -> None:
    for content, words in ((None, "cannot be read"), (" \n", "is empty")):
        if content is not None:
            (tmp_path / "token").write_text(content)
        said = stores.topcoat("serve", "--token-file", tmp_path / "token", store=two_versions)
        assert (said.code, said.out) == (1, "")
        assert words in said.err


def test_an_open_port_without_a_token_is_warned_of(two_versions: Path, tmp_path: Path) -> None:
    with local_server.begun(two_versions, tmp_path / "server", "--port", "0", "--host", "0.0.0.0") as server:
        server.until(lambda: "Loading" in server.err, "it loads")
        assert re.search(r"Warning: anybody who reaches 0\.0\.0\.0:\d+ may ask; --token-file FILE", server.err)


def test_a_cluster_serves_by_itself(two_versions: Path) -> None:
    said = stores.topcoat("serve", "--cluster", store=two_versions)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("Error: a cluster serves by itself\nTo fix it: ")
