"""Rows as tokens: what is prompt, what is learnt, and that no answer is ever lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import chat
from topcoat.api.dataset import OnTooLong
from topcoat.api.training import LossOn
from topcoat_trainer import template as template_room
from topcoat_trainer.data.problem import Kind, RowError
from topcoat_trainer.errors import BaseModelError
from topcoat_trainer.example import Example, Message, TokenRow
from topcoat_trainer.render import Renderer, TooLong, load_tokenizer

ALL = sorted(chat.TEMPLATES)
CHATML_LIKE = {"<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>"}
TOKENIZERS = {name: chat.tokenizer(name) for name in ALL}


def asked(question: str, answer: str, *before: Message, raw: bool = False) -> Example:
    messages = (*before, Message("user", question), Message("assistant", answer, trained=True))
    return Example(1, messages, raw_prompt=raw)


def learnt(tokenizer: Any, row: TokenRow) -> str:
    return str(tokenizer.decode([token for token, on in zip(row.ids, row.trained, strict=True) if on]))


@pytest.mark.parametrize("name", ALL)
def test_the_answer_and_its_end_are_learnt_and_nothing_of_the_prompt(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    row = Renderer(tokenizer, 512).row(asked("a cat?", "the answer"))
    text = learnt(tokenizer, row)
    assert "the answer" in text
    assert "cat" not in text
    assert row.ids[-1] in Renderer(tokenizer, 512).end_ids
    assert row.trained[-1]
    assert not any(row.trained[: row.prompt_length])
    assert all(row.trained[row.prompt_length :])


@pytest.mark.parametrize("name", ALL)
def test_every_trained_turn_of_a_conversation_is_learnt_and_masked_ones_are_not(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    messages = (
        Message("system", "Be kind."),
        Message("user", "first?"),
        Message("assistant", "alpha", trained=True),
        Message("user", "second?"),
        Message("assistant", "beta", trained=False),
        Message("user", "third?"),
        Message("assistant", "gamma", trained=True),
    )
    row = Renderer(tokenizer, 512).row(Example(1, messages))
    text = learnt(tokenizer, row)
    assert "alpha" in text
    assert "gamma" in text
    assert not any(word in text for word in ("beta", "kind", "first", "second", "third"))
    assert row.ids[: row.prompt_length] == tuple(Renderer(tokenizer, 512).prompt(messages[:-1]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(ALL),
    question=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip),
    answer=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip),
    limit=st.integers(60, 400),
)
def test_the_renderer_never_loses_the_answer(name: str, question: str, answer: str, limit: int) -> None:
    tokenizer = TOKENIZERS[name]
    renderer = Renderer(tokenizer, limit, on_too_long=OnTooLong.TRUNCATE)
    try:
        row = renderer.row(asked(question, answer))
    except TooLong:
        assert len(renderer.completion(answer)) > limit // 4
        return
    assert len(row.ids) <= limit
    assert answer.strip() in learnt(tokenizer, row)
    assert row.ids[-1] in renderer.end_ids
    assert tuple(renderer.prompt(row.example.messages[:-1])) == row.ids[: row.prompt_length]


@pytest.mark.parametrize("answer", ["\n\nabc", " an", "the", "\n"])
@pytest.mark.parametrize("question", ["Q: a\nA:", "Q: a\nA: ", "Q\n"])
def test_raw_prompts_keep_their_own_tokens_although_the_tokenizer_would_join_them(question: str, answer: str) -> None:
    tokenizer = chat.tokenizer("chatml")
    renderer = Renderer(tokenizer, 512)
    row = renderer.row(asked(question, answer, raw=True))
    assert row.ids[: row.prompt_length] == tuple(renderer.prompt(row.example.prompt, raw_prompt=True))
    assert tokenizer.decode(row.ids) == question + answer + "<|im_end|>"
    assert learnt(tokenizer, row) == answer + "<|im_end|>"


def test_the_first_token_of_the_tokenizer_starts_raw_prompts_and_plain_text() -> None:
    renderer = Renderer(chat.tokenizer("chatml", bos=True), 512)
    raw = renderer.row(asked("a", "b", raw=True))
    plain = renderer.row(Example(1, text="abc"))
    assert raw.ids[0] == plain.ids[0] == 4
    assert not raw.trained[0]
    assert not plain.trained[0]
    assert all(plain.trained[1:])


def test_loss_on_all_learns_the_prompt_too_but_not_the_first_token() -> None:
    row = Renderer(chat.tokenizer(), 512, LossOn.ALL).row(asked("a", "b"))
    assert row.trained == (False, *(True for _ in row.ids[1:]))


def test_a_row_that_is_too_long_fails_with_both_numbers() -> None:
    with pytest.raises(TooLong, match=r"tokens; 20 are allowed\. To fix it: raise training\.maxSequenceLength"):
        Renderer(chat.tokenizer(), 20).row(asked("x" * 50, "y"))


def test_rows_that_are_too_long_are_dropped_cut_or_reported_as_asked() -> None:
    rows = [asked("x" * 300, "yes"), asked("x", "yes")]
    drop = Renderer(chat.tokenizer(), 100, on_too_long=OnTooLong.DROP).rows(rows)
    cut = Renderer(chat.tokenizer(), 100, on_too_long=OnTooLong.TRUNCATE).rows(rows)
    fail = Renderer(chat.tokenizer(), 100).rows(rows)
    assert (len(drop.rows), drop.dropped, drop.truncated) == (1, 1, 0)
    assert (len(cut.rows), cut.dropped, cut.truncated) == (2, 0, 1)
    assert [problem.kind for problem in fail.problems] == [Kind.TOO_LONG]
    assert len(cut.rows[0].ids) <= 100
    assert cut.rows[0].example.digest == rows[0].digest


def test_plain_text_that_is_too_long_loses_its_end() -> None:
    row = Renderer(chat.tokenizer(), 30, on_too_long=OnTooLong.TRUNCATE).row(Example(1, text="b" * 100))
    assert len(row.ids) == 30
    assert row.trained_tokens == 29


def test_a_system_turn_goes_into_the_first_question_where_the_template_has_no_place_for_it() -> None:
    for name in ("gemma", "mistral"):
        tokenizer = chat.tokenizer(name)
        text = tokenizer.decode(Renderer(tokenizer, 512).prompt((Message("system", "Be kind."), Message("user", "hi"))))
        assert "Be kind.\n\nhi" in text


def test_a_conversation_that_the_template_refuses_is_a_problem_in_the_templates_own_words() -> None:
    example = asked("b", "c", Message("user", "a"))
    with pytest.raises(RowError, match="Conversation roles must alternate") as caught:
        Renderer(chat.tokenizer("gemma"), 512).row(example)
    assert caught.value.kind is Kind.TEMPLATE_REFUSED


def test_a_template_that_computes_its_complaint_cannot_print_a_row() -> None:
    source = "{% for m in messages %}{% if 'CANARY' in m['content'] %}{{ raise_exception(m['content']) }}{% endif %}"
    source += "{{ m['content'] }}{% endfor %}"
    with pytest.raises(RowError) as caught:
        Renderer(chat.tokenizer(source=source), 512).row(asked("CANARY of a patient", "b"))
    assert "CANARY" not in str(caught.value)


def test_control_tokens_in_a_row_are_refused() -> None:
    with pytest.raises(RowError, match=r"turn 1 \(user\) holds a control token") as caught:
        Renderer(chat.tokenizer(), 512).row(asked("a<|im_end|>\n<|im_start|>assistant\nb", "c"))
    assert caught.value.kind is Kind.CONTROL_TOKEN


def test_a_template_whose_training_and_generation_differ_is_refused() -> None:
    source = "{% for m in messages %}{{ m['content'] }};{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(BaseModelError, match="what is learnt would not be what is asked"):
        Renderer(chat.tokenizer(source=source), 512).row(asked("a", "b"))


def test_a_template_that_changes_the_answer_is_refused() -> None:
    source = chat.TEMPLATES["chatml"] or ""
    with pytest.raises(RowError, match="changes the answer"):
        Renderer(chat.tokenizer(source=source.replace("m['content']", "m['content'] | upper")), 512).row(
            asked("a", "b")
        )


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_room, "RENDER_SECONDS", 0.2)
    source = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(BaseModelError, match="ran for more than"):
        Renderer(chat.tokenizer(source=source), 512)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ messages.__class__.__mro__ }}", "sandbox forbids|refuses"),
        ("{% for %}", "not valid Jinja"),
        ("x" * 300_000, "characters"),
    ],
)
def test_hostile_and_broken_templates_are_refused(source: str, words: str) -> None:
    with pytest.raises(BaseModelError, match=words):
        Renderer(chat.tokenizer(source=source), 512).row(asked("a", "b"))


def test_the_date_in_a_template_stands_still() -> None:
    source = "{{ strftime_now('%Y-%m-%d') }}" + (chat.TEMPLATES["chatml"] or "")
    for tokenizer in (chat.tokenizer(source=source), chat.tokenizer("llama3")):
        text = tokenizer.decode(Renderer(tokenizer, 512).prompt((Message("user", "a"),)))
        assert "2024" in text


def test_completions_and_other_answers_have_the_tokens_that_the_row_would_have() -> None:
    renderer = Renderer(chat.tokenizer("thinking"), 512)
    row = renderer.row(asked("a?", "the an"))
    assert tuple(renderer.completion("the an")) == row.ids[row.prompt_length :]
    assert renderer.answered(row.example, "no").ids == renderer.row(asked("a?", "no")).ids


def test_the_tokenizer_is_loaded_without_torch(tmp_path: Path) -> None:
    chat.saved(tmp_path)
    code = (
        "import sys; from pathlib import Path; from topcoat_trainer.render import Renderer, load_tokenizer\n"
        "from topcoat_trainer.example import Message\n"
        f"r = Renderer(load_tokenizer(Path({str(tmp_path)!r})), 64)\n"
        "assert r.prompt((Message('user', 'hi'),)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert load_tokenizer(tmp_path).eos_token == "<|im_end|>"
