"""A tokenizer's chat template as text: rendered in transformers' sandbox, capped in size and time, the same every day.

Knows nothing of tokens or loss (render.py does). Never imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from topcoat_trainer.data.problem import Kind, RowError
from topcoat_trainer.deadline import TooSlow, deadline
from topcoat_trainer.errors import BaseModelError
from topcoat_trainer.example import Message

# Contents joined by blank lines, for a tokenizer without a template; each answer is followed by the end token.
PLAIN = (
    "{{ start }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)
TEMPLATE_LIMIT_CHARACTERS = 256 * 1024
RENDERED_LIMIT_CHARACTERS = 16 * 1024 * 1024
RENDER_SECONDS = 5.0
# Templates that write today's date would make yesterday's run another run.
FIXED_DATE = "26 Jul 2024"
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
SENTINEL = "TopcoatMarksThisTurn"


class Template:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._source = _source(tokenizer)
        self.plain = self._source is None
        self._tokens: dict[str, Any] = dict(tokenizer.special_tokens_map)
        self._tokens["start"] = first_token(tokenizer)
        self.marked = bool(self._source and GENERATION_MARK.search(self._source))
        self._takes_system = True
        self._takes_system = self.plain or self._shows_system()

    def text(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """The conversation as the base model was taught to read it."""
        return self._rendered(messages, generation_prompt)[0]

    def spans(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """What the template itself marks as the assistant's, one span per assistant turn."""
        return self._rendered(messages, generation_prompt=False)[1]

    def _rendered(self, messages: Sequence[Message], generation_prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        chat = [{"role": turn.role, "content": turn.content} for turn in self._arranged(messages)]
        render: Any = render_jinja_template
        _pin_date(self._source or PLAIN)
        try:
            with deadline(RENDER_SECONDS):
                texts, spans = render(
                    conversations=[chat],
                    chat_template=self._source or PLAIN,
                    return_assistant_tokens_mask=self.marked,
                    add_generation_prompt=generation_prompt,
                    date_string=FIXED_DATE,
                    **self._tokens,
                )
        except TooSlow:
            raise BaseModelError(
                f"the chat template ran for more than {RENDER_SECONDS:.0f} seconds",
                hint="use a base model whose chat template ends; it may be hostile",
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise BaseModelError(
                f"the chat template is not valid Jinja (line {error.lineno})",
                hint="use a base model with a whole template",
            ) from None
        except jinja2.exceptions.SecurityError:
            raise BaseModelError(
                "the chat template asks for what the sandbox forbids",
                hint="do not use this base model; it may be hostile",
            ) from None
        except (jinja2.TemplateError, TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise RowError(Kind.TEMPLATE_REFUSED, f"the chat template refuses the row{self._said(error)}") from None
        if len(texts[0]) > RENDERED_LIMIT_CHARACTERS:
            raise RowError(Kind.TEMPLATE_REFUSED, "the chat template makes the row too long")
        return texts[0], list(spans[0]) if self.marked else []

    def _said(self, error: Exception) -> str:
        """The template's own words, if they are constant: a computed message could hold a row's text."""
        words = str(error)
        constant = words and words in (self._source or "") and len(words) < 200
        return f" ({words})" if constant else ""

    def _arranged(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Templates without a system role get its text at the head of the first user turn."""
        if self._takes_system or not messages or messages[0].role != "system":
            return messages
        system, *rest = messages
        for index, turn in enumerate(rest):
            if turn.role == "user":
                return [*rest[:index], Message("user", f"{system.content}\n\n{turn.content}"), *rest[index + 1 :]]
        return rest

    def _shows_system(self) -> bool:
        try:
            return SENTINEL in self.text((Message("system", SENTINEL), Message("user", "?")), generation_prompt=True)
        except RowError:
            return False


def _source(tokenizer: Any) -> str | None:
    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    if source is not None and len(source) > TEMPLATE_LIMIT_CHARACTERS:
        raise BaseModelError(
            f"the chat template has {len(source):,} characters; {TEMPLATE_LIMIT_CHARACTERS:,} are allowed",
            hint="use a base model with an ordinary chat template",
        )
    return source or None


def first_token(tokenizer: Any) -> str:
    """The token that the tokenizer itself puts first, if it does."""
    ids = tokenizer("a").input_ids
    return (
        str(tokenizer.bos_token)
        if ids and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
        else ""
    )


def _pin_date(source: str) -> None:
    """Gives templates that ask for the clock a clock that stands still."""
    if "strftime_now" not in source:
        return
    from datetime import UTC, datetime

    from transformers.utils import chat_template_utils

    still = datetime.strptime(FIXED_DATE, "%d %b %Y").replace(tzinfo=UTC)
    compiled: Any = chat_template_utils._compile_jinja_template(source)  # noqa: SLF001 (no public way to set the clock)
    compiled.environment.globals["strftime_now"] = still.strftime
