"""The pod of a server whose engine is vLLM: who sees what, who has the GPUs, and that a real API server takes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.kube import control_plane as planes
from topcoat.api import modelserver, profile, server
from topcoat.manifests import deployment, metadata, pod, vllm

Json = dict[str, Any]
IMAGE = "registry.example/vllm@sha256:" + "1" * 64
GPUS = {"nvidia.com/gpu": "2", "memory": "64Gi"}


def spelt(namespace: str = "default", limits: Json | None = None, max_adapters: int = 16) -> Json:
    """The Deployment as the operator writes it."""
    written = {
        "allowedModelURIs": ["pvc://*"],
        "images": {"vllm": IMAGE},
        "server": {"resources": {"limits": limits or {}}},
    }
    found = profile.FineTuneProfile.model_validate({"metadata": {"name": "default"}, "spec": written})
    base: Json = {"uri": "pvc://models/small"}
    spec = modelserver.ModelServerSpec.model_validate(
        {"baseModel": base, "engine": "VLLM", "maxAdapters": max_adapters}
    )
    asked = pod.resources(spec.resources, found.spec.server.resources)
    file = server.ServerFile(
        name="small", namespace=namespace, base_model_id="org/small", base_model_path="/topcoat/volumes/models/small",
        base_model_digest="b" * 64, max_adapters=max_adapters, vllm=vllm.beside(vllm.gpus(asked)),
        admin_token_sha256="0" * 64, max_running=vllm.RUNNING,
    )  # fmt: skip
    owner = metadata.Owner("ModelServer", "small", namespace, "11111111-2222-3333-4444-555555555555")
    return deployment.deployment(pod.Platform(image="topcoat/trainer"), deployment.Server(owner, spec, file, found))


def containers(body: Json) -> dict[str, Json]:
    return {one["name"]: one for one in body["spec"]["template"]["spec"]["containers"]}


def after(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_vllm_is_heard_on_loopback_only_and_has_no_probe_of_its_own() -> None:
    found = containers(spelt())
    words = found["vllm"]["command"]
    assert after(words, "--host") == "127.0.0.1"
    assert "ports" not in found["vllm"]
    assert not {"readinessProbe", "livenessProbe", "startupProbe"} & found["vllm"].keys()
    assert found["server"]["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert found["vllm"]["image"] == IMAGE
    assert found["server"]["image"] == "topcoat/trainer"


def test_vllm_is_told_model_slots_rank_and_number_format() -> None:
    words = containers(spelt(max_adapters=4))["vllm"]["command"]
    assert after(words, "--model") == "/topcoat/volumes/models/small"
    assert after(words, "--served-model-name") == "org/small"
    assert (after(words, "--max-loras"), after(words, "--max-lora-rank")) == ("5", "64")
    assert after(words, "--dtype") == "float32"
    assert "--tensor-parallel-size" not in words
    assert "lm_head" not in words
    wide = containers(spelt(max_adapters=900))["vllm"]["command"]
    assert (after(wide, "--max-loras"), after(wide, "--max-cpu-loras")) == ("32", "901")
    many = {one["name"]: one["value"] for one in containers(spelt())["vllm"]["env"] if "value" in one}
    assert many["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert many["HF_HUB_OFFLINE"] == many["VLLM_NO_USAGE_STATS"] == "1"


def test_the_gpus_are_vllms_and_it_uses_all_of_them() -> None:
    found = containers(spelt(limits=GPUS))
    assert found["vllm"]["resources"]["limits"] == GPUS
    assert found["server"]["resources"] == deployment.AGENT_RESOURCES
    words = found["vllm"]["command"]
    assert (after(words, "--tensor-parallel-size"), after(words, "--dtype")) == ("2", "bfloat16")


def test_both_see_the_versions_at_one_place_and_only_the_agent_writes_there() -> None:
    found = containers(spelt())
    mounts = {name: {m["mountPath"]: m for m in one["volumeMounts"]} for name, one in found.items()}
    assert mounts["server"][vllm.FOLDER]["name"] == mounts["vllm"][vllm.FOLDER]["name"]
    assert "readOnly" not in mounts["server"][vllm.FOLDER]
    assert mounts["vllm"][vllm.FOLDER]["readOnly"] is True
    assert mounts["server"]["/tmp"]["name"] != mounts["vllm"]["/tmp"]["name"]
    # Of the tenants' files vLLM sees base models only: no claim with versions, no token, no alias.
    seen = set(mounts["vllm"])
    assert seen == {"/topcoat/cache", "/topcoat/volumes/models", vllm.FOLDER, "/dev/shm", "/tmp"}


@pytest.mark.parametrize("limits", [{}, GPUS], ids=["cpu", "gpus"])
def test_a_real_api_server_takes_it_in_a_restricted_namespace(
    control_plane: planes.ControlPlane, new_namespace: Any, limits: Json
) -> None:
    namespace = new_namespace({"pod-security.kubernetes.io/enforce": "restricted"})
    body = spelt(namespace, limits)
    del body["metadata"]["ownerReferences"]
    said = control_plane.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(body))
    assert {one["name"] for one in json.loads(said)["spec"]["template"]["spec"]["containers"]} == {"server", "vllm"}
    # A Deployment is only warned about; what the namespace admits is asked with the pod itself.
    alone = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "small", "namespace": namespace},
        "spec": body["spec"]["template"]["spec"],
    }  # fmt: skip
    made = json.loads(
        control_plane.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(alone))
    )
    assert made["spec"]["automountServiceAccountToken"] is False
    for one in made["spec"]["containers"]:
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert not any("serviceaccount" in mount["mountPath"] for mount in one["volumeMounts"])
