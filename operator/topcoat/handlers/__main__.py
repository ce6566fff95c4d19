"""`python -m topcoat.handlers`: the operator."""

from __future__ import annotations

import logging
import sys

import uvloop

from topcoat.cluster import client, lease
from topcoat.handlers import lifecycle, log, login, settings

logger = logging.getLogger("topcoat")


def main() -> int:
    """Runs the operator; the exit code is 0 when it was asked to stop."""
    try:
        wanted = settings.read()
    except settings.SettingsError as error:
        sys.stderr.write(f"topcoat operator: {error}\n")
        return 2
    log.set_up(wanted.log_level, wanted.log_format)
    code = 0
    try:
        uvloop.run(lifecycle.run(wanted))
    except* lease.Lost as lost:
        logger.warning("the Lease is lost, so this process ends: %s", lost.exceptions[0])
        code = 1
    except* (client.ApiError, login.LoginError) as refused:
        logger.error("cannot work here: %s", refused.exceptions[0])  # noqa: TRY400 - a reason, not a mistake of ours
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
