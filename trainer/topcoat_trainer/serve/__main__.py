"""The command: `python -m topcoat_trainer.serve --server-file FILE --aliases FOLDER`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from topcoat.api import server
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.serve import parent, told

LATER_SECONDS = 10
"""What an orderly end takes beside waiting for answers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM; the exit code is 0, or an error's own."""
    parser = argparse.ArgumentParser(prog="topcoat_trainer.serve", description="Serve tuned versions of a base model.")
    parser.add_argument("--server-file", type=Path, required=True, help="what the server is told of itself")
    parser.add_argument("--aliases", type=Path, required=True, help="folder of <alias>.json, followed while it serves")
    parser.add_argument("--client-port", type=int, default=server.CLIENT_PORT, help="0: any free port")
    parser.add_argument("--agent-port", type=int, default=server.AGENT_PORT, help="0: any free port")
    parser.add_argument("--host", default="", help="address to listen on; by default every one")
    parser.add_argument("--client-fd", type=int, help="an inherited socket for clients, instead of host and port")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input does")
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        known = told.server_file(options.server_file)
        if options.with_parent:
            parent.follow(sys.stdin.fileno(), known.notice_seconds + known.drain_seconds + LATER_SECONDS)
        # Torch takes seconds to import; a wrong file is told at once.
        from topcoat_trainer.serve import process

        places = process.Places(
            options.aliases, options.host, options.client_port, options.agent_port, options.client_fd
        )
        asyncio.run(process.serve(known, places))
    except TrainerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code.value
    return 0


if __name__ == "__main__":
    sys.exit(main())
