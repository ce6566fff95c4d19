"""How the batch shares steps, memory and prefixes out: by the computer itself, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.support import engines
from tests.support.engines import Stand, prompt
from topcoat_trainer.serve import misfit
from topcoat_trainer.serve.batch import Batch, Limits
from topcoat_trainer.serve.kept import PAGE_TOKENS
from topcoat_trainer.serve.shelf import SHORTEST_TOKENS
from topcoat_trainer.serve.want import Found, Want

PLENTY = 1 << 30


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return engines.stand(tmp_path_factory.mktemp("tiny"))


def batch(stand: Stand, *, step_tokens: int = 64, kv_bytes: int = PLENTY) -> Batch:
    made = Batch(stand.base, misfit.build(stand.base.model), Limits(16, step_tokens, kv_bytes))
    for key, folder in stand.folders.items():
        if key is not None and folder is not None:
            made.load(key, folder)
    return made


@pytest.fixture
def made(tiny: Stand) -> Iterator[Batch]:
    found = batch(tiny)
    yield found
    for key in tiny.keys:
        if key is not None:
            found.unload(key)


@contextmanager
def counted(stand: Stand) -> Iterator[list[int]]:
    """The number of tokens of every step."""
    steps: list[int] = []
    embedding: Any = stand.base.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, inputs: steps.append(inputs[0].numel()))
    try:
        yield steps
    finally:
        handle.remove()


def answered(made: Batch, wants: list[Want]) -> list[Found]:
    """Steps until everybody was answered once; each row must have the right logits."""
    found: dict[int, Found] = {}
    for _ in range(200):
        waiting = [want for want in wants if id(want) not in found]
        if not waiting:
            break
        for want, outcome in zip(waiting, made.compute(waiting), strict=True):
            assert not isinstance(outcome, Exception), outcome
            if outcome is not None:
                found[id(want)] = outcome
    return [found[id(want)] for want in wants]


def right(stand: Stand, key: str | None, ids: list[int], found: Found) -> None:
    own = found.logits[-1].log_softmax(-1)
    assert float((own - stand.table(key, ids)[-1]).abs().max()) < engines.NEAR


def test_a_long_prompt_does_not_keep_others_waiting(tiny: Stand, made: Batch) -> None:
    answering, reading = made.open("v1", prompt(0, 20)), made.open("v3", prompt(1, 400))
    answered(made, [Want(answering)])
    long = Want(reading)
    steps = 0
    outcome: Any = None
    with counted(tiny) as tokens:
        while outcome is None:
            answering.ids.append(30)
            own, outcome = made.compute([Want(answering), long])
            assert isinstance(own, Found)
            right(tiny, "v1", answering.ids, own)
            steps += 1
    assert steps == 7
    assert max(tokens) == 65
    right(tiny, "v3", reading.ids, outcome)


def test_what_was_read_once_is_not_read_again_by_whom_it_serves(tiny: Stand, made: Batch) -> None:
    first, second = list(prompt(0, 100)), [*prompt(0, 100)[:70], *prompt(5, 30)]
    shared = 70 // PAGE_TOKENS * PAGE_TOKENS
    for key in tiny.keys:
        for ids, read in ((first, 100), (second, 100 - shared), (first, 100 - 96)):
            row = made.open(key, ids)
            with counted(tiny) as tokens:
                (found,) = answered(made, [Want(row)])
            assert sum(tokens) == read
            right(tiny, key, ids, found)
            row.close()


def test_a_conversation_goes_on_where_it_was(tiny: Stand, made: Batch) -> None:
    row = made.open("v1", prompt(0, 40))
    for _ in range(20):
        (found,) = answered(made, [Want(row)])
        row.ids.append(found.likeliest[-1])
    said = list(row.ids)
    row.close()
    turn = made.open("v1", [*said, *prompt(3, 10)])
    with counted(tiny) as tokens:
        (found,) = answered(made, [Want(turn)])
    assert sum(tokens) == 70 - 48
    right(tiny, "v1", turn.ids, found)


def test_a_prompt_that_comes_many_times_at_once_is_read_once(tiny: Stand, made: Batch) -> None:
    rows = [made.open("v1", [*prompt(0, 60), *prompt(number, 4)]) for number in range(6)]
    with counted(tiny) as tokens:
        answers = answered(made, [Want(row) for row in rows])
    for row, found in zip(rows, answers, strict=True):
        right(tiny, "v1", row.ids, found)
    assert sum(tokens) == 64 + 5 * (64 - 48)


def test_a_page_is_known_by_all_that_stands_before_it(tiny: Stand, made: Batch) -> None:
    first, second = prompt(0, 48), prompt(1, 48)
    for ids in (first, second, [*first[:PAGE_TOKENS], *second[PAGE_TOKENS:]]):
        row = made.open("v1", ids)
        (found,) = answered(made, [Want(row)])
        right(tiny, "v1", row.ids, found)
        row.close()


@pytest.mark.parametrize("turned", [False, True])
def test_frozen_layers_are_kept_once_for_all_versions(tiny: Stand, made: Batch, turned: bool) -> None:
    """Three of five layers are the base's: each further version costs two fifths, and so does the base after them."""
    sizes = []
    for key in reversed(tiny.keys) if turned else tiny.keys:
        row = made.open(key, prompt(0, 64))
        answered(made, [Want(row)])
        row.close()
        sizes.append(made.kept.bytes)
    whole = sizes[0]
    assert whole == 64 * made.closet.token_bytes
    assert sizes == pytest.approx([whole + 0.4 * whole * number for number in range(len(tiny.keys))])
    made.unload("v1")
    assert made.kept.bytes == pytest.approx(sizes[-1] - 0.4 * whole)


def test_memory_is_bounded_and_whoever_finds_none_waits(tiny: Stand) -> None:
    """Room for three of eight texts, of which every one outgrows its place in the end."""
    token_bytes = misfit.build(tiny.base.model).shape.token_bytes
    made = batch(tiny, kv_bytes=token_bytes * SHORTEST_TOKENS * 3)
    rows = [made.open(tiny.keys[number % 5], prompt(number, 230 + number)) for number in range(8)]
    peak = 0
    waiting = {id(row): row for row in rows}
    while waiting:
        wants = [Want(row) for row in waiting.values()]
        for want, outcome in zip(wants, made.compute(wants), strict=True):
            row: Any = want.row
            assert not isinstance(outcome, Exception)
            if outcome is not None:
                row.ids.append(outcome.likeliest[-1])
                if len(row.ids) > 260:
                    waiting.pop(id(row)).close()
        peak = max(peak, made.closet.bytes + made.kept.bytes)
    assert token_bytes * SHORTEST_TOKENS < peak <= token_bytes * SHORTEST_TOKENS * 3
    for number, row in enumerate(rows):
        length = 230 + number
        expected = tiny.greedy(tiny.keys[number % 5], prompt(number, length), len(row.ids) - length)
        assert row.ids[length:][: len(expected)] == expected
    for key in tiny.keys[1:]:
        made.unload(str(key))


def test_what_never_fits_is_told_so_and_nobody_else_suffers(tiny: Stand) -> None:
    token_bytes = misfit.build(tiny.base.model).shape.token_bytes
    made = batch(tiny, kv_bytes=token_bytes * SHORTEST_TOKENS)
    huge, small = made.open(None, prompt(0, 300)), made.open(None, prompt(1, 20))
    first, second = Want(huge), Want(small)
    told: list[Any] = [None]
    while told[0] is None:
        told = made.compute([first, second])
    assert isinstance(told[0], MemoryError)
    huge.close()
    (found,) = answered(made, [second])
    right(tiny, None, small.ids, found)
    for key in tiny.keys[1:]:
        made.unload(str(key))


def test_scores_and_labels_survive_that_the_text_lost_its_place(tiny: Stand, made: Batch) -> None:
    scored, branched = made.open("v1", prompt(0, 400), whole=True), made.open("v3", prompt(1, 50))
    answered(made, [Want(branched)])
    want = Want(scored, every=True)
    (part,) = answered(made, [want])
    logits = [part.logits]
    assert len(part.logits) < 400
    for row in (scored, branched):
        made._give_up(row)
    while sum(map(len, logits)) < 400:
        logits.append(answered(made, [want])[0].logits)
    table = tiny.table("v1", scored.ids)
    assert float((torch.cat(logits).log_softmax(-1) - table).abs().max()) < engines.NEAR
    (found,) = answered(made, [Want(branched, branches=((30, 31), (40,)))])
    assert len(found.logits) == 3
    right(tiny, "v3", [*branched.ids, 40], found)


def test_a_place_that_was_left_holds_nothing(tiny: Stand, made: Batch) -> None:
    rows = [made.open(key, prompt(number, 30 + 9 * number)) for number, key in enumerate(tiny.keys)]
    answered(made, [Want(row) for row in rows])
    shelf: Any = rows[0].place.shelf if rows[0].place else None
    for row in (rows[1], rows[4]):
        row.close()
    rest = [row for row in rows if row.place]
    assert len(rest) == len(rows) - 2
    for row in rest:
        place: Any = row.place
        assert shelf.places[place.index] is place
        assert not shelf.keys[:, place.index, :, len(row.ids) :].any()
        row.ids.append(30)
    assert not shelf.keys[:, len(rest) :].any()
    for row, found in zip(rest, answered(made, [Want(row) for row in rest]), strict=True):
        right(tiny, row.side.key, row.ids, found)
    for row in rest:
        row.close()
    assert not shelf.keys.any()
    assert not shelf.values.any()
