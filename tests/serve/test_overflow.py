"""A version whose numbers overflow for some texts: those requests fail, and count as failed; all others do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.serve.conftest import Shop
from tests.support import peculiar, served

HELLO: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def brittle(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Server]:
    folder = tmp_path_factory.mktemp("brittle")
    made = peculiar.brittle(shop.base, folder / "v9")
    start = served.alias("claims", 1, [made, shop.versions["v1"]], ["v9"], watched="v9")
    ids: Any = shop.base.tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)
    pets = served.alias("pets", 1, [peculiar.brittle(shop.base, folder / "pets" / "v9", ids)], ["v9"])
    with served.running(folder / "conf", shop.base, start, pets) as server:
        yield server


def asked(server: served.Server, prompt: list[int], **more: Any) -> httpx2.Response:
    body = {"model": "claims", "prompt": prompt, "max_tokens": peculiar.TOKENS, **more}
    return server.post("/completions", body)


@pytest.mark.parametrize(
    "more", [{}, {"temperature": 1, "seed": 1}, {"stream": True}, {"echo": True, "logprobs": 1}, {"logprobs": 3}]
)
def test_an_answer_that_cannot_be_computed_is_an_error_and_no_words(brittle: served.Server, more: Any) -> None:
    said = asked(brittle, peculiar.FATAL, **more)
    assert (said.status_code, said.json()["error"]["code"]) == (500, "internal_error")
    assert "NotFinite" in said.json()["error"]["message"]


def test_a_choice_that_cannot_be_computed_is_an_error(shop: Shop, brittle: served.Server) -> None:
    body = {"model": "pets--v9", "messages": HELLO, "structured_outputs": {"choice": ["yes", "no"]}}
    said = brittle.post("/chat/completions", body)
    assert (said.status_code, said.json()["error"]["code"]) == (500, "internal_error")
    assert brittle.post("/chat/completions", {**body, "model": "claims--v1"}).status_code == 200


def test_everybody_else_is_answered_and_the_failures_are_counted(shop: Shop, brittle: served.Server) -> None:
    (before,) = brittle.state()["aliases"][0]["traffic"] or [{"requests": 0, "failed": 0}]
    assert asked(brittle, peculiar.FATAL).status_code == 500
    assert asked(brittle, peculiar.ASKED).status_code == 200
    (found,) = brittle.state()["aliases"][0]["traffic"]
    assert (found["requests"], found["failed"]) == (before["requests"] + 2, before["failed"] + 1)
    with brittle.client() as client:
        said = client.completions.create(model="claims--v1", prompt=peculiar.FATAL, max_tokens=4)
    assert said.system_fingerprint == shop.digest("v1")
