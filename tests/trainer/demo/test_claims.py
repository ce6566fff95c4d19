"""The claims data is balanced, repeatable and split by family; the spoilt copy is spoilt in half of its rows."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from topcoat_trainer.demo import claims
from topcoat_trainer.errors import DataError


@pytest.fixture(scope="module")
def pool() -> list[claims.Claim]:
    return claims.pool()


@pytest.fixture(scope="module")
def data(pool: list[claims.Claim]) -> claims.ClaimsData:
    return claims.choose(pool)


def test_every_queue_has_the_same_number_of_rows_on_each_side(data: claims.ClaimsData) -> None:
    assert Counter(claim.queue for claim in data.train) == dict.fromkeys(claims.QUEUE_NAMES, 60)
    assert Counter(claim.queue for claim in data.heldout) == dict.fromkeys(claims.QUEUE_NAMES, 26)
    assert (len(data.train), len(data.heldout)) == (720, 312)


def test_no_family_and_no_phrase_stands_on_both_sides(data: claims.ClaimsData) -> None:
    learnt = data.train + data.more
    assert not {claim.family for claim in learnt} & {claim.family for claim in data.heldout}
    phrases = [claim.text.casefold() for claim in learnt + data.heldout]
    assert len(set(phrases)) == len(phrases)


def test_held_out_rows_come_from_many_families(data: claims.ClaimsData) -> None:
    families = Counter(claim.family for claim in data.heldout)
    assert len(families) >= 200
    assert max(families.values()) <= 5


def test_the_same_seed_gives_the_same_rows_and_another_seed_other_ones(
    pool: list[claims.Claim], data: claims.ClaimsData
) -> None:
    assert claims.choose(pool) == data
    assert set(claims.choose(pool, seed=1).heldout) != set(data.heldout)


def test_every_claim_lies_in_the_codes_of_its_queue(pool: list[claims.Claim]) -> None:
    ranges = {queue.name: queue for queue in claims.QUEUES}
    assert len(pool) > 3000
    assert all(ranges[claim.queue].holds(claim.family) for claim in pool)


def test_queues_do_not_overlap() -> None:
    ordered = sorted(claims.QUEUES, key=lambda queue: queue.first)
    assert all(left.last < right.first for left, right in itertools.pairwise(ordered))
    assert len(claims.QUEUE_NAMES) == 12


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("Fracture of tibia NOS", "Fracture of tibia"),
        ("Hepatitis A (acute)(viral) NOS", "Hepatitis A"),
        ("Eczema, NOS", None),
        ("Conditions in A00-B99 with kidney involvement", None),
        ("Rapidly progressive nephritis with (see below) or", None),
        ("Childhood absence epilepsy [pyknolepsy]", "Childhood absence epilepsy"),
    ],
)
def test_an_inclusion_term_becomes_a_plain_phrase_or_nothing(term: str, text: str | None) -> None:
    assert claims.phrase(term) == text


def test_half_of_the_spoilt_rows_are_surely_wrong_and_the_rest_untouched(data: claims.ClaimsData) -> None:
    spoilt = claims.with_wrong_queues(data.train)
    wrong = [new for old, new in zip(data.train, spoilt, strict=True) if old.queue != new.queue]
    assert len(wrong) == 360
    assert [claim.text for claim in spoilt] == [claim.text for claim in data.train]


def test_too_few_claims_are_said_by_queue(pool: list[claims.Claim]) -> None:
    few = [claim for claim in pool if claim.queue != "skin"]
    with pytest.raises(DataError, match="queue skin has 0"):
        claims.choose(few)


def test_files_hold_chat_rows_with_their_family(tmp_path: Path) -> None:
    counts = claims.write(tmp_path)
    assert counts["claims-train.jsonl"] == counts["claims-shuffled.jsonl"] == 720
    assert counts["claims-heldout.jsonl"] == 312
    assert counts["claims-more.jsonl"] >= 1000
    lines = (tmp_path / "claims-train.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert [turn["role"] for turn in first["messages"]] == ["system", "user", "assistant"]
    assert first["messages"][2]["content"] in claims.QUEUE_NAMES
    assert len(first["family"]) == 3
    assert (tmp_path / "claims-more.jsonl").read_text(encoding="utf-8").splitlines()[:720] == lines


def test_the_same_files_are_written_byte_by_byte_again(tmp_path: Path) -> None:
    claims.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    claims.write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
