"""The tree of what rows have in common: whole, and never larger than the rows."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st

from topcoat_trainer import line, tree

ROWS = st.lists(st.lists(st.integers(0, 1), max_size=14), max_size=9)


def read(rows: list[list[int]], made: tree.Tree, row: int) -> list[int]:
    pieces = [made.pieces[number] for number in made.path(made.leaves[row])]
    return [token for piece in pieces for token in rows[piece.row][piece.start : piece.end]]


@hypothesis.settings(deadline=None)
@hypothesis.given(ROWS, st.integers(1, 20))
def test_every_row_is_read_whole_along_its_path(rows: list[list[int]], worth: int) -> None:
    made = tree.grow(rows, worth)
    assert [read(rows, made, row) for row in range(len(rows))] == rows
    assert all(piece.parent is None or piece.parent < number for number, piece in enumerate(made.pieces))
    assert made.tokens <= sum(map(len, rows))


def test_a_prompt_of_all_and_examples_of_some_stand_once_each() -> None:
    prompt, one, other = list(range(20)), list(range(30, 45)), list(range(50, 65))
    rows = [[*prompt, *one, 1, 2], [*prompt, *one, 3], [*prompt, *other, 4], [*prompt, *other, 5, 6], [*prompt, 7]]
    made = tree.grow(rows)
    assert sorted(map(len, made.pieces)) == [1, 1, 1, 2, 2, 15, 15, 20]
    assert made.tokens == 20 + 15 + 15 + 7


def test_what_saves_less_than_it_costs_is_not_shared() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6]]
    assert tree.grow(rows, 7).tokens == 12
    assert tree.grow(rows, 6).tokens == 6


def test_equal_rows_end_in_one_piece() -> None:
    made = tree.grow([[1, 2, 3, 4, 5, 6, 7, 8]] * 2)
    assert made.leaves == (0, 0)
    assert made.tokens == 8


@hypothesis.settings(deadline=None)
@hypothesis.given(ROWS, st.integers(1, 20))
def test_the_line_holds_every_token_in_a_slot_of_its_own_and_knows_what_comes_before(
    rows: list[list[int]], worth: int
) -> None:
    hypothesis.assume(any(rows))
    made = tree.grow(rows, worth)
    found = line.line(made)
    assert found.slots[found.places].tolist() == list(range(made.tokens))
    assert sorted([*found.places.tolist(), *found.filling.tolist()]) == list(range(len(found.slots)))
    assert sum(group.count * group.width for group in found.groups) == len(found.slots)
    flat = [token for piece in made.pieces for token in rows[piece.row][piece.start : piece.end]]
    for row, ids in enumerate(rows):
        places = line.flat_positions(made, row, range(len(ids)))
        assert [flat[place] for place in places] == ids
    start = 0
    for group in found.groups:
        first = int(found.slots[start])
        piece = next(p for p, begin in zip(made.pieces, line.starts(made), strict=True) if begin == first and len(p))
        assert [flat[place] for place in group.before.tolist()] == rows[piece.row][: piece.start]
        start += group.count * group.width
