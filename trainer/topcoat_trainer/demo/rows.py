"""One way to write the demo's rows: chat JSONL, whole files only, equal rows giving equal bytes. No tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from topcoat_trainer import files

ChatRow = dict[str, object]


def chat_row(system: str, user: str, assistant: str, **extra: str) -> ChatRow:
    """One row in the words of OpenAI's chat format; `extra` become columns of their own."""
    turns = (("system", system), ("user", user), ("assistant", assistant))
    return {"messages": [{"role": role, "content": content} for role, content in turns], **extra}


def write(path: Path, rows: Iterable[ChatRow]) -> int:
    """Writes JSONL and says how many rows it holds."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    files.write_bytes(path, "".join(line + "\n" for line in lines).encode())
    return len(lines)
