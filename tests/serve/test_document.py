"""The API document is what the server does: every route, every refusal; and nothing that it describes breaks it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.routing import Route

from tests.serve.conftest import Shop
from tests.support import served
from topcoat_trainer.serve import app, openapi, protocol

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
SECONDS = 40


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    routes = {
        (re.sub(r"\{(\w+):path\}", r"{\1}", route.path), method.lower())
        for route in app.app(app.Clients(lambda: None)).routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {
        (path, method) for path, row in openapi.document()["paths"].items() for method in row if method != "parameters"
    }
    assert routes == described
    assert len(routes) == 6


def refusals() -> set[tuple[int, str]]:
    """Status and code of every refusal that is written down anywhere in the server."""
    found = set()
    for path in Path(app.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("ApiError", "protocol.ApiError"):
                values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                codes = [
                    value for value in values if isinstance(value, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", value)
                ]
                if codes and isinstance(values[0], int):
                    found.add((values[0], codes[0]))
    return found


def test_every_refusal_is_in_the_table_with_its_status() -> None:
    table = {(status, code) for code, (status, _) in protocol.CODES.items()}
    assert refusals() <= table, refusals() - table
    # What is refused for lack of a route is put together from a status.
    assert {code for _, code in table - refusals()} <= {"not_found", "invalid_request"}


def test_every_field_is_described() -> None:
    schemas = openapi.document()["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest"):
        assert [key for key, field in schemas[name]["properties"].items() if not field.get("description")] == []
        assert set(protocol.NEUTRAL) <= set(schemas[name]["properties"])


def test_it_is_published_and_needs_no_token(server: served.Server) -> None:
    said = httpx2.get(server.url.removesuffix("/v1") + "/openapi.json", trust_env=False)
    assert said.json() == openapi.document()


def known(document: dict[str, Any]) -> dict[str, Any]:
    """The document with model names that are served here, so that requests get further than to their names."""
    for name in ("ChatRequest", "CompletionRequest"):
        document["components"]["schemas"][name]["properties"]["model"]["enum"] = ["claims", "claims--v2", "nobody"]
    return document


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Server]:
    """A server whose answers are short, since its model takes 64 tokens."""
    root = tmp_path_factory.mktemp("brief")
    base = served.base(root / "base", max_position_embeddings=64)
    versions = [served.version(base, root / "volume" / name, seed) for seed, name in enumerate(("v1", "v2"))]
    claims = served.alias("claims", 1, versions, ["v1"])
    with served.running(root / "conf", base, claims) as made:
        made.until_proved("v2")
        yield made


@pytest.mark.slow
def test_nothing_that_is_made_from_the_document_breaks_the_server(brief: served.Server, tmp_path: Path) -> None:
    """schemathesis: right and wrong requests by the thousand. No 5xx, and every answer is as the document says."""
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(known(json.loads(json.dumps(openapi.document())))))
    report = tmp_path / "report.json"
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", str(path), "--url", brief.url.removesuffix("/v1"),
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "100",
        "--max-time", str(SECONDS), "--seed", "1", "--no-shrink", "--continue-on-failure", "--warnings", "off",
        "--generation-database", "none", "--report-json-path", str(report), "--no-color", "--request-timeout", "30",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS * 3, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    made = re.search(r"(\d+) generated", done.stdout)
    assert made, done.stdout[-2000:]
    assert int(made.group(1)) > 200
    counted = brief.get("/metrics").text
    for code in (200, 400, 404):  # it got further than to the door
        assert f'code="{code}"' in counted
    assert brief.post("/completions", {"model": "claims", "prompt": "x", "max_tokens": 1}).status_code == 200
    assert "Traceback" not in brief.log.read_text()


def test_each_version_in_it_is_a_real_one(server: served.Server, shop: Shop) -> None:
    """The document says nothing of one server in particular."""
    assert not any(shop.digest(version) in json.dumps(openapi.document()) for version in shop.versions)
