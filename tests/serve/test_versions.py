"""Versions come and go while clients are answered: only what is proved answers, and what is refused disturbs nobody."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serve.conftest import Shop
from tests.support import served
from tests.support.broken_versions import BROKEN
from topcoat.api.server import WantedVersion
from topcoat_trainer import files


def said(server: served.Server, model: str = "claims") -> tuple[str | None, str]:
    with server.client() as client:
        found = client.completions.create(model=model, prompt="tell me", max_tokens=12)
    return found.system_fingerprint, found.choices[0].text


def test_files_are_followed_and_what_nobody_wants_is_unloaded(shop: Shop, tmp_path: Path) -> None:
    with served.running(
        tmp_path / "conf", shop.base, served.alias("claims", 1, [shop.versions["v1"]], ["v1"])
    ) as server:
        server.write(served.alias("claims", 2, [shop.versions["v1"], shop.versions["v2"]], ["v2"]))
        server.until(lambda: said(server)[0] == shop.digest("v2"), "the alias has moved")
        assert server.held("v1")["state"] == "Proved"
        server.write(served.alias("claims", 3, [shop.versions["v2"]], ["v2"]))
        server.until(lambda: not server.held("v1"), "v1 is unloaded")
        with pytest.raises(openai.NotFoundError):
            said(server, "claims--v1")
        loaded = [row for row in server.get("/metrics").text.splitlines() if row.startswith("topcoat_adapter_loaded")]
        assert loaded == [f'topcoat_adapter_loaded{{digest="{shop.digest("v2")}",version="claims--v2"}} 1.0']
        (server.folder / "claims.json").unlink()
        server.until(lambda: not server.held("v2"), "v2 is unloaded")
        with pytest.raises(openai.NotFoundError):
            said(server)
        # The file was seen to be gone, so the alias may begin anew.
        server.write(served.alias("claims", 1, [shop.versions["v1"]], ["v1"]))
        server.until(lambda: server.held("v1").get("state") == "Proved", "v1 is back")
        assert said(server)[0] == shop.digest("v1")


def test_a_version_stays_until_the_last_request_that_uses_it_has_ended(shop: Shop, tmp_path: Path) -> None:
    start = served.alias("claims", 1, [shop.versions["v1"]], ["v1"])
    with served.running(tmp_path / "conf", shop.base, start) as server, server.client() as client:
        asked: Any = {"model": "claims", "prompt": "a", "max_tokens": 400, "logprobs": 20}
        whole = client.completions.create(**asked).choices[0].text
        long = client.completions.create(**asked, stream=True)
        parts = [next(iter(long)).choices[0].text]
        server.push(served.alias("claims", 2, [shop.versions["v2"]], ["v2"]))
        server.until(lambda: said(server)[0] == shop.digest("v2"), "the alias has moved")
        assert server.held("v1")["state"] == "Proved"
        parts += [part.choices[0].text for part in long]
        assert "".join(parts) == whole
        server.until(lambda: not server.held("v1"), "v1 is unloaded")


def test_a_config_maps_mount_is_followed_through_its_links(shop: Shop, tmp_path: Path) -> None:
    """The kubelet makes `..data` a link to a folder with all files, and swaps it."""
    folder = tmp_path / "conf"

    def mounted(name: str, file: Any) -> None:
        data = folder / name
        data.mkdir(parents=True)
        if (folder / "server.json").exists():
            shutil.copyfile(folder / "server.json", data / "server.json")
        files.write_json(data / "claims.json", file.as_json())
        (folder / "..data_tmp").symlink_to(name)
        (folder / "..data_tmp").replace(folder / "..data")

    mounted("..1", served.alias("claims", 1, [shop.versions["v1"]], ["v1"]))
    (folder / "claims.json").symlink_to("..data/claims.json")
    with served.running(folder, shop.base) as server:
        assert said(server)[0] == shop.digest("v1")
        mounted("..2", served.alias("claims", 2, [shop.versions["v2"]], ["v2"]))
        shutil.rmtree(folder / "..1")
        server.until(lambda: said(server)[0] == shop.digest("v2"), "the alias has moved")


def test_an_older_generation_is_never_followed(shop: Shop, tmp_path: Path) -> None:
    versions = [shop.versions["v1"], shop.versions["v2"]]
    with served.running(tmp_path / "conf", shop.base, served.alias("claims", 5, versions, ["v1"])) as server:
        server.until(lambda: server.held("v2").get("state") == "Proved", "v2 is proved")
        server.push(served.alias("claims", 7, versions, ["v2"]))
        assert said(server)[0] == shop.digest("v2")
        for generation in (6, 7, 1):
            server.push(served.alias("claims", generation, versions, ["v1"]))
            assert said(server)[0] == shop.digest("v2")
        server.write(served.alias("claims", 6, versions, ["v1"]))
        server.write(served.alias("other", 1, [shop.versions["v1"]], ["v1"]))
        server.until(lambda: any(row["alias"] == "other" for row in server.state()["aliases"]), "the files were read")
        assert said(server)[0] == shop.digest("v2")
        server.push(dropped=("claims",))
        with pytest.raises(openai.NotFoundError):
            said(server)
        server.push(served.alias("claims", 7, versions, ["v1"]))
        with pytest.raises(openai.NotFoundError):
            said(server)
        server.push(served.alias("claims", 8, versions, ["v1"]))
        server.until(lambda: server.held("v1", "claims").get("state") == "Proved", "v1 is proved again")
        server.until(lambda: said(server)[0] == shop.digest("v1"), "claims is back")


@pytest.fixture(scope="module")
def steady(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("steady") / "conf"
    start = served.alias("claims", 1, [shop.versions["v1"]], ["v1"])
    with served.running(folder, shop.base, start, maxRank=8) as made:
        yield made


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_a_version_that_is_not_what_it_should_be_is_refused_and_the_old_one_serves(
    steady: served.Server, shop: Shop, tmp_path: Path, make: Callable[[Shop, Path], Any]
) -> None:
    wanted = make(shop, tmp_path / "v9")
    generation = max(row["generation"] for row in steady.state()["aliases"])
    steady.push(served.alias("claims", generation + 1, [shop.versions["v1"], wanted], ["v9"]))
    row = steady.until(lambda: (r := steady.held("v9")).get("state") == "Refused" and r, "v9 is refused")
    problem = row["probe"]["problem"]
    for words in BROKEN[make]:
        assert words in problem
    assert "/tmp/topcoat-version-" not in problem
    assert row["probe"]["ok"] is False
    assert said(steady)[0] == shop.digest("v1")
    alias = next(row for row in steady.state()["aliases"] if row["alias"] == "claims")
    assert alias["targets"] == [{"version": "v1", "weight": 100}]
    assert steady.state()["ready"] is False
    assert steady.get("/ready").status_code == 200
    with pytest.raises(openai.NotFoundError):
        said(steady, "claims--v9")
    steady.push(served.alias("claims", generation + 2, [shop.versions["v1"]], ["v1"]))
    assert steady.state()["ready"] is True


def test_what_was_refused_is_taken_once_it_is_mended(steady: served.Server, shop: Shop, tmp_path: Path) -> None:
    made = served.version(shop.base, tmp_path / "v9", 11)
    hidden = (tmp_path / "v9").rename(tmp_path / "hidden")
    generation = max(row["generation"] for row in steady.state()["aliases"])
    steady.push(served.alias("claims", generation + 1, [shop.versions["v1"], made], ["v9"]))
    steady.until(lambda: steady.held("v9").get("state") == "Refused", "v9 is refused")
    hidden.rename(tmp_path / "v9")
    steady.until(lambda: said(steady)[0] == made.digest, "v9 answers")
    steady.push(served.alias("claims", generation + 2, [shop.versions["v1"]], ["v1"]))


def test_a_version_may_vanish_from_the_volume_once_it_is_proved(shop: Shop, tmp_path: Path) -> None:
    made = served.version(shop.base, tmp_path / "v1", 12)
    with served.running(tmp_path / "conf", shop.base, served.alias("claims", 1, [made], ["v1"])) as server:
        before = said(server)
        shutil.rmtree(tmp_path / "v1")
        assert said(server) == before


def test_no_more_versions_are_held_than_may_be(shop: Shop, tmp_path: Path) -> None:
    versions = [shop.versions[name] for name in ("v1", "v2", "v3")]
    start = served.alias("claims", 1, versions, ["v3"])
    with served.running(tmp_path / "conf", shop.base, start, maxAdapters=2) as server:
        row = server.until(lambda: (r := server.held("v2")).get("state") == "Refused" and r, "v2 finds no room")
        assert "maxAdapters" in row["probe"]["problem"]
        assert server.held("v3")["state"] == server.held("v1")["state"] == "Proved"
        server.push(served.alias("claims", 2, versions[1:], ["v3"]))
        server.until(lambda: server.held("v2").get("state") == "Proved", "v2 has room now")


def test_a_restart_finds_everything_again_in_the_files_alone(shop: Shop, tmp_path: Path) -> None:
    versions = [shop.versions["v1"], shop.versions["v2"]]
    with served.running(tmp_path / "conf", shop.base, served.alias("claims", 4, versions, ["v2"])) as server:
        before, boot = said(server), server.state()["engine"]["bootId"]
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        server.start()
        server.ready()
        # Ready means: it answers, at once.
        assert said(server) == before
        assert server.state()["engine"]["bootId"] != boot
        assert server.state()["aliases"][0]["generation"] == 4


def test_a_pod_that_cannot_prove_what_is_named_is_never_ready_but_says_so(shop: Shop, tmp_path: Path) -> None:
    lost = WantedVersion(version="v9", path=str(tmp_path / "v9"), digest=shop.digest("v1"))
    server = served.Server(tmp_path / "conf", shop.base)
    server.write(served.alias("claims", 1, [shop.versions["v1"]], ["v1"]), served.alias("pets", 1, [lost], ["v9"]))
    try:
        server.start()
        server.until(lambda: server.held("v9", "pets").get("state") == "Refused", "v9 is refused")
        server.until(lambda: server.held("v1").get("state") == "Proved", "v1 is proved")
        assert server.get("/ready").status_code == 503
        assert server.get("/health").status_code == 200
        with server.client() as client, pytest.raises(openai.InternalServerError) as refusal:
            client.completions.create(model="pets", prompt="x")
        assert refusal.value.status_code == 503
        assert refusal.value.response.headers["retry-after"]
        assert said(server)[0] == shop.digest("v1")
    finally:
        server.stop(signal.SIGKILL)


def test_a_file_that_cannot_be_understood_leaves_the_last_good_one_in_force(shop: Shop, tmp_path: Path) -> None:
    with served.running(
        tmp_path / "conf", shop.base, served.alias("claims", 1, [shop.versions["v1"]], ["v1"])
    ) as server:
        for text in ("{", '{"alias": "claims"}', served.alias("other", 9, [], []).model_dump_json(by_alias=True)):
            (server.folder / "claims.json").write_text(text)
            server.until(lambda: server.state()["ready"] is False, "the file was looked at")
            assert said(server)[0] == shop.digest("v1")
        server.write(served.alias("claims", 2, [shop.versions["v1"], shop.versions["v2"]], ["v2"]))
        server.until(lambda: said(server)[0] == shop.digest("v2"), "the mended file is followed")
        assert server.state()["ready"] is True


def test_a_weighted_alias_splits_traffic_and_keeps_each_person_with_one_version(shop: Shop, tmp_path: Path) -> None:
    versions = [shop.versions["v1"], shop.versions["v2"]]
    start = served.alias("claims", 1, versions, [("v1", 70), ("v2", 30)])
    with served.running(tmp_path / "conf", shop.base, start) as server, server.client() as client:

        def who(**more: Any) -> str:
            found = client.completions.create(model="claims", prompt="x", max_tokens=1, **more).system_fingerprint
            return "v2" if found == shop.digest("v2") else "v1"

        people = {f"p{number}": who(user=f"p{number}") for number in range(60)}
        assert 6 <= list(people.values()).count("v2") <= 30
        for person in list(people)[:10]:
            assert {who(user=person) for _ in range(3)} == {people[person]}
            assert who(extra_headers={"x-session-id": person}) == people[person]
        assert {who() for _ in range(40)} == {"v1", "v2"}
        server.push(served.alias("claims", 2, versions, [("v1", 40), ("v2", 60)]))
        later = {person: who(user=person) for person in people}
        assert list(later.values()).count("v2") > list(people.values()).count("v2")
        # Whom the new version had reached, it keeps.
        assert all(later[person] == "v2" for person, version in people.items() if version == "v2")
