"""What a server is told of itself: server.json, read before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

import pydantic

from topcoat.api.server import ServerFile
from topcoat_trainer.errors import UserInputError


def server_file(path: Path) -> ServerFile:
    """What the server is told; UserInputError names the field that is wrong."""
    try:
        return ServerFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserInputError(f"it cannot be read ({error.strerror})", where=str(path)) from None
    except pydantic.ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise UserInputError(f"{field} cannot be understood", where=str(path)) from None
