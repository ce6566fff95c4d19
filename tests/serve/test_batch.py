"""Whatever else is in the batch, everybody is answered what the same weights answer alone in transformers and PEFT."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import engines, tiny_models
from tests.support.engines import Stand, ask, prompt
from topcoat.api.report import Probe
from topcoat_trainer import adapter, packed, probe
from topcoat_trainer.evaluate import choice
from topcoat_trainer.packed import PackedLinear
from topcoat_trainer.serve.alone import Alone
from topcoat_trainer.serve.answer import NotFinite
from topcoat_trainer.serve.batch import Batch
from topcoat_trainer.serve.engine import Ask, Piece
from topcoat_trainer.serve.transformers_engine import TransformersEngine

LENGTHS = (3, 40, 17, 150, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return engines.stand(tmp_path_factory.mktemp("tiny"))


def check(stand: Stand, asked: Ask, pieces: list[Piece]) -> None:
    """Tokens are identical, log-probabilities nearly so."""
    tokens = asked.sampling.max_tokens
    expected = stand.greedy(asked.key, asked.ids, tokens)
    assert engines.said(pieces)[: len(expected)] == engines.words(stand.base, expected), asked.key
    table = stand.table(asked.key, [*asked.ids, *expected])
    made = [token.log_probability for piece in pieces for token in piece.tokens]
    own = [float(table[len(asked.ids) - 1 + place, token]) for place, token in enumerate(expected)]
    assert made[: len(own)] == pytest.approx(own, abs=engines.NEAR)
    if asked.scored:
        scores = [token.log_probability for token in pieces[0].prompt][1:]
        wanted = [float(table[place, token]) for place, token in enumerate(asked.ids[1:])]
        assert scores == pytest.approx(wanted, abs=engines.NEAR)


async def together(engine: TransformersEngine, asks: list[Ask]) -> list[list[Piece]]:
    return await asyncio.gather(*(engines.answer(engine, one) for one in asks))


@pytest.mark.parametrize("family", engines.FAMILIES)
def test_in_a_mixed_batch_everybody_is_answered_as_alone(tmp_path: Path, family: str) -> None:
    """Base, LoRA and full tails at once, short and long, twice: the second time most of each prompt is known."""
    stand = engines.stand(tmp_path, family)
    asks = [
        ask(key, prompt(number % 2, length), 6, scored=length == 17)
        for number, key in enumerate(stand.keys)
        for length in LENGTHS
    ]

    async def work(engine: TransformersEngine) -> None:
        assert isinstance(engine._computer, Batch)
        for _ in range(2):
            for asked, pieces in zip(asks, await together(engine, asks), strict=True):
                check(stand, asked, pieces)

    engines.run(stand, work)


@pytest.mark.parametrize("family", ["falcon"])
def test_what_bears_no_batch_is_computed_alone_and_says_why(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    stand = engines.stand(tmp_path, family)
    asks = [ask(key, prompt(0, length), 4) for key in stand.keys for length in (3, 40)]

    async def work(engine: TransformersEngine) -> None:
        assert isinstance(engine._computer, Alone)
        for asked, pieces in zip(asks, await together(engine, asks), strict=True):
            check(stand, asked, pieces)

    engines.run(stand, work)
    assert [record.message for record in caplog.records if "one at a time" in record.message]


def test_no_family_is_forgotten() -> None:
    assert len(engines.FAMILIES) == len(tiny_models.FAMILIES) - 1 == 11


def test_requests_join_and_leave_and_break_off_and_fail_and_nobody_notices(tiny: Stand) -> None:
    stay = [ask(key, prompt(number, 20 + number), 40) for number, key in enumerate(tiny.keys)]

    async def gone(engine: TransformersEngine, asked: Ask, pieces: int) -> None:
        stream = engine.generate(asked)
        for _ in range(pieces):
            await anext(stream)
        await stream.aclose()

    async def work(engine: TransformersEngine) -> None:
        tasks = [asyncio.create_task(engines.answer(engine, one)) for one in stay]
        for number, key in enumerate(tiny.keys * 2):
            await gone(engine, ask(key, prompt(number + 7, 70), 300), number)
            with pytest.raises(IndexError):  # there is no such token, which shows in the middle of a step
                await engines.answer(engine, ask(key, [*prompt(0, 5), 10**6], 3))
        late = [ask(key, prompt(9, 33), 5) for key in tiny.keys]
        for asked, pieces in zip(late, await together(engine, late), strict=True):
            check(tiny, asked, pieces)
        for asked, task in zip(stay, tasks, strict=True):
            check(tiny, asked, await task)
        assert engine.business().running == 0

    engines.run(tiny, work)


def test_versions_come_and_go_while_others_are_answered(tiny: Stand) -> None:
    asks = [ask(key, prompt(3, 30), 60) for key in (None, "v1", "v3")]

    async def work(engine: TransformersEngine) -> None:
        tasks = [asyncio.create_task(engines.answer(engine, one)) for one in asks]
        for key in ("v2", "v4") * 3:
            folder = tiny.folders[key]
            assert folder is not None
            await engine.unload(key)
            with pytest.raises(KeyError):
                await engines.answer(engine, ask(key, [1, 2], 1))
            await engine.load(key, folder)
            one = ask(key, prompt(3, 30), 3)
            check(tiny, one, await engines.answer(engine, one))
        for asked, task in zip(asks, tasks, strict=True):
            check(tiny, asked, await task)

    engines.run(tiny, work)


def test_the_same_seed_gives_the_same_answer_in_any_company(tiny: Stand) -> None:
    asks = [ask(key, prompt(1, 12), 30, temperature=1.0, top_p=0.95, seed=5) for key in tiny.keys]

    def said(pieces: list[Piece]) -> str:
        return "".join(piece.text for piece in pieces)

    async def work(engine: TransformersEngine) -> None:
        alone = [said(await engines.answer(engine, one)) for one in asks]
        crowd = [ask(key, prompt(number, 40), 30) for number, key in enumerate(tiny.keys)]
        found = await together(engine, [*crowd, *asks])
        assert [said(pieces) for pieces in found[len(crowd) :]] == alone
        assert len(set(alone)) == len(tiny.keys)

    engines.run(tiny, work)


def test_labels_are_weighed_in_the_batch_as_alone(tiny: Stand) -> None:
    labels = [[30, 2], [30, 31, 2], [40, 41, 42, 43, 2], [50], [*range(20, 120), 2], [*range(30, 200), 2]]
    asked = choice.Labels(tuple(map(tuple, labels)), every=True)
    expected = {}
    for key, folder in tiny.folders.items():
        with adapter.using(tiny.base, folder) as model:
            found = choice.choose(model, [prompt(2, 25)], asked)[0].probabilities()
        expected[key] = [found[label] for label in range(len(labels))]

    async def work(engine: TransformersEngine) -> None:
        crowd = asyncio.create_task(together(engine, [ask(key, prompt(5, 40), 30) for key in tiny.keys]))
        shares = await asyncio.gather(*(engine.choose(ask(key, prompt(2, 25), 1), labels) for key in tiny.keys))
        for key, found in zip(tiny.keys, shares, strict=True):
            assert found == pytest.approx(expected[key], abs=1e-4)
        await crowd

    engines.run(tiny, work)


def test_probes_are_replayed_in_the_batch(tiny: Stand) -> None:
    probes = {}
    for key, folder in tiny.folders.items():
        with adapter.using(tiny.base, folder) as model:
            probes[key] = probe.make(model, [prompt(0, 30), prompt(1, 2), [70]])

    async def work(engine: TransformersEngine) -> None:
        crowd = asyncio.create_task(together(engine, [ask(key, prompt(5, 40), 30) for key in tiny.keys]))
        for key in tiny.keys:
            assert await engine.probe(key, probes[key]) < 1e-4
            assert all([await engine.probe(other, probes[key]) > 1e-2 for other in tiny.keys if other != key])
        wrong = probes[None][0].model_copy(update={"log_probabilities": [float("nan")] * 5})
        assert await engine.probe(None, [wrong]) == float("inf")
        await crowd

    assert isinstance(probes["v1"][0], Probe)
    engines.run(tiny, work)


def test_a_lora_costs_its_factors_and_a_full_tail_its_own_layers(tiny: Stand) -> None:
    async def work(engine: TransformersEngine) -> None:
        before = engines.tensor_bytes()
        for kind in ("v1", "v3", "v5"):
            folder = tiny.folders[kind]
            assert folder is not None
            file = next(folder.glob("*.safetensors")).stat().st_size
            for number in range(4):
                await engine.load(f"{kind}-{number}", folder)
            after = engines.tensor_bytes()
            # The file's header is about 4 KB. A stack is allocated in steps, and nothing of the base is in it.
            assert after - before == pytest.approx(4 * file, rel=0.15)
            for number in range(4):
                await engine.unload(f"{kind}-{number}")
            assert engines.tensor_bytes() == pytest.approx(before, abs=file / 10)

    engines.run(tiny, work)


def test_the_base_and_full_tails_are_packed_and_what_dora_reads_is_not(tiny: Stand) -> None:
    """DoRA's norms need the plain numbers of the modules that it changes; and only of those."""

    async def work(engine: TransformersEngine) -> None:
        batch: Any = engine._computer
        linear = {name: part for name, part in batch._model.named_modules() if isinstance(part, torch.nn.Linear)}
        plain = {name for name, part in linear.items() if not isinstance(part, PackedLinear)}
        dora = {name for name, touched in batch._touched.items() if "v5" in touched._own}
        assert dora
        assert plain == dora
        tails = [touched._own["v3"] for touched in batch._touched.values() if "v3" in touched._own]
        assert {type(part) for part in tails if isinstance(part, torch.nn.Linear)} == {PackedLinear}

    engines.run(tiny, work)


def test_what_one_version_breaks_stays_with_it(tmp_path: Path) -> None:
    """A version that computes infinities may answer nonsense, and only itself."""
    stand = engines.stand(tmp_path)
    asks = [ask(key, prompt(0, 20), 12) for key in (None, "v1", "v3")]

    async def work(engine: TransformersEngine) -> None:
        batch: Any = engine._computer
        for touched in batch._touched.values():
            for key, own in touched._own.items():
                if key == "v4":
                    packed.unpack(own)
                    for parameter in own.parameters():
                        parameter.data.fill_(torch.inf)
            for stack in touched._stacks:
                if "v2" in stack.keys:
                    stack.down[stack.keys.index("v2")] = torch.inf
        broken = [ask(key, prompt(0, 20), 3, top=None) for key in ("v2", "v4", "v2", "v4")]
        for _ in range(3):
            answers = (engines.answer(engine, one) for one in [*asks, *broken])
            found: list[Any] = await asyncio.gather(*answers, return_exceptions=True)
            for asked, pieces in zip(asks, found[: len(asks)], strict=True):
                check(stand, asked, pieces)
            assert {type(error) for error in found[len(asks) :]} == {NotFinite}

    engines.run(stand, work)
