"""Keeps a local model server in step with the store until somebody wants it to end, and says what comes of it.

Decides nothing about versions: the server proves them, and what it refuses, it says.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from topcoat.api import server
from topcoat.cli import alias_file, model_server, terminal

LOOK_SECONDS = 0.5
POLL_SECONDS = 0.05
ORDERLY = (0, -15)
"""Exit codes of a server that was asked to end; the second one's of one that had not begun."""


@dataclass(slots=True)
class Steward:
    """One server and the store that it follows."""

    process: model_server.Server
    keeper: alias_file.Keeper
    _answering: dict[str, str] = field(default_factory=dict)
    """Alias -> what was said of it last."""
    _trouble: dict[str, str] = field(default_factory=dict)
    """Version, alias or store -> what was said to be wrong with it."""
    _unreadable: dict[str, str] = field(default_factory=dict)
    """The same, where the store cannot be read now."""

    def stop(self) -> None:
        """Somebody wants it to end; asked again, at once."""
        if not self.process.asked_to_end:
            terminal.note("Stopping when the answers under way are given. Once more ends it at once.")
        self.process.end()

    def until_ready(self) -> bool:
        """Waits until all aliases answer; false where it shall end before. Fails with what keeps one from it."""
        while not self.process.asked_to_end:
            state = self._look()
            if state is not None and state.ready:
                self._answering = _answering(state)
                return True
            if state is not None:
                self._fail_if_refused(state)
                self._warn(state)
            self._wait()
        return False

    def models(self) -> list[str]:
        """A line for each alias."""
        return [f"  {words}" for words in self._answering.values()]

    def until_stopped(self) -> None:
        while not self.process.asked_to_end:
            state = self._look()
            if state is not None:
                self._tell(state)
                self._warn(state)
            self._wait()

    def ended(self) -> int:
        """Exit code of the command: 0 after an orderly end."""
        return 0 if self.process.wait() in ORDERLY else 1

    def _look(self) -> server.AgentState | None:
        """Tells the server what is new in the store; what it holds then. None while it cannot say."""
        self.process.check()
        try:
            self.process.tell(self.keeper.changed())
            self._unreadable = {}
        except terminal.Failure as failure:
            self._unreadable = {"the store": f"{failure.where}: {failure.message}; what serves, serves on"}
        return self.process.state_or_none()

    def _fail_if_refused(self, state: server.AgentState) -> None:
        """While nothing answers yet, a refusal is the end."""
        refused = _refused(state)
        for file in self.keeper.files.values():
            for target in file.targets:
                name = f"{file.job}--{target.version}"
                if name in refused:
                    hint = f"restore the file, or `topcoat rollback {file.job}` serves the version before"
                    terminal.fail(f"refused: {refused[name]}", name, hint)

    def _tell(self, state: server.AgentState) -> None:
        """Says which aliases have moved."""
        now = _answering(state)
        for alias, words in now.items():
            if self._answering.get(alias) != words:
                terminal.say(f"{words} now")
        self._answering = now
        sys.stdout.flush()

    def _warn(self, state: server.AgentState) -> None:
        """Says what is wrong, once."""
        hint = "stands on another base model and is not served here; `topcoat serve --job {}` serves it"
        elsewhere = {alias: hint.format(job) for alias, job in self.keeper.elsewhere.items()}
        refused = {name: f"refused, what serves, serves on: {why}" for name, why in _refused(state).items()}
        trouble = self._unreadable | elsewhere | refused
        for what, words in trouble.items():
            if self._trouble.get(what) != words:
                terminal.note(terminal.clean(f"{what}: {words}"))
        self._trouble = trouble

    def _wait(self) -> None:
        """Until it is time to look again, or to end."""
        until = time.monotonic() + LOOK_SECONDS
        while time.monotonic() < until and not self.process.asked_to_end:
            time.sleep(POLL_SECONDS)


def _answering(state: server.AgentState) -> dict[str, str]:
    """Alias -> who answers, in words."""
    digests = {(held.job, held.version): held.digest for held in state.versions}
    found = {}
    for held in state.aliases:
        who = [f"{target.version} ({digests.get((held.job, target.version), '')})" for target in held.targets]
        found[held.alias] = f"{held.alias} answers with {', '.join(who)}" if who else f"nobody answers as {held.alias}"
    return found


def _refused(state: server.AgentState) -> dict[str, str]:
    """Versions that were refused -> why."""
    return {
        f"{held.job}--{held.version}": held.probe.problem
        for held in state.versions
        if held.state == "Refused" and held.probe is not None
    }
