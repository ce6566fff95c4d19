"""What one row of a data set is, before and after it becomes tokens. No file, no tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `trained`: whether loss may be taken on it (an assistant's turn whose `weight` is not 0)."""

    role: str
    content: str
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One row: either `messages` (the last one is the assistant's) or plain `text`, never both.

    `row` is the 1-based row (line) in its file. `label` is set for classification data. `group` ties rows that
    must not straddle the split. `digest` is the SHA-256 (hex) of the normalised content, without row and group.
    `raw_prompt` marks prompt/completion rows, whose two messages are joined as they are, without a chat template.
    """

    row: int
    messages: tuple[Message, ...] = ()
    text: str | None = None
    label: str | None = None
    group: str | None = None
    digest: str = ""
    raw_prompt: bool = False

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last answer."""
        return self.messages[:-1]

    @property
    def completion(self) -> str:
        """The last answer; for plain text, the whole text."""
        return self.messages[-1].content if self.messages else self.text or ""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A rendered row. `trained[i]`: loss is taken on token i. The first `prompt_length` tokens are the prompt."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    prompt_length: int
    example: Example

    @property
    def trained_tokens(self) -> int:
        return sum(self.trained)

    @property
    def read_tokens(self) -> int:
        """Tokens up to the last from which something is predicted. What follows changes no loss."""
        return next((place for place in range(len(self.ids) - 1, 0, -1) if self.trained[place]), 0)
