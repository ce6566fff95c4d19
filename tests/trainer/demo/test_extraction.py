"""The extraction data can be solved from its text alone, and the held-out rows share no words with what was learnt."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from topcoat_trainer.demo import extraction, phrases

BANKS = [phrases.LEARN, phrases.JUDGE]


@pytest.mark.parametrize("bank", BANKS)
def test_every_value_stands_in_the_text(bank: phrases.Bank) -> None:
    for text, loss in extraction.examples(bank, 200, "any"):
        assert loss.claimant in text
        assert loss.policy in text
        assert str(loss.amount) in text.replace(",", "")
        year, _, day = loss.date.split("-")
        assert year in text
        assert str(int(day)) in text
        assert any(event.casefold() in text.casefold() for event in bank.perils[loss.peril])


@pytest.mark.parametrize("bank", BANKS)
def test_every_layout_names_every_part_once(bank: phrases.Bank) -> None:
    for layout in bank.layouts:
        assert all(layout.count("{" + part + "}") == 1 for part in ("name", "policy", "date", "event", "amount"))


def test_learning_and_judging_share_no_name_event_or_sentence() -> None:
    learn, judge = BANKS
    assert set(learn.perils) == set(judge.perils)
    for part in ("first_names", "last_names", "letters", "layouts"):
        assert not set(getattr(learn, part)) & set(getattr(judge, part)), part
    events = [{event for told in bank.perils.values() for event in told} for bank in BANKS]
    assert not events[0] & events[1]


def test_no_event_is_told_under_two_perils() -> None:
    for bank in BANKS:
        told = [event for events in bank.perils.values() for event in events]
        assert len(set(told)) == len(told)


def test_no_text_comes_twice_and_the_seed_decides() -> None:
    made = extraction.examples(phrases.LEARN, 400, "0/learn")
    assert len({text for text, _ in made}) == 400
    assert made == extraction.examples(phrases.LEARN, 400, "0/learn")
    assert made != extraction.examples(phrases.LEARN, 400, "1/learn")


def test_a_date_reads_the_same_on_a_machine_of_any_language() -> None:
    texts = [text for text, loss in extraction.examples(phrases.LEARN, 300, "any") if loss.date[5:7] == "05"]
    assert texts
    assert all("May" in text or "-05-" in text for text in texts)


def test_one_seed_gives_one_example() -> None:
    assert extraction.example(phrases.JUDGE, random.Random(1)) == extraction.example(phrases.JUDGE, random.Random(1))


def test_answers_are_json_with_the_keys_that_the_prompt_names(tmp_path: Path) -> None:
    assert extraction.write(tmp_path) == {"extraction-train.jsonl": 400, "extraction-heldout.jsonl": 100}
    for name in extraction.FILES:
        for line in (tmp_path / name).read_text(encoding="utf-8").splitlines():
            system, _, answer = (turn["content"] for turn in json.loads(line)["messages"])
            claim = json.loads(answer)
            assert list(claim) == ["claimant", "policy", "date", "peril", "amount"]
            assert all(key in system for key in claim)
