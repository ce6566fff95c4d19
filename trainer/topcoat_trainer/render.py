"""A checked row as tokens: which of them are the prompt, and on which loss is taken. One code for training and judging.

The prompt's tokens are exactly what `prompt` gives, so that a model is judged on what it was taught. The answer and
the token that ends it are never lost. Never imports torch; works with any tokenizer of transformers that has offsets.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from topcoat.api.dataset import OnTooLong
from topcoat.api.training import LossOn
from topcoat_trainer.data.problem import Kind, Problem, RowError
from topcoat_trainer.errors import BaseModelError
from topcoat_trainer.example import Example, Message, TokenRow
from topcoat_trainer.layout import Layout, ending, layout
from topcoat_trainer.template import Template, first_token

CUT_ROUNDS = 8
CUT_MARGIN_TOKENS = 2


class TooLong(RowError):
    """A row longer than the limit, where it may not be cut."""

    def __init__(self, tokens: int, limit: int, what: str = "the row") -> None:
        super().__init__(Kind.TOO_LONG, f"{what} has {tokens:,} tokens; {limit:,} are allowed")
        self.tokens = tokens


@dataclass(frozen=True, slots=True)
class Rendered:
    """All rows of a data set as tokens. Rows that cannot be rendered are problems; `dropped` counts OnTooLong.DROP."""

    rows: tuple[TokenRow, ...]
    problems: tuple[Problem, ...]
    truncated: int
    dropped: int


def load_tokenizer(path: Path) -> Any:
    """The base model's tokenizer as its tokenizer.json says, without importing torch (AutoTokenizer would)."""
    if not (
        path / "tokenizer.json"
    ).is_file():  # vocab.json and merges.txt alone: only the model's own class knows more
        from transformers import AutoTokenizer

        chosen: Any = AutoTokenizer
        return chosen.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    backend: Any = TokenizersBackend
    return backend.from_pretrained(str(path), local_files_only=True)


def limit(wanted: int, model_positions: int) -> int:
    """Tokens of a row at most: training.maxSequenceLength, or the model's positions (0: unknown) if they are fewer."""
    return min(wanted, model_positions) if model_positions else wanted


class Renderer:
    """Rows to tokens for one tokenizer and one limit.

    A tokenizer without a chat template gets the contents joined by blank lines, then the answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        loss_on: LossOn = LossOn.COMPLETION,
        on_too_long: OnTooLong = OnTooLong.FAIL,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise BaseModelError(
                "the tokenizer has no end token", hint="use a base model whose tokenizer_config.json has one"
            )
        self._tokenizer = tokenizer
        self._limit = max_length
        self._loss_on = loss_on
        self._on_too_long = on_too_long
        self._template = Template(tokenizer)
        self._special = _special_tokens(tokenizer)
        self._end = ending(self._template, self._special, str(tokenizer.eos_token))
        self._bos = [tokenizer.bos_token_id] if first_token(tokenizer) else []

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: generation stops at them."""
        marks = [self._tokenizer.convert_tokens_to_ids(self._end.mark)] if self._end.mark else []
        return frozenset({self._tokenizer.eos_token_id, *marks})

    def prompt(self, messages: Sequence[Message], *, raw_prompt: bool = False) -> list[int]:
        """Tokens up to where the answer begins."""
        if raw_prompt:
            return self._bos + self._encode("".join(turn.content for turn in messages))[0]
        return self._encode(self._template.text(messages, generation_prompt=True))[0]

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (a renderer lives as long as the process)
    def completion(self, text: str) -> list[int]:
        """Tokens of an answer after any prompt of the chat template, with the token that ends it."""
        row = self._chat(Example(0, (Message("user", "?"), Message("assistant", text, trained=True))))
        return list(row.ids[row.prompt_length :])

    def answered(self, example: Example, answer: str) -> TokenRow:
        """The same row with another answer, whatever its length: what constrained choice scores."""
        last = replace(example.messages[-1], content=answer, trained=True)
        return self._tokens(replace(example, messages=(*example.messages[:-1], last)))

    def row(self, example: Example) -> TokenRow:
        """The row as tokens, within the limit; TooLong where it must not be cut."""
        made = self._tokens(example)
        if len(made.ids) <= self._limit:
            return made
        if self._on_too_long is not OnTooLong.TRUNCATE:
            raise TooLong(len(made.ids), self._limit)
        return self._cut(made)

    def rows(self, examples: Iterable[Example], *, show_rows: bool = False) -> Rendered:
        """Every row that can be rendered, and why the others cannot."""
        rows: list[TokenRow] = []
        problems: list[Problem] = []
        truncated = dropped = 0
        for example in examples:
            try:
                row = self.row(example)
            except TooLong as error:
                if self._on_too_long is OnTooLong.DROP:
                    dropped += 1
                else:
                    problems.append(error.problem(example.row, example.completion if show_rows else None))
            except RowError as error:
                problems.append(error.problem(example.row, example.completion if show_rows else None))
            else:
                truncated += row.example is not example
                rows.append(row)
        return Rendered(tuple(rows), tuple(problems), truncated, dropped)

    def _tokens(self, example: Example) -> TokenRow:
        if example.text is not None:
            return self._plain_text(example)
        self.refuse_control_tokens(example.messages)
        return self._raw(example) if example.raw_prompt else self._chat(example)

    def _plain_text(self, example: Example) -> TokenRow:
        ids = [*self._bos, *self._encode(example.text or "")[0], self._tokenizer.eos_token_id]
        # Nothing comes before the first token from which it could be predicted.
        return TokenRow(tuple(ids), (False, *(True for _ in ids[1:])), 0, example)

    def _raw(self, example: Example) -> TokenRow:
        prompt = "".join(turn.content for turn in example.prompt)
        text = prompt + example.completion
        row = self._laid_out(Layout(text, len(prompt), ((len(prompt), len(text)),)), example, self._bos)
        return replace(row, ids=(*row.ids, self._tokenizer.eos_token_id), trained=(*row.trained, True))

    def _chat(self, example: Example) -> TokenRow:
        return self._laid_out(layout(self._template, self._end, example.messages), example, [])

    def _laid_out(self, made: Layout, example: Example, head: list[int]) -> TokenRow:
        """Tokens of a layout, split at the prompt's end even where the tokenizer would join both sides."""
        prompt_ids, prompt_offsets = self._encode(made.text[: made.prompt_end])
        ids, offsets = self._encode(made.text)
        split = len(prompt_ids)
        if ids[:split] != prompt_ids or (split < len(ids) and offsets[split][0] < made.prompt_end):
            rest, places = self._encode_inside(made.text[made.prompt_end :])
            ids = prompt_ids + rest
            offsets = prompt_offsets + [(start + made.prompt_end, stop + made.prompt_end) for start, stop in places]
        trained = [True] * len(ids) if self._loss_on is LossOn.ALL else _in_spans(offsets, made.learnt)
        flags = [False] * len(head) + trained
        flags[0] = False
        return TokenRow((*head, *ids), tuple(flags), len(head) + split, example)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        made = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(made["input_ids"]), list(made["offset_mapping"])

    def _encode_inside(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of a piece that does not start a text: no space is put before it (SentencePiece would)."""
        newline, _ = self._encode("\n")
        ids, offsets = self._encode("\n" + text)
        if ids[: len(newline)] == newline and (len(ids) == len(newline) or offsets[len(newline)][0] >= 1):
            return ids[len(newline) :], [(start - 1, stop - 1) for start, stop in offsets[len(newline) :]]
        return self._encode(text)

    def _cut(self, row: TokenRow) -> TokenRow:
        """The row within the limit: plain text loses its end, others the end of the longest turn of the prompt."""
        example = row.example
        if example.text is not None:
            return TokenRow(row.ids[: self._limit], row.trained[: self._limit], 0, replace(example))
        answer_tokens = len(row.ids) - row.prompt_length
        made = row
        for _ in range(CUT_ROUNDS):
            excess = len(made.ids) - self._limit
            if excess <= 0:
                return made
            shorter = self._shortened(made.example, excess + CUT_MARGIN_TOKENS)
            if shorter is None:
                break
            made = self._tokens(shorter)
        raise TooLong(answer_tokens, self._limit, "the answer with the least prompt around it")

    def _shortened(self, example: Example, excess_tokens: int) -> Example | None:
        """The example with its longest prompt turn cut by so many tokens; None if nothing is left to cut."""
        sizes = [len(self._encode(turn.content)[0]) if turn.role != "system" else 0 for turn in example.prompt]
        if not sizes or max(sizes) <= 1:
            return None
        index = sizes.index(max(sizes))
        turn = example.messages[index]
        _, offsets = self._encode(turn.content)
        kept = max(1, len(offsets) - excess_tokens)
        cut = turn.content[: offsets[kept - 1][1]]
        if example.raw_prompt:  # the words next to the answer ("A:") say what is asked
            cut = turn.content[offsets[len(offsets) - kept][0] :]
        messages = (*example.messages[:index], replace(turn, content=cut), *example.messages[index + 1 :])
        return replace(example, messages=messages)

    def refuse_control_tokens(self, messages: Sequence[Message]) -> None:
        """RowError where a turn holds text that would become one of the template's own marks."""
        for number, turn in enumerate(messages, 1):
            if self._special.search(turn.content):
                raise RowError(
                    Kind.CONTROL_TOKEN, f"turn {number} ({turn.role}) holds a control token of the base model"
                )


def _in_spans(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token touches one of the spans (sorted, apart)."""
    starts = [start for start, _ in spans]
    places = ((bisect_left(starts, stop) - 1, start) for start, stop in offsets)
    return [place >= 0 and start < spans[place][1] for place, start in places]


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    names = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    names |= {str(token) for token in tokenizer.all_special_tokens}
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or "(?!)")
