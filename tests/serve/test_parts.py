"""The server's parts alone: text while it is made, the table of aliases, turns, chance."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import served, tiny_models
from topcoat.api.server import WantedVersion
from topcoat_trainer import adapter
from topcoat_trainer.model_file import inspect
from topcoat_trainer.packed import PackedLinear
from topcoat_trainer.serve.alias import NotYet, Table, Tag, Unknown
from topcoat_trainer.serve.aside import aside
from topcoat_trainer.serve.engine import Ask, Sampling
from topcoat_trainer.serve.question import Reader
from topcoat_trainer.serve.sampling import Picker
from topcoat_trainer.serve.text import Text
from topcoat_trainer.serve.transformers_engine import TransformersEngine
from topcoat_trainer.serve.worker import Worker

WORDS = tiny_models.tokenizer()


def decoded(ids: Any) -> str:
    return str(WORDS.decode(list(ids), skip_special_tokens=True))


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3))
@settings(deadline=None, max_examples=200)
def test_text_in_pieces_is_the_whole_text_up_to_the_first_stop(whole: str, stops: list[str]) -> None:
    ids = WORDS(whole, add_special_tokens=False).input_ids
    whole = decoded(ids)
    text, said, stopped = Text(decoded, stops), "", False
    for token in ids:
        new, stopped = text.add(token)
        said += new
        assert not any(stop in said for stop in stops)
        if stopped:
            break
    if not stopped:
        rest, stopped = text.rest()
        said += rest
    places = [whole.index(stop) for stop in stops if stop in whole]
    # Characters come one token at a time at the earliest, so the stop that is whole first wins.
    ends = [whole.index(stop) + len(stop) for stop in stops if stop in whole]
    assert stopped == bool(places)
    assert whole.startswith(said)
    if not places:
        assert said == whole
    else:
        assert said == whole[: min(places)] or len(said) <= min(ends)


def test_half_a_character_is_never_told() -> None:
    ids = WORDS("a€b", add_special_tokens=False).input_ids
    text = Text(decoded)
    assert [text.add(token)[0] for token in ids] == ["a", "", "", "€", "b"]
    text = Text(decoded)
    assert [text.add(token)[0] for token in ids[:3]] == ["a", "", ""]
    assert text.rest() == ("�", False)


def wanted(version: str, digit: str = "a") -> WantedVersion:
    return WantedVersion(version=version, path=f"/v/{version}", digest=f"sha256:{digit * 64}")


def proved(_: Tag) -> bool:
    return True


def test_an_alias_moves_only_to_what_is_proved_and_keeps_what_it_had() -> None:
    table = Table("base")
    table.follow(served.alias("claims", 1, [wanted("v1")], ["v1"]))
    with pytest.raises(NotYet):
        table.route("claims", None, proved)
    table.settle(proved)
    table.follow(served.alias("claims", 2, [wanted("v2")], ["v2"]))
    assert table.settle(lambda tag: tag.version == "v1") == []
    tag = table.route("claims", None, proved)
    assert tag is not None
    assert tag.name == "claims--v1"
    # What answers is wanted, though the file names it no more.
    assert [tag.version for tag in table.wanted()] == ["v1", "v2"]
    assert not table.settled()
    table.settle(proved)
    assert [tag.version for tag in table.wanted()] == ["v2"]
    assert table.settled()


def test_a_target_that_no_version_of_the_file_has_is_never_in_force() -> None:
    table = Table("base")
    table.follow(served.alias("claims", 1, [wanted("v1")], ["v2"]))
    assert table.settle(proved) == []
    assert not table.settled()


def test_an_alias_without_targets_is_nobody() -> None:
    table = Table("base")
    table.follow(served.alias("claims", 1, [wanted("v1")]))
    table.settle(proved)
    assert table.settled()
    with pytest.raises(Unknown):
        table.route("claims", None, proved)


def test_the_same_name_with_another_digest_is_another_version() -> None:
    """A job that was deleted and made again begins with v1, too."""
    first, second = Tag("claims", "v1", wanted("v1").digest), Tag("claims", "v1", wanted("v1", "b").digest)
    assert first.name == second.name
    assert first.key != second.key


def test_a_version_that_only_protected_aliases_hold_is_never_open() -> None:
    table = Table("base")
    table.follow(served.alias("claims", 1, [wanted("v1")], ["v1"], token_file="/t"))
    table.settle(proved)
    assert table.token_files("claims--v1", proved) == ("/t",)
    assert table.token_files("base", proved) == ("/t",)
    # It answers still, though the next file, not in force yet, names it no more.
    table.follow(served.alias("claims", 2, [wanted("v2")], ["v2"], token_file="/u"))
    table.settle(lambda tag: tag.version == "v1")
    assert table.token_files("claims--v1", proved) == ("/u",)
    assert table.token_files("claims", proved) == ("/u",)


def test_targets_are_wanted_before_what_may_only_be_gone_back_to() -> None:
    table = Table("base")
    table.follow(served.alias("a", 1, [wanted("v1"), wanted("v2")], ["v2"]))
    table.follow(served.alias("b", 1, [wanted("v1"), wanted("v3")], ["v3"]))
    assert [tag.name for tag in table.wanted()] == ["a--v2", "b--v3", "a--v1", "b--v1"]


def test_lanes_take_turns_however_many_wait_in_one() -> None:
    async def run() -> list[str]:
        worker, order = Worker(1), []
        gate = threading.Event()

        def work(name: str) -> Generator[str]:
            gate.wait(10)
            yield name

        async def one(lane: str, name: str) -> None:
            order.extend([found async for found in worker.stream(lane, lambda: work(name))])

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(one("crowd", f"crowd{number}"))
            await asyncio.sleep(0.05)
            group.create_task(one("guest", "guest"))
            await asyncio.sleep(0.05)
            gate.set()
        worker.close()
        return order

    order = asyncio.run(run())
    assert sorted(order) == ["crowd0", "crowd1", "crowd2", "crowd3", "guest"]
    assert order.index("guest") <= 2


def test_a_failure_ends_one_request_and_not_the_thread() -> None:
    async def run() -> None:
        worker = Worker(2)

        def broken() -> Generator[int]:
            yield 1
            raise ZeroDivisionError

        stream = worker.stream("a", broken)
        assert await anext(stream) == 1
        with pytest.raises(ZeroDivisionError):
            await anext(stream)
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 // 0)
        assert await worker.call(lambda: 3) == 3
        assert worker.alive()
        assert worker.business() == (0, 0)
        worker.close()

    asyncio.run(run())


def test_what_is_given_up_is_closed_and_forgotten() -> None:
    async def run() -> list[str]:
        worker, log = Worker(1), []

        def endless() -> Generator[int]:
            try:
                while True:
                    yield 1
            finally:
                log.append("closed")

        async def listen() -> None:
            async for _ in worker.stream("a", endless):
                pass

        first, second = asyncio.create_task(listen()), asyncio.create_task(listen())
        await asyncio.sleep(0.05)
        assert worker.business() == (1, 1)
        second.cancel()
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await worker.call(lambda: None)
        await asyncio.sleep(0.05)
        assert worker.business() == (0, 0)
        worker.close()
        return log

    assert asyncio.run(run()) == ["closed"]


def test_top_p_draws_only_from_the_likeliest() -> None:
    logits = torch.tensor([3.0, 2.9, -1.0, -2.0])
    picker = Picker(Sampling(1, temperature=1.0, top_p=0.9, seed=1))
    assert {picker.pick(logits, 0) for _ in range(200)} == {0, 1}
    assert Picker(Sampling(1)).pick(logits, 3) == 3
    hot = Picker(Sampling(1, temperature=2.0, seed=1))
    assert {hot.pick(logits, 0) for _ in range(500)} == {0, 1, 2, 3}


FAMILIES = ["gpt2", "qwen3", "gemma3"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lora", "tail"])
def test_every_family_answers_and_scores_as_transformers_does(tmp_path: Path, family: str, kind: str) -> None:
    """Also with tied weights, GPT-2's transposed layers, and windows shorter than the prompt."""
    base = served.base(tmp_path / "base", family)
    made = served.version(base, tmp_path / "v1", 1, kind=kind)
    ids = [1, *(20 + (7 * number) % 200 for number in range(300))]
    expected: dict[str | None, list[int]] = {
        None: served.greedy(base, None, ids, 12),
        "k": served.greedy(base, tmp_path / "v1", ids, 12),
    }
    with adapter.using(base, tmp_path / "v1") as model, torch.no_grad():
        table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    facts = inspect(base.path)

    async def run() -> None:
        engine = await TransformersEngine.started(facts, 2, Reader(base.tokenizer, facts).end_ids)
        await engine.load("k", Path(made.path))
        for key in (*expected, None):
            ask = Ask(key, "a", tuple(ids), Sampling(12, top=0), scored=True)
            pieces = [piece async for piece in engine.generate(ask)]
            wanted_words = [base.tokenizer.decode([token]) for token in expected[key]]
            assert [token.text for piece in pieces for token in piece.tokens] == wanted_words
            if key == "k":
                own = [float(table[place, token]) for place, token in enumerate(ids[1:])]
                assert [token.log_probability for token in pieces[0].prompt][1:] == pytest.approx(own, abs=1e-4)
        with pytest.raises(ValueError, match="loaded already"):
            await engine.load("k", Path(made.path))
        await engine.unload("k")
        engine.close()

    asyncio.run(run())


def test_the_base_is_bit_for_bit_itself_after_versions_were_on_it(tmp_path: Path) -> None:
    base = served.base(tmp_path / "base")
    for name, kind in (("v1", "lora"), ("v2", "tail")):
        served.version(base, tmp_path / name, 1, kind=kind)
    facts = inspect(base.path)

    def numbers(model: Any) -> dict[str, torch.Tensor]:
        found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        layers = {name: part for name, part in model.named_modules() if isinstance(part, PackedLinear)}
        assert layers
        return found | {f"{name}.weight": layer.packed.to_dense() for name, layer in layers.items()}

    async def run() -> None:
        engine = await TransformersEngine.started(facts, 2, frozenset())
        before = numbers(engine.base.model)
        for name in ("v1", "v2"):
            await engine.load(name, tmp_path / name)
        for key in ("v1", "v2", "v1", None):
            assert [piece async for piece in engine.generate(Ask(key, "a", (1, 20), Sampling(3)))]
        after = numbers(engine.base.model)
        assert list(after) == list(before)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        engine.close()

    asyncio.run(run())


def test_work_aside_leaves_no_thread_behind() -> None:
    """One that used torch and stayed would slow the engine down for good."""

    async def work(broken: bool) -> threading.Thread:
        seen: list[threading.Thread] = []

        def note() -> str:
            seen.append(threading.current_thread())
            if broken:
                raise ValueError("broken")
            return "done"

        if broken:
            with pytest.raises(ValueError, match="broken"):
                await aside(note)
        else:
            assert await aside(note) == "done"
        return seen[0]

    for broken in (False, True):
        thread = asyncio.run(work(broken))
        assert thread is not threading.main_thread()
        thread.join(10)
        assert not thread.is_alive()
