"""Turns of a conversation, as OpenAI, TRL and ShareGPT write them, made into Messages. Says what it cannot take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from topcoat_trainer.data.problem import Kind, RowError, column_names
from topcoat_trainer.example import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TOOL_ROLES = frozenset({"tool", "function", "ipython", "observation", "function_call"})
TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")
HIDDEN_KEYS = ("reasoning_content", "reasoning", "thinking", "audio", "refusal")


def turns(value: Any, name: str) -> tuple[Message, ...]:
    """A whole conversation that ends with an assistant's turn, at least one of them learnt."""
    messages = _messages(value, name)
    _check_order(messages)
    if not any(message.trained for message in messages):
        raise RowError(Kind.ALL_MASKED, "every assistant turn has weight 0: nothing is learnt from the row")
    return messages


def joined_turns(prompt: Any, completion: Any) -> tuple[Message, ...]:
    """TRL's conversational prompt and completion: nothing of the prompt is learnt."""
    before = tuple(replace(message, trained=False) for message in _messages(prompt, "prompt"))
    after = _messages(completion, "completion")
    if any(message.role != "assistant" for message in after):
        raise RowError(Kind.NO_ANSWER, "the completion must be assistant turns only")
    messages = before + after
    _check_order(messages)
    if not any(message.trained for message in messages):
        raise RowError(Kind.ALL_MASKED, "every assistant turn has weight 0: nothing is learnt from the row")
    return messages


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise RowError(Kind.WRONG_TYPE, f"{column_names([name])} must be a list of turns")
    if not value:
        raise RowError(Kind.NO_ASSISTANT_TURN, f"{column_names([name])} is an empty list")
    return tuple(_message(number, turn) for number, turn in enumerate(value, 1))


def _message(number: int, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise RowError(Kind.WRONG_TYPE, f"turn {number} is not an object with role and content")
    role = _role(number, turn)
    for key in TOOL_KEYS:
        if turn.get(key):
            raise RowError(Kind.TOOL_CALL, f"turn {number} has {key}; tool calls cannot be trained yet")
    for key in HIDDEN_KEYS:
        if turn.get(key):
            raise RowError(Kind.NOT_TEXT, f"turn {number} has {key}, which cannot be trained")
    content = text_of(
        turn["value"] if turn.get("content") is None and "value" in turn else turn.get("content"), f"turn {number}"
    )
    if not content.strip():
        raise RowError(Kind.EMPTY_TURN, f"turn {number} ({role}) is empty")
    return Message(role, content, trained=role == "assistant" and _weight(number, turn) == 1)


def _role(number: int, turn: Mapping[str, Any]) -> str:
    named = turn.get("role") if turn.get("role") is not None else turn.get("from")
    if not isinstance(named, str):
        raise RowError(Kind.UNKNOWN_ROLE, f"turn {number} has no role")
    if named in TOOL_ROLES:
        raise RowError(Kind.TOOL_CALL, f"turn {number} has the role {named}; tool calls cannot be trained yet")
    if named not in ROLES:
        raise RowError(Kind.UNKNOWN_ROLE, f"turn {number} has a role that is not system, user or assistant")
    return ROLES[named]


def _weight(number: int, turn: Mapping[str, Any]) -> int:
    weight = turn.get("weight")
    if weight is None:
        return 1
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight not in (0, 1):
        raise RowError(Kind.BAD_WEIGHT, f"the weight of turn {number} is not 0 or 1")
    return int(weight)


def text_of(value: Any, place: str) -> str:
    """Text as it is, or OpenAI's list of text parts joined."""
    if isinstance(value, str):
        return value
    where = place if place.startswith("turn ") else f"the field {column_names([place])}"
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in value):
            return "".join(part["text"] for part in value)
        raise RowError(Kind.NOT_TEXT, f"{where} has parts that are not text")
    if value is None:
        raise RowError(Kind.EMPTY_TURN, f"{where} has no content")
    raise RowError(Kind.WRONG_TYPE, f"{where} must be text")


def _check_order(messages: Sequence[Message]) -> None:
    if any(message.role == "system" for message in messages[1:]):
        raise RowError(Kind.SYSTEM_NOT_FIRST, "a system turn stands after the first turn")
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise RowError(Kind.NO_ASSISTANT_TURN, "no assistant turn: there is nothing to learn")
    if roles[-1] != "assistant":
        raise RowError(Kind.NO_ANSWER, f"the last turn ({roles[-1]}) is not the assistant's")
    if "user" not in roles:
        raise RowError(Kind.NO_USER_TURN, "no user turn: nothing is asked")
