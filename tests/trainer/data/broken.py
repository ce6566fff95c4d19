"""What a broken data file is in the corpus, and the pieces it is made of. Every file holds the canary.

Files that are binary or large are made here, so that the repository holds neither.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CANARY = "Xanthippe-Quux-4711 broke her left wrist"


@dataclass(frozen=True)
class Broken:
    """`says`: parts of the message; `fix`: part of the hint; `row`: first bad row (0: the whole file)."""

    name: str
    data: bytes
    says: tuple[str, ...]
    fix: str
    row: int = 0
    spec: dict[str, Any] = field(default_factory=dict)
    evaluation: bytes | None = None


def chat(question: str = CANARY, answer: str = "yes", **extra: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **extra}


def turns(*pairs: tuple[str, Any], **extra: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content, **extra} for role, content in pairs]}


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def good(count: int = 30) -> list[dict[str, Any]]:
    return [chat(f"{CANARY} {number}", f"answer {number}") for number in range(count)]


def among(bad: Any, at: int = 7, count: int = 30) -> bytes:
    """Good rows with a bad one at row `at`, as an object or as raw bytes."""
    rows = [json.dumps(row).encode() for row in good(count)]
    rows[at - 1] = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    return b"\n".join(rows) + b"\n"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet as writer

    buffer = io.BytesIO()
    writer.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def labelled(count: int, *labels: str) -> list[dict[str, str]]:
    return [{"text": f"{CANARY} {number}", "label": labels[number % len(labels)]} for number in range(count)]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


PROMPTS = [{"prompt": f"{CANARY} {number}?", "completion": f"c{number}"} for number in range(30)]
ZIPPED = gzip.compress(jsonl(*good(3000)))
CSV = b"text,label\n" + b"".join(f'"{CANARY}, {n}",a{n % 2}\n'.encode() for n in range(30))
CHATS = {"format": "Chat"}

ACCEPTED: dict[str, Callable[[], bytes]] = {
    "bom.jsonl": lambda: b"\xef\xbb\xbf" + jsonl(*good(60)),
    "crlf.jsonl": lambda: jsonl(*good(60)).replace(b"\n", b"\r\n"),
    "blank_lines.jsonl": lambda: jsonl(*good(60)).replace(b"\n", b"\n\n"),
    "no_last_newline.jsonl": lambda: jsonl(*good(60)).rstrip(b"\n"),
    "zipped.jsonl.gz": lambda: gzip.compress(jsonl(*good(60))),
    "array.json": lambda: json.dumps(good(60), indent=2).encode(),
    "bom.csv": lambda: b"\xef\xbb\xbf" + CSV + CSV.split(b"\n", 1)[1].replace(b"wrist", b"ankle"),
    "crlf.csv": lambda: (CSV + CSV.split(b"\n", 1)[1].replace(b"wrist", b"ankle")).replace(b"\n", b"\r\n"),
    "good.parquet": lambda: parquet(good(60)),
}
