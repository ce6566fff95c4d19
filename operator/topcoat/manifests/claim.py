"""Claims of a namespace: made where they are missing, owned by nobody, so that no deletion of a job takes a version."""

from __future__ import annotations

from typing import Any

from topcoat.api import lifecycle, names, profile
from topcoat.manifests import metadata, pod

Json = dict[str, Any]

ADAPTERS = "topcoat-adapters"
MODELS = "topcoat-models"


def claims(namespace: str, storage: profile.Storage) -> list[Json]:
    """Both claims of a namespace."""
    return [_claim(ADAPTERS, namespace, storage.adapters), _claim(MODELS, namespace, storage.models)]


def _claim(name: str, namespace: str, shape: profile.StorageClaim) -> Json:
    spec: Json = {"accessModes": list(shape.access_modes), "resources": {"requests": {"storage": shape.size}}}
    if shape.storage_class_name:
        spec["storageClassName"] = shape.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata.shared(name, namespace),
        "spec": spec,
    }


def output_claim(output: lifecycle.Output) -> str:
    """Claim in which a job's versions lie."""
    return output.volume.claim_name if output.volume else ADAPTERS


def job_folder(output: lifecycle.Output, name: str, uid: str) -> str:
    """A job's folder in that claim: its pods see nothing else of it."""
    above = f"{output.volume.sub_path}/" if output.volume and output.volume.sub_path else ""
    return f"{above}jobs/{names.job_folder(name, uid)}"


def versions_address(output: lifecycle.Output, owner: metadata.Owner) -> str:
    """Where a job's versions lie, as status tells it."""
    return f"pvc://{output_claim(output)}/{job_folder(output, owner.name, owner.uid)}/versions"


def folder_in_server(address: str) -> str:
    """The same folder as a server's pod sees it: each claim is mounted whole under its name."""
    return f"{pod.CLAIMS_FOLDER}/{address.removeprefix('pvc://')}"
