"""Who answers to which name: what each alias asks for, what is in force, and which version a request gets.

Kept in memory and changed between two requests at once. Knows no file, no HTTP and no engine; what is proved, it is
told. A name that a client sends is only ever looked up here.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from topcoat.api.server import AliasFile, HeldAlias, WantedVersion

SHARE_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Tag:
    """One sealed version. `name` is for people and clients; `key` is never used twice for other weights."""

    job: str
    version: str
    digest: str

    @property
    def name(self) -> str:
        return f"{self.job}--{self.version}"

    @property
    def key(self) -> str:
        return f"{self.name}-{self.digest.removeprefix('sha256:')[:16]}"


@dataclass(frozen=True, slots=True)
class InForce:
    """An alias as it answers now: the file that it follows, and each version's share."""

    file: AliasFile
    shares: tuple[tuple[Tag, int], ...]


class Unknown(Exception):
    """Nobody answers to this name."""


class NotYet(Exception):
    """The name is an alias whose versions are not proved here yet."""


class Table:
    """All aliases of a server."""

    def __init__(self, base_name: str) -> None:
        self._base_name = base_name
        self._asked: dict[str, AliasFile] = {}
        self._force: dict[str, InForce] = {}
        self._floor: dict[str, int] = {}

    def follow(self, file: AliasFile) -> bool:
        """Whether this says something newer than all that was said of the alias before."""
        known = self._asked.get(file.alias)
        floor = max(known.generation if known else 0, self._floor.get(file.alias, 0))
        if file.generation <= floor:
            return False
        self._asked[file.alias] = file
        return True

    def drop(self, alias: str) -> None:
        """The alias is gone; what was said of it up to now is not listened to again."""
        gone = self._asked.pop(alias, None)
        self._force.pop(alias, None)
        if gone is not None:
            self._floor[alias] = gone.generation

    def forget(self, alias: str) -> None:
        """The alias is gone from the mounted files, too: if it comes again, it may count from one."""
        self.drop(alias)
        self._floor.pop(alias, None)

    def wanted(self) -> dict[Tag, WantedVersion]:
        """All that must be here, what answers or is to answer first."""
        found: dict[Tag, WantedVersion] = {}
        for entry in self._force.values():
            found |= {tag: wanted for tag, wanted in _versions(entry.file) if tag in dict(entry.shares)}
        for file in self._asked.values():
            named = {target.version for target in file.targets}
            found |= {tag: wanted for tag, wanted in _versions(file) if wanted.version in named}
        for file in self._asked.values():
            found |= dict(_versions(file))
        return found

    def settle(self, proved: Callable[[Tag], bool]) -> list[InForce]:
        """Puts in force what asks for proved versions only. Returns what changed."""
        changed = []
        for alias, file in self._asked.items():
            entry = self._force.get(alias)
            if entry is not None and entry.file.generation == file.generation:
                continue
            shares = _shares(file)
            if shares is not None and all(proved(tag) for tag, _ in shares):
                self._force[alias] = InForce(file, shares)
                changed.append(self._force[alias])
        return changed

    def settled(self) -> bool:
        """Whether every alias answers as it is asked to."""
        return all(
            alias in self._force and self._force[alias].file.generation == file.generation
            for alias, file in self._asked.items()
        )

    def route(self, model: str, person: str | None, proved: Callable[[Tag], bool]) -> Tag | None:
        """Who answers to a client's model name; None: the base model. An alias comes before all else of its name.

        The same person stays with one version of a weighted alias.
        """
        if model in self._asked:
            return self._answering(model, person)
        tag = self._named(model, proved)
        if tag is None and model != self._base_name:
            raise Unknown
        return tag

    def token_files(self, model: str, proved: Callable[[Tag], bool]) -> tuple[str | None, ...]:
        """Each opens the model; None: open to all. Whoever may call an alias may call its versions and the base."""
        if model in self._asked:
            return (self._asked[model].token_file,)
        tag = self._named(model, proved)
        if tag is not None:
            return tuple(file.token_file for file in self._asked.values() if tag in self._of(file))
        if model != self._base_name:
            raise Unknown
        return tuple(file.token_file for file in self._asked.values()) or (None,)

    def _named(self, model: str, proved: Callable[[Tag], bool]) -> Tag | None:
        return next((tag for tag in self.wanted() if tag.name == model and proved(tag)), None)

    def _of(self, file: AliasFile) -> set[Tag]:
        """The versions that an alias wants, and those that answer to it still."""
        entry = self._force.get(file.alias)
        return {tag for tag, _ in _versions(file)} | {tag for tag, _ in (entry.shares if entry else ())}

    def _answering(self, alias: str, person: str | None) -> Tag:
        entry = self._force.get(alias)
        if entry is None and self._asked[alias].targets:
            raise NotYet
        if entry is None or not entry.shares:
            raise Unknown
        return _drawn(entry, person)

    def in_force(self) -> Iterator[InForce]:
        yield from self._force.values()

    def state(self) -> tuple[HeldAlias, ...]:
        return tuple(
            HeldAlias(
                alias=alias, job=entry.file.job, generation=entry.file.generation, targets=entry.file.targets
            )
            for alias, entry in sorted(self._force.items())
        )  # fmt: skip


def _versions(file: AliasFile) -> Iterator[tuple[Tag, WantedVersion]]:
    for wanted in file.versions:
        yield Tag(file.job, wanted.version, wanted.digest), wanted


def _shares(file: AliasFile) -> tuple[tuple[Tag, int], ...] | None:
    """Each target's tag and weight; None: a target is not among the versions."""
    tags = {wanted.version: tag for tag, wanted in _versions(file)}
    if any(target.version not in tags for target in file.targets):
        return None
    return tuple((tags[target.version], target.weight) for target in file.targets)


def _drawn(entry: InForce, person: str | None) -> Tag:
    """By a hash of alias and person, so that it is the same on every pod; without a person, by chance.

    Versions keep their order, so a person whom a rising share has reached stays reached.
    """
    key = person if person is not None else secrets.token_hex(8)
    digest = hashlib.sha256(f"{entry.file.alias}\0{key}".encode()).digest()
    total = sum(weight for _, weight in entry.shares)
    point = int.from_bytes(digest[:8], "big") % SHARE_STEPS / SHARE_STEPS * total
    for tag, weight in entry.shares:
        point -= weight
        if point < 0:
            return tag
    return entry.shares[-1][0]
