"""The mounted alias files, read again and again: what changed since the last look. Decides nothing.

A ConfigMap's mount changes all its files at once by swapping a link, so every look reads the folder anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from topcoat.api.server import SERVER_FILE, AliasFile

LIMIT_BYTES = 1024 * 1024
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Change:
    """Alias files that are new or changed, and aliases whose file is gone."""

    written: list[AliasFile] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class Desired:
    """Follows one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, bytes] = {}
        self.broken: set[str] = set()
        """Files whose present content cannot be understood."""

    def look(self) -> Change:
        """What changed. A file that cannot be read or understood changes nothing: the last good one stays."""
        change = Change()
        try:
            names = {path.name for path in self._folder.iterdir() if path.suffix == ".json"}
        except OSError as error:
            log.warning("the folder of alias files cannot be read: %s", error.strerror)
            return change
        names = {name for name in names if name != SERVER_FILE and not name.startswith(".")}
        for name in sorted(names):
            file = self._changed(name)
            if file is not None:
                change.written.append(file)
        for name in sorted(self._seen.keys() - names):
            del self._seen[name]
            self.broken.discard(name)
            change.gone.append(name.removesuffix(".json"))
        return change

    def _changed(self, name: str) -> AliasFile | None:
        try:
            with (self._folder / name).open("rb") as opened:
                data = opened.read(LIMIT_BYTES + 1)
        except OSError:
            return None  # swapped away between listing and reading: the next look sees what came of it
        if self._seen.get(name) == data:
            return None
        self._seen[name] = data
        file = _parsed(name, data)
        (self.broken.add if file is None else self.broken.discard)(name)
        return file


def _parsed(name: str, data: bytes) -> AliasFile | None:
    if len(data) > LIMIT_BYTES:
        log.error("%s is larger than %d bytes and is not followed", name, LIMIT_BYTES)
        return None
    try:
        file = AliasFile.model_validate_json(data)
    except pydantic.ValidationError as error:
        field_name = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        log.error("%s: %s cannot be understood; the last good one stays in force", name, field_name)  # noqa: TRY400
        return None
    if f"{file.alias}.json" != name:
        log.error("%s tells of another alias, %s, and is not followed", name, file.alias)
        return None
    return file
