from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest
import yaml

from tests.support import stores, worlds
from topcoat.api import crd


@pytest.mark.parametrize("path", ["ftj.spec.method.layers", "FineTuneJob.spec.method.layers", "spec.method.layers"])
def test_a_field_is_explained_as_kubectl_does(path: str) -> None:
    said = stores.topcoat("explain", path)
    assert said.code == 0
    assert "FIELD:    spec.method.layers <integer or string>" in said.out
    assert "DEFAULT:\n    Auto" in said.out
    assert said.last == "Next: topcoat explain ftj.spec.method"


def test_fields_below_are_listed_with_required_ones_marked() -> None:
    out = stores.topcoat("explain", "ftj.spec").out
    assert "baseModel <Object> -required-" in out
    assert "suspend <boolean>\n" in out
    assert "RULES:" in out


def test_lists_are_looked_through() -> None:
    assert "promotion.requirements" in stores.topcoat("explain", "ftj.spec.promotion.requirements.metric").out
    assert "spec.versions" not in stores.topcoat("explain", "ftj.status.versions[].digest").err


def test_recursive_lists_everything_below() -> None:
    out = stores.topcoat("explain", "ftp.spec", "--recursive").out
    assert "    maxEpochs <integer>" in out


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("ftj.spec.metod", "ftj.spec has no field 'metod'; did you mean 'method'?"),
        ("ftj.spec.basemodel", "did you mean 'baseModel'?"),
        ("ftx.spec", "did you mean 'ftp'?"),
        ("ftj.spec.profile.x", "has no field 'x'"),
        ("", "there is no kind and no field ''"),
    ],
)
def test_a_wrong_path_names_what_is_there(path: str, error: str) -> None:
    said = stores.topcoat("explain", path)
    assert said.code == 1
    assert error in said.err
    assert not said.out


def test_every_field_of_every_kind_can_be_explained() -> None:
    def paths(schema: dict[str, object], place: str) -> list[str]:
        from topcoat.cli import explain

        parts = explain._parts(schema)
        return [p for name, node in parts.items() for p in (f"{place}.{name}", *paths(node, f"{place}.{name}"))]

    from topcoat.cli import explain

    checked = 0
    for kind in crd.KINDS:
        for path in paths(explain._whole(kind), kind.short)[::9]:
            assert stores.topcoat("explain", path).code == 0, path
            checked += 1
    assert checked >= 40


def test_the_schema_accepts_a_job_and_refuses_an_unknown_field() -> None:
    schema = stores.topcoat("schema").body
    job = worlds.job().as_json()
    jsonschema.validate(job, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**job, "spec": {**job["spec"], "frob": 1}}, schema)


@pytest.mark.parametrize("kind", ["finetunejob", "finetuneprofile", "modelserver"])
def test_the_resource_definition_is_the_generated_one(kind: str) -> None:
    body = yaml.safe_load(stores.topcoat("schema", kind, "--crd").out)
    assert body["spec"]["names"]["singular"] == kind


def test_version_names_the_libraries() -> None:
    body = stores.topcoat("version", "-o", "json").body
    assert {"topcoat", "python", "torch", "pydantic"} <= set(body)
    assert stores.topcoat("--version").out == f"topcoat {body['topcoat']}\n"
    assert f"topcoat       {body['topcoat']}" in stores.topcoat("version").out


def test_version_imports_no_torch() -> None:
    code = (
        "import sys, json\nfrom topcoat.cli import app\nsys.argv = ['topcoat', 'version']\n"
        "try:\n    app.main()\nexcept SystemExit:\n    pass\nprint(json.dumps('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) is False
