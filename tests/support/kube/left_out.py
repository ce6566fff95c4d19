"""Says at the end of a run which tests this machine could not run, and why. A skipped test is never silent."""

from __future__ import annotations

import collections
import os
from typing import Any, NoReturn

import pytest

# Set by .ci/run: there, what would be left out fails.
PROMISE = "TOPCOAT_TESTS"


def leave_out(reason: str) -> NoReturn:
    """Skips the test, with the reason in the run's last lines; fails where it was promised that nothing is left out."""
    if os.environ.get(PROMISE) == "all":
        pytest.fail(f"{reason}; {PROMISE}=all says that nothing may be left out", pytrace=False)
    pytest.skip(reason)


def reasons(skipped: list[Any]) -> dict[str, int]:
    """Why tests were skipped -> how many."""
    return dict(collections.Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = reasons(terminalreporter.stats.get("skipped", []))
    if found:
        terminalreporter.section("left out on this machine")
    for reason, count in sorted(found.items()):
        terminalreporter.write_line(f"{count:4} tests: {reason}")
