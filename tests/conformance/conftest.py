"""The server under test: the one that the environment names, or ours with a tiny tuned version behind a token."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.support import served
from tests.support.conformance import Target

TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    told = Target.told()
    if told is not None:
        yield told
        return
    root = tmp_path_factory.mktemp("conformance")
    base = served.base(root / "base")
    token = root / "token"
    token.write_text(TOKEN)
    version = served.version(base, root / "volume" / "v1", 1)
    claims = served.alias("claims", 1, [version], ["v1"], token_file=str(token))
    with served.running(root / "conf", base, claims) as server:
        yield Target(server.url, "claims", TOKEN)
