"""Gives claims their volumes on a node: a folder per claim as a `local` volume, because the kubelet sets the group of
those as it does for real storage (the built-in host-path provisioner's folders are root's alone). Runs as a program."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from urllib3.exceptions import HTTPError

PROVISIONER = "topcoat.dev/folder"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
WATCH_SECONDS = 60


def main(kubeconfig: str, folder: str, node: str) -> None:
    with config.new_client_from_config(config_file=kubeconfig) as connection:
        api = client.CoreV1Api(connection)
        removing = threading.Thread(
            target=follow, args=(api.list_persistent_volume, lambda volume: remove_released(api, volume)), daemon=True
        )
        removing.start()
        follow(
            api.list_persistent_volume_claim_for_all_namespaces,
            lambda claim: provision(api, claim, Path(folder), node),
        )


def follow(listed: Callable[..., Any], act: Callable[[Any], None]) -> None:
    """Hands over every object, and again when it changes, for ever. A watch that breaks begins with a list again;
    what was done before is found done."""
    while True:
        with contextlib.suppress(client.ApiException, HTTPError):
            for event in watch.Watch().stream(listed, timeout_seconds=WATCH_SECONDS, _request_timeout=90):
                if event["type"] != "DELETED":
                    act(event["object"])
        time.sleep(0.2)


def volume_name(claim: Any) -> str:
    return f"pvc-{claim.metadata.uid}"


def provision(api: client.CoreV1Api, claim: Any, folder: Path, node: str) -> None:
    asked = (claim.metadata.annotations or {}).get("volume.kubernetes.io/storage-provisioner")
    if claim.spec.volume_name or claim.metadata.deletion_timestamp or asked != PROVISIONER:
        return
    path = folder / claim.metadata.uid
    path.mkdir(parents=True, exist_ok=True)
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    reference = {
        "kind": "PersistentVolumeClaim",
        "namespace": claim.metadata.namespace,
        "name": claim.metadata.name,
        "uid": claim.metadata.uid,
    }
    spec = {
        "capacity": claim.spec.resources.requests,
        "accessModes": claim.spec.access_modes,
        "storageClassName": claim.spec.storage_class_name,
        "persistentVolumeReclaimPolicy": "Delete",
        "claimRef": reference,
        "local": {"path": str(path)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    }
    metadata = {"name": volume_name(claim), "annotations": {PROVISIONED_BY: PROVISIONER}}
    body: Any = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
    try:
        api.create_persistent_volume(body, _request_timeout=30)
    except client.ApiException as failure:
        if failure.status != 409:
            raise


def remove_released(api: client.CoreV1Api, volume: Any) -> None:
    """A volume whose claim is gone, as its policy `Delete` says; `Retain` keeps it, as everywhere."""
    ours = (volume.metadata.annotations or {}).get(PROVISIONED_BY) == PROVISIONER
    if ours and volume.status.phase == "Released" and volume.spec.persistent_volume_reclaim_policy == "Delete":
        shutil.rmtree(volume.spec.local.path, ignore_errors=True)
        api.delete_persistent_volume(volume.metadata.name, _request_timeout=30)


if __name__ == "__main__":
    main(*sys.argv[1:])
