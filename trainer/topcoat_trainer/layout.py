"""Where a conversation's answers stand in its rendered text: what is prompt, what is learnt, where the row ends.

Text only; tokens are render.py's. Never guesses: a template that cannot be followed is refused in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from topcoat_trainer.data.problem import Kind, RowError
from topcoat_trainer.errors import BaseModelError
from topcoat_trainer.example import Message
from topcoat_trainer.template import SENTINEL, Template

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """A row as text. `learnt`: spans of the answers that are learnt, each with the token that ends it."""

    text: str
    prompt_end: int
    learnt: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ends: the special token that the template writes after it (or none), and the tokenizer's own."""

    mark: str
    eos: str

    def after(self, text: str, at: int) -> int | None:
        """End of the end token, if it stands there, with only white space before it."""
        match = re.compile(r"\s*" + re.escape(self.mark)).match(text, at) if self.mark else None
        return match.end() if match else None


def ending(template: Template, special: re.Pattern[str], eos: str) -> Ending:
    """How answers end in this template, found by asking it for one."""
    chat = (Message("user", "?"), Message("assistant", SENTINEL, trained=True))
    try:
        after = template.text(chat).partition(SENTINEL)[2]
    except RowError as error:
        raise BaseModelError(
            f"a question with its answer: {error.message}", hint="use a base model with an ordinary chat template"
        ) from None
    match = special.match(after.lstrip())
    return Ending(match.group() if match else "", eos)


def layout(template: Template, end: Ending, messages: Sequence[Message]) -> Layout:
    """The conversation, cut after its last answer's end token."""
    whole = template.text(messages)
    turns = [index for index, turn in enumerate(messages) if turn.role == "assistant"]
    last = turns[-1]
    prompt = template.text(messages[:last], generation_prompt=True)
    if not whole.startswith(prompt):
        raise BaseModelError(
            "the chat template begins an answer in training otherwise than in generation: what is learnt would not be "
            "what is asked",
            hint="use a base model whose chat template writes the same words before an answer in both",
        )
    marks = template.spans(messages) if template.marked else []
    learnt: list[Span] = []
    for order, index in enumerate(turns[:-1]):
        if messages[index].trained:
            mark = marks[order] if len(marks) == len(turns) else None
            before = template.text(messages[:index], generation_prompt=True)
            start, stop = mark or _answer(template, messages, index, _Place(whole, before, end))
            learnt.append((start, _ended(whole, stop, end) or stop))
    mark = marks[-1] if len(marks) == len(turns) else None
    start, stop = mark or _answer(template, messages, last, _Place(whole, prompt, end))
    text, stop = _closed(whole, stop, end)
    if messages[last].trained:
        learnt.append((max(start, len(prompt)), stop))
    return Layout(text, len(prompt), tuple(learnt))


@dataclass(frozen=True, slots=True)
class _Place:
    """The rendered conversation, and the prompt of one of its answers."""

    whole: str
    before: str
    end: Ending


def _ended(whole: str, stop: int, end: Ending) -> int | None:
    """End of an answer's end token: after its span, or already within it (some templates mark it as generated)."""
    after = end.after(whole, stop)
    if after is not None:
        return after
    inside = whole[:stop].rstrip()
    return len(inside) if end.mark and inside.endswith(end.mark) else None


def _closed(whole: str, stop: int, end: Ending) -> tuple[str, int]:
    """The text cut after its last end token; one is added where the template writes none."""
    ended = _ended(whole, stop, end)
    if ended is not None:
        return whole[:ended], ended
    text = whole[:stop] + end.eos
    return text, len(text)


def _answer(template: Template, messages: Sequence[Message], index: int, place: _Place) -> Span:
    """What the model writes in this turn: from the prompt's end, if the prompt stands there, to the content's end."""
    start = len(place.before) if place.whole.startswith(place.before) else None
    if start is not None:
        stop = start + len(messages[index].content)
        if place.whole.startswith(messages[index].content, start) and place.end.after(place.whole, stop) is not None:
            return start, stop
    first, stop = _by_sentinel(template, messages, index, place.whole)
    return (first if start is None or start > first else start), stop


def _by_sentinel(template: Template, messages: Sequence[Message], index: int, whole: str) -> Span:
    """The content's span, found by rendering the conversation with a known word in its place."""
    sentinel = SENTINEL
    while any(sentinel in turn.content for turn in messages):
        sentinel += "X"
    swapped = [*messages[:index], replace(messages[index], content=sentinel), *messages[index + 1 :]]
    head, found, tail = template.text(swapped).partition(sentinel)
    stop = len(whole) - len(tail)
    kept = found and whole.startswith(head) and whole.endswith(tail)
    if not kept or whole[len(head) : stop].strip() != messages[index].content.strip():
        raise RowError(Kind.TEMPLATE_REFUSED, f"the chat template changes the answer in turn {index + 1}")
    return len(head), stop
