"""A base model's JSON files: read with care, searched for keys that import code, and understood as far as needed.

Never imports torch or transformers: these files are judged before any library acts on them.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topcoat_trainer.errors import BaseModelError

LIMIT_BYTES = 256 * 1024 * 1024
FETCH_HINT = "fetch the model again, whole; compare the file's size with the publisher's"

# Each of these makes a library import, download or build code that is not ours.
CODE_KEYS = frozenset({
    "auto_map", "_auto_map", "custom_pipelines", "custom_generate", "trust_remote_code",
    "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
    "_experts_implementation", "_experts_implementation_internal",
    "kernel_config", "use_kernels", "fusion_config", "distributed_config",
})  # fmt: skip
# Public spellings: harmless with a built-in name, code when they name a repository.
CHOICE_KEYS = frozenset({"attn_implementation", "experts_implementation"})
BUILT_IN = frozenset({
    "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "batched_mm", "grouped_mm",
})  # fmt: skip

NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "vocabulary_size": ("vocab_size", "n_vocab"),
    "attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
}
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes that everybody asks for. 0: the file leaves it to its family's default."""

    layers: int
    hidden_size: int
    vocabulary_size: int
    attention_heads: int
    max_positions: int


def read(path: Path) -> dict[str, Any]:
    """A JSON object, or BaseModelError with the line where the file breaks."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT_BYTES:
        raise BaseModelError("not a JSON file of sensible size", where=str(path), hint=FETCH_HINT)
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise BaseModelError(f"not valid JSON (line {error.lineno})", where=str(path), hint=FETCH_HINT) from error
    except (ValueError, RecursionError) as error:
        raise BaseModelError("not valid JSON", where=str(path), hint=FETCH_HINT) from error
    if not isinstance(content, dict):
        raise BaseModelError("not a JSON object", where=str(path), hint=FETCH_HINT)
    return content


def refuse_code(path: Path, content: dict[str, Any]) -> None:
    """Refuses keys, at any depth, with which a configuration file would run code or change the weights' format."""
    for key, value in _pairs(content):
        if (key in CODE_KEYS and value not in (None, False)) or (key in CHOICE_KEYS and not _is_built_in(value)):
            raise BaseModelError(
                f"the key {key!r} would run code that is not part of the libraries",
                where=str(path),
                hint=f"use a model that the libraries know by themselves, or take {key!r} out if it is not needed",
            )
        if key in ("quantization_config", "compression_config") and value:
            method = str(value.get("quant_method", "an unknown method"))[:40] if isinstance(value, dict) else "?"
            raise BaseModelError(
                f"the weights are stored quantised ({method})",
                where=str(path),
                hint="use the model's unquantised release; method.type QLoRA quantises it itself",
            )


def _pairs(content: Any) -> Iterator[tuple[str, Any]]:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _is_built_in(value: Any) -> bool:
    choices = value.values() if isinstance(value, dict) else [value]
    return all(choice is None or (isinstance(choice, str) and choice in BUILT_IN) for choice in choices)


def dimensions(path: Path, config: dict[str, Any]) -> Dimensions:
    """The text model's sizes, under whatever names its family uses."""
    text: dict[str, Any] = next(
        (config[k] for k in ("text_config", "llm_config") if isinstance(config.get(k), dict)), {}
    )
    sizes = {field: _number(names, text, config) for field, names in NAMES.items()}
    for field in ("layers", "hidden_size"):
        if not sizes[field]:
            raise BaseModelError(
                f"{NAMES[field][0]} is not given as a number above 0",
                where=str(path),
                hint="use the config.json that was published with the weights",
            )
    return Dimensions(**sizes, max_positions=_number(POSITIONS, text, config))


def _number(names: tuple[str, ...], *tables: dict[str, Any]) -> int:
    for table in tables:
        for name in names:
            value = table.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0


def highest_token(path: Path) -> int:
    """The highest token id of a tokenizer.json."""
    content = read(path)
    ids: list[int] = [-1]
    try:
        words = (content.get("model") or {}).get("vocab") or {}
        ids += [len(words) - 1] if isinstance(words, list) else words.values()
        ids += [entry["id"] for entry in content.get("added_tokens") or []]
        return max(int(number) for number in ids)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BaseModelError("not a tokenizer of the libraries' format", where=str(path), hint=FETCH_HINT) from error
