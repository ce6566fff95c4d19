"""What the platform allows and what one machine can do: each refusal names the limit and who can raise it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.worlds import World, prepare_report
from topcoat.api import finetunejob
from topcoat.api import profile as profiles
from topcoat.api import run as run_files
from topcoat.api import serving as servings
from topcoat.plan import intent, observed, profile

CATALOGUE: dict[str, Any] = {
    "models": [{"name": "small", "uri": "hf://org/small", "revision": "r1", "digest": "sha256:" + "b" * 64}]
}


def world(limits: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **more: Any) -> World:
    written = {"allowedModelURIs": ["file://models/*"], "limits": limits or {}, **more}
    found = profiles.FineTuneProfile.model_validate({"metadata": {"name": "default"}, "spec": written})
    made = World()
    made.seen = replace(made.seen, profile=found)
    made.change(**(spec or {}))
    made.settle()
    return made


FORBIDDEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"maxEpochs": 2}, {"training": {"epochs": 3}}, "training.epochs 3 is above limits.maxEpochs 2"),
    ({"allowedMethods": ["LoRA"]}, {"method": {"type": "Full"}}, "method.type Full is not in limits.allowedMethods"),
    ({"maxGPUHours": "2"}, {"budget": {"maxGPUHours": "3"}}, "budget.maxGPUHours 3 is above limits.maxGPUHours 2"),
    ({}, {"baseModel": {"uri": "hf://org/x"}}, "baseModel.uri 'hf://org/x' fits no allowedModelURIs"),
    ({}, {"baseModel": {"name": "large"}}, "baseModel.name 'large' is not in the catalogue"),
    (
        {"maxGPUs": 1},
        {"trainer": {"resources": {"limits": {"nvidia.com/gpu": "2"}}}},
        "GPUs of trainer 2 is above limits.maxGPUs 1",
    ),
]


IMAGE = {"images": {"vllm": "registry.example/vllm@sha256:" + "1" * 64}}
BY_VLLM: dict[str, Any] = {"serving": {"engine": "VLLM"}}


def in_cluster(spec: dict[str, Any], **written: Any) -> World:
    made = world(spec=spec, **written)
    made.seen = replace(made.seen, mode=observed.Mode.CLUSTER)
    made.change(baseModel={"uri": "hf://org/x"}, dataset={"train": {"uri": "pvc://data/x.jsonl"}})
    made.settle()
    return made


def complaint(made: World) -> str:
    failure = made.status.failure
    assert failure is not None
    return failure.message


def test_vllm_needs_an_image_in_the_profile() -> None:
    allowed: dict[str, Any] = {"allowedModelURIs": ["hf://*"]}
    without = in_cluster(BY_VLLM, **allowed)
    assert without.condition("Stalled") == ("True", "ProfileForbids")
    said = complaint(without)
    for words in ("engine VLLM", "'default'", "platform team", "images.vllm", "serving.engine to Transformers"):
        assert words in said
    assert in_cluster(BY_VLLM, **allowed, **IMAGE).condition("Stalled")[0] == "False"
    assert in_cluster({}, **allowed, defaults=BY_VLLM).condition("Stalled") == ("True", "ProfileForbids")


def test_full_tails_are_no_versions_for_vllm() -> None:
    spec = {"serving": {"engine": "VLLM", "mode": "Dedicated"}, "method": {"type": "Full"}}
    refused = in_cluster(spec, allowedModelURIs=["hf://*"], **IMAGE)
    assert refused.condition("Stalled") == ("True", "UnsupportedHere")
    assert "LoRA versions only" in complaint(refused)


@pytest.mark.parametrize(
    ("written", "default", "answers"),
    [
        ("Auto", None, "Transformers"),
        ("Auto", "VLLM", "VLLM"),
        ("VLLM", None, "VLLM"),
        ("Transformers", "VLLM", "Transformers"),
    ],
)
def test_auto_is_what_the_profile_says_and_else_our_own_engine(written: str, default: str | None, answers: str) -> None:
    made = world(defaults={"serving": {"engine": default}} if default else {})
    spec = made.job.spec.model_copy(update={"serving": servings.Serving.model_validate({"engine": written})})
    assert profile.engine(spec, made.seen.profile) is servings.Engine(answers)


@pytest.mark.parametrize(("limits", "spec", "message"), FORBIDDEN)
def test_a_limit_is_named_with_who_can_raise_it(limits: dict[str, Any], spec: dict[str, Any], message: str) -> None:
    refused = world(limits, spec)
    assert refused.condition("Stalled") == ("True", "ProfileForbids")
    assert refused.status.failure is not None
    assert refused.status.failure.message.startswith(message)
    assert "platform team" in refused.status.failure.message
    assert refused.done == []


def test_the_trainer_is_told_how_large_a_data_set_may_be() -> None:
    asked = world({"maxDatasetBytes": 4096})
    prepare = next(action for action in asked.done if isinstance(action, intent.StartPrepare))
    paths = run_files.RunPaths(run="/r", versions="/v", cache="/c")
    for order in (prepare.order, asked.orders[0]):
        assert order.run_file(paths, allow_local_files=True).max_dataset_bytes == 4096
    assert world().orders[0].max_dataset_bytes is None


def test_more_than_the_largest_pod_is_refused() -> None:
    asked = {"trainer": {"resources": {"requests": {"memory": "2Gi"}}}}
    refused = world({}, asked, trainer={"maxResources": {"memory": "1500Mi"}})
    assert refused.condition("Stalled") == ("True", "ProfileForbids")
    assert world({}, asked, trainer={"maxResources": {"memory": "2048Mi"}}).status.phase == "Ready"


def test_a_missing_profile_stalls() -> None:
    made = World()
    made.seen = replace(made.seen, profile=None)
    made.settle()
    assert made.condition("Stalled") == ("True", "ProfileMissing")


def test_a_refusal_stops_nothing_that_serves() -> None:
    made = world()
    made.change(baseModel={"uri": "hf://org/x"})
    made.settle()
    assert made.condition("Ready") == ("False", "ProfileForbids")
    assert made.condition("Serving") == ("True", "AliasReady")


def test_a_catalogue_name_becomes_its_uri_and_revision() -> None:
    made = world(spec={"baseModel": {"name": "small"}}, **CATALOGUE)
    assert made.status.phase == "Ready"
    assert (made.orders[0].base_model.uri, made.orders[0].base_model.revision) == ("hf://org/small", "r1")


def test_a_catalogue_model_with_another_digest_is_refused() -> None:
    made = World(prepared=prepare_report(base="e" * 64))
    written = {**CATALOGUE, "allowedModelURIs": ["file://*"]}
    found = profiles.FineTuneProfile.model_validate({"metadata": {"name": "default"}, "spec": written})
    made.seen = replace(made.seen, profile=found)
    made.change(baseModel={"name": "small"})
    made.settle()
    assert made.condition("Stalled") == ("True", "BaseModelRefused")


def test_a_new_catalogue_revision_retrains_only_where_the_manifest_says_so() -> None:
    for wanted, runs in ((False, 1), (True, 2)):
        made = world(spec={"baseModel": {"name": "small"}, "retrain": {"onBaseModelChange": wanted}}, **CATALOGUE)
        newer = {"models": [{"name": "small", "uri": "hf://org/small", "revision": "r2"}]}
        found = profiles.FineTuneProfile.model_validate({"metadata": {"name": "default"}, "spec": newer})
        made.seen, made.prepared = replace(made.seen, profile=found), prepare_report(base="f" * 64)
        made.settle()
        assert len(made.orders) == runs
        assert made.status.phase == "Ready"


def test_jobs_without_a_budget_get_the_profiles() -> None:
    budget = world({"maxGPUHours": "2"}).orders[0].budget
    assert budget is not None
    assert budget.max_gpu_hours == "2"


def test_the_profiles_defaults_fill_what_nobody_wrote() -> None:
    made = world(spec={"training": {"epochs": 2}}, defaults={"training": {"epochs": 9, "seed": 7}})
    training = made.orders[0].spec.training
    assert (training.epochs, training.seed) == (2, 7)


def test_defaults_that_do_not_fit_are_refused_by_field() -> None:
    made = world(defaults={"training": {"epochs": "many"}})
    assert made.condition("Stalled") == ("True", "ProfileForbids")
    assert "training.epochs" in (made.status.failure.message if made.status.failure else "")


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"dataset": {"train": {"uri": "s3://bucket/x.jsonl"}}}, "dataset.train.uri 's3://bucket/x.jsonl': local mode"),
    ({"dataset": {"train": {"configMap": {"name": "c", "key": "x.jsonl"}}}}, "dataset.train.configMap: there are no"),
    ({"trainer": {"nodes": 2}}, "trainer.nodes is 2, but local mode is one machine"),
    ({"tracking": [{"type": "MLflow"}]}, "tracking: no tracker is connected in local mode"),
]


@pytest.mark.parametrize(("spec", "message"), UNSUPPORTED)
def test_what_one_machine_cannot_do_is_refused_with_a_reason(spec: dict[str, Any], message: str) -> None:
    made = World()
    made.change(**spec)
    made.settle()
    assert made.condition("Stalled") == ("True", "UnsupportedHere")
    assert made.status.failure is not None
    assert made.status.failure.message.startswith(message)


def test_a_file_of_one_machine_is_refused_in_a_cluster() -> None:
    made = World()
    made.seen = replace(made.seen, mode=observed.Mode.CLUSTER)
    made.settle()
    assert made.condition("Stalled") == ("True", "UnsupportedHere")


def test_what_local_mode_leaves_out_is_noted() -> None:
    made = World()
    made.change(retrain={"schedule": "@daily"}, queueName="gpus")
    notes = made.settle().notes
    assert [note.split(" ")[0] for note in notes] == ["retrain.schedule", "queueName"]


@pytest.mark.parametrize(("text", "number"), [("500m", "0.5"), ("2", "2"), ("1Gi", str(2**30)), ("3k", "3000")])
def test_quantities_are_compared_as_numbers(text: str, number: str) -> None:
    assert str(profile.quantity(text)) == number


CORPUS = Path(__file__).parents[1] / "api" / "invalid"
PLANNERS = [path for path in sorted(CORPUS.glob("*.yaml")) if path.read_text().startswith("# caught by: plan")]


@pytest.mark.parametrize("path", PLANNERS, ids=lambda path: path.stem)
def test_what_the_corpus_leaves_to_the_planner_is_refused_with_its_message(path: Path) -> None:
    made = World()
    made.settle()
    wanted = finetunejob.FineTuneJob.read(yaml.safe_load(path.read_text()))
    metadata = wanted.metadata.model_copy(update={"uid": "0123456789ab", "generation": 2})
    made.job = wanted.model_copy(update={"metadata": metadata, "status": made.status})
    if wanted.spec.profile != "default":
        made.seen = replace(made.seen, profile=None)
    made.settle()
    message = path.read_text().splitlines()[2].removeprefix("# message: ")
    stalled = next(condition for condition in made.status.conditions if condition.type == "Stalled")
    assert stalled.status == "True"
    assert message in stalled.message


def test_the_corpus_leaves_something_to_the_planner() -> None:
    assert len(PLANNERS) >= 4
