"""Addresses become paths only inside the folders that are ours; everything else is refused in words."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from topcoat.api.base_model import BaseModel
from topcoat.api.dataset import ConfigMapKey, DataSource
from topcoat_trainer import hub, source
from topcoat_trainer.errors import DataError, TrainerError, Unreachable, UserInputError


@pytest.fixture
def places(tmp_path: Path) -> source.Places:
    for folder in ("cache", "manifests", "volumes/claims"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "secret.jsonl").write_text("{}")
    for folder in ("manifests", "volumes/claims"):
        (tmp_path / folder / "train.jsonl").write_text("{}\n")
    return source.Places(tmp_path / "cache", tmp_path / "manifests", tmp_path / "volumes", local_files=True)


def opened(uri: str, places: source.Places) -> bytes:
    # model_construct: what gets past the API's own check must still be refused here
    with source.data(DataSource.model_construct(uri=uri, config_map=None), places).open() as file:
        return file.read()


def test_files_are_found_beside_the_manifest_on_a_volume_and_by_absolute_path(places: source.Places) -> None:
    absolute = f"file://{places.sources}/train.jsonl"
    for uri in ("file://train.jsonl", "file://./train.jsonl", "pvc://claims/train.jsonl", absolute):
        assert opened(uri, places) == b"{}\n"


def test_a_config_map_is_found_under_the_volumes(places: source.Places) -> None:
    assert places.volumes is not None
    folder = places.volumes / "configmaps" / "small"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}\n")
    made = source.data(DataSource(config_map=ConfigMapKey(name="small", key="rows.jsonl")), places)
    with made.open() as file:
        assert file.read() == b"{}\n"
    with pytest.raises(UserInputError, match="not a ConfigMap"):
        source.data(DataSource(config_map=ConfigMapKey(name="small", key="../rows.jsonl")), places)


@pytest.mark.parametrize(
    "uri",
    [
        "pvc://claims/../../secret.jsonl",
        "pvc://../secret.jsonl",
        "pvc://claims/..",
        "pvc://claims//etc/passwd",
        "pvc:///etc/passwd",
        "pvc://claims",
        "pvc://Claims_/x",
        "file://../secret.jsonl",
        "file://a/../../secret.jsonl",
        "file:///tmp/../etc/passwd",
        "file://",
        "s3://bucket/x.jsonl",
        "ftp://host/x.jsonl",
        "/etc/passwd",
        "train.jsonl",
        "hf://org",
        "hf://../x/y",
        "hf://org/name@../x",
        "hf://org/name/../x",
        "file://a\0b",
    ],
)
def test_addresses_that_leave_their_root_or_say_nothing_are_refused(uri: str, places: source.Places) -> None:
    with pytest.raises(TrainerError) as caught:
        opened(uri, places)
    assert isinstance(caught.value, (UserInputError, DataError))


def test_links_are_not_followed_wherever_they_stand(places: source.Places) -> None:
    assert places.sources is not None
    assert places.volumes is not None
    secret = places.cache.parent / "secret.jsonl"
    (places.sources / "link.jsonl").symlink_to(secret)
    (places.volumes / "claims" / "up").symlink_to(places.cache.parent)
    for uri in ("file://link.jsonl", "pvc://claims/up/secret.jsonl"):
        with pytest.raises(UserInputError, match="symbolic link"):
            opened(uri, places)


def test_a_link_that_is_slipped_in_after_the_check_is_not_followed(places: source.Places) -> None:
    assert places.sources is not None
    made = source.data(DataSource(uri="file://train.jsonl"), places)
    made.path.unlink()
    made.path.symlink_to(places.cache.parent / "secret.jsonl")
    with pytest.raises(UserInputError, match="symbolic link"):
        made.open()


def test_local_files_are_for_local_mode_only(places: source.Places) -> None:
    cluster = source.Places(places.cache, None, places.volumes)
    with pytest.raises(UserInputError, match="local mode only"):
        opened("file:///etc/hostname", cluster)
    with pytest.raises(UserInputError, match="no volumes"):
        opened("pvc://claims/train.jsonl", source.Places(places.cache, places.sources, None, local_files=True))


def test_special_files_and_folders_are_refused_at_once(places: source.Places) -> None:
    assert places.sources is not None
    os.mkfifo(places.sources / "pipe.jsonl")
    with pytest.raises(UserInputError, match="not a regular file"):
        opened("file://pipe.jsonl", places)
    with pytest.raises(DataError, match="a folder stands where a data file should; it holds pipe"):
        opened(f"file://{places.sources}", places)
    with pytest.raises(DataError, match="there is no such file"):
        opened("file://none.jsonl", places)


def test_models_are_folders_with_a_name(places: source.Places) -> None:
    assert places.volumes is not None
    (places.volumes / "claims" / "tiny").mkdir()
    made = source.model(BaseModel(uri="pvc://claims/tiny"), places)
    assert (made.id, made.revision) == ("tiny", "")
    with pytest.raises(UserInputError, match="not resolved"):
        source.model(BaseModel(name="small"), places)


def test_without_a_network_the_hub_is_said_to_be_unreachable_in_seconds(
    places: source.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "endpoint", "http://127.0.0.1:9", raising=False)
    original = huggingface_hub.HfApi.__init__

    def nowhere(self: huggingface_hub.HfApi, *, token: str | None = None) -> None:
        original(self, endpoint="http://127.0.0.1:9", token=token)

    monkeypatch.setattr(huggingface_hub.HfApi, "__init__", nowhere)
    started = time.monotonic()
    for ask in (
        lambda: source.model(BaseModel(uri="hf://org/name"), places),
        lambda: source.data(DataSource(uri="hf://org/name/train.jsonl"), places),
    ):
        with pytest.raises(Unreachable, match="the hub did not answer"):
            ask()
    assert time.monotonic() - started < 15


def test_a_file_above_the_limit_is_not_fetched_from_the_hub(
    places: source.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            siblings = [{"rfilename": "train.jsonl", "size": 2000}]
            body = json.dumps({"id": "org/name", "sha": "a" * 40, "siblings": siblings}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    original = huggingface_hub.HfApi.__init__
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def near(self: huggingface_hub.HfApi, *, token: str | None = None) -> None:
            original(self, endpoint=f"http://127.0.0.1:{server.server_address[1]}", token=token)

        monkeypatch.setattr(huggingface_hub.HfApi, "__init__", near)
        with pytest.raises(DataError, match="has 2,000 bytes; the profile allows 1,999"):
            source.data(DataSource(uri="hf://org/name"), replace(places, most_bytes=1999))
        server.shutdown()
    assert len(asked) == 1
    assert asked[0].startswith("/api/datasets/org/name?")


def test_what_was_fetched_at_a_pinned_revision_is_used_again_without_a_network(places: source.Places) -> None:
    commit = "a" * 40
    folder = places.cache / "hub" / "models" / "org--name" / commit
    folder.mkdir(parents=True)
    (folder / hub.WHOLE).touch()
    made = source.model(BaseModel(uri="hf://org/name", revision=commit), places)
    assert (made.path, made.revision, made.id) == (folder, commit, "org/name")
    (folder.parent / "newest.commit").write_text(commit)
    assert source.model(BaseModel(uri="hf://org/name"), places).revision == commit


def test_hub_addresses() -> None:
    assert hub.address("hf://org/name@v1/data/a.csv") == hub.Address(
        "hf://org/name@v1/data/a.csv", "org/name", "v1", "data/a.csv"
    )
    assert hub.address("hf://org/name", "main").revision == "main"
    with pytest.raises(UserInputError, match="two revisions"):
        hub.address("hf://org/name@v1", "v2")
