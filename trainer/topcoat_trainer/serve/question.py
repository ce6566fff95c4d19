"""What a request asks of the model, in tokens: the version's own way of reading, the template, the limits.

The prompt is exactly what training and `ask` make of the same messages. Knows no HTTP; what cannot be asked is an
ApiError that never holds the text.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from topcoat_trainer.data.problem import RowError
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.example import Message
from topcoat_trainer.model_file import ModelFacts
from topcoat_trainer.render import Renderer
from topcoat_trainer.serve.engine import Sampling
from topcoat_trainer.serve.protocol import ApiError, Asked, ChatRequest, CompletionRequest

UNBOUNDED_CONTEXT_TOKENS = 1 << 20
# vLLM's. Logits divided by less overflow.
LEAST_TEMPERATURE = 0.01
GREEDY_BELOW = 1e-5
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Habit:
    """How a version was taught to read: its shared system prompt, and whether without a chat template."""

    system_prompt: str | None = None
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens, and its text where the answer shall repeat it."""

    ids: tuple[int, ...]
    text: str = ""


class Reader:
    """Turns requests into tokens, for one base model. Belongs to one thread."""

    def __init__(self, tokenizer: object, facts: ModelFacts) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._vocabulary = facts.vocabulary_size
        self.context = facts.max_positions or UNBOUNDED_CONTEXT_TOKENS
        self._renderer = Renderer(self._tokenizer, self.context)

    @property
    def end_ids(self) -> frozenset[int]:
        return self._renderer.end_ids

    def chat(self, asked: ChatRequest, habit: Habit) -> Prompt:
        """The conversation as the version learnt to read it, with its system prompt where the request has none."""
        messages = [Message(turn.role, turn.text) for turn in asked.messages]
        if habit.system_prompt and messages[0].role != "system":
            messages.insert(0, Message("system", habit.system_prompt))
        try:
            # The empty answer stands for what will follow: it is counted as a turn of the conversation.
            self._renderer.refuse_control_tokens([*messages, Message("assistant", "", trained=True)])
            ids = self._renderer.prompt(messages, raw_prompt=habit.raw)
        except (RowError, TrainerError) as error:
            raise ApiError(400, error.message, "invalid_messages", "messages") from None
        return Prompt(tuple(ids))

    def completion(self, asked: CompletionRequest) -> list[Prompt]:
        """Every prompt of the request, as it stands."""
        return [self._plain(prompt) for prompt in asked.prompts]

    def _plain(self, prompt: str | tuple[int, ...]) -> Prompt:
        if isinstance(prompt, str):
            ids = tuple(self._renderer.prompt([Message("user", prompt)], raw_prompt=True))
            if not ids:
                raise ApiError(400, "a prompt is empty", "invalid_value", "prompt")
            return Prompt(ids, prompt)
        if max(prompt) >= self._vocabulary:
            raise ApiError(400, f"the model knows tokens up to {self._vocabulary - 1}", "invalid_value", "prompt")
        text: str = self._tokenizer.decode(list(prompt))  # type: ignore[attr-defined]  # a tokenizer of transformers
        return Prompt(prompt, text)

    def labels(self, choices: Sequence[str]) -> list[list[int]]:
        """Tokens of each label, with what ends the turn."""
        try:
            return [self._renderer.completion(label) for label in choices]
        except (RowError, TrainerError) as error:
            raise ApiError(400, error.message, "invalid_value", "structured_outputs.choice") from None

    def sampling(self, asked: Asked, prompts: Sequence[Prompt]) -> Sampling:
        """How the answers are drawn; ApiError where they would not fit into the model's context."""
        longest = max(len(prompt.ids) for prompt in prompts)
        if isinstance(asked, ChatRequest):
            wanted, top = asked.most_tokens, asked.top
        elif isinstance(asked, CompletionRequest):
            wanted, top = asked.max_tokens, asked.logprobs
        else:
            raise TypeError(type(asked).__name__)
        room = self.context - longest
        if room < (1 if wanted is None else wanted):
            words = f"the prompt has {longest} tokens and {wanted or 1} are asked for; the model takes {self.context}"
            raise ApiError(400, words, "context_length_exceeded", _too_large(asked, room))
        return Sampling(
            max_tokens=room if wanted is None else wanted,
            temperature=_temperature(asked.temperature),
            top_p=asked.top_p,
            seed=asked.seed,
            stop=asked.stops,
            top=top,
        )


class Desk:
    """Where long texts are read, on a thread of its own: in the event loop they would keep all others waiting."""

    def __init__(self, tokenizer: object, facts: ModelFacts) -> None:
        self._reader = Reader(tokenizer, facts)
        self._thread = ThreadPoolExecutor(1, "desk")

    async def read(self, work: Callable[[Reader], Read]) -> Read:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._reader)


def _too_large(asked: Asked, room: int) -> str:
    """The field that would have to become smaller: the prompt itself, or the length of the answer."""
    if isinstance(asked, ChatRequest):
        if room < 1:
            return "messages"
        return "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
    return "prompt" if room < 1 else "max_tokens"


def _temperature(asked: float) -> float:
    return 0.0 if asked < GREEDY_BELOW else max(asked, LEAST_TEMPERATURE)
