"""Versions that a server must refuse: each broken in its own way, with the words that the refusal must have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests.serve.conftest import Shop
from tests.support import served
from topcoat.api.server import WantedVersion
from topcoat_trainer import files, seal


def broken_byte(shop: Shop, folder: Path) -> Any:
    shutil.copytree(shop.folder("v1"), folder)
    data = bytearray((folder / "adapter_model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(data)
    return WantedVersion(version=folder.name, path=str(folder), digest=shop.digest("v1"))


def without_manifest(shop: Shop, folder: Path) -> Any:
    shutil.copytree(shop.folder("v1"), folder)
    (folder / "manifest.json").unlink()
    return WantedVersion(version=folder.name, path=str(folder), digest=shop.digest("v1"))


def another_manifest(shop: Shop, folder: Path) -> Any:
    made = served.version(shop.base, folder, 9)
    return made.model_copy(update={"digest": shop.digest("v1")})


def not_there(shop: Shop, folder: Path) -> Any:
    return WantedVersion(version=folder.name, path=str(folder), digest=shop.digest("v1"))


def with_a_link(shop: Shop, folder: Path) -> Any:
    made = served.version(shop.base, folder, 9)
    (folder / "extra").symlink_to("/etc/hostname")
    return made


def another_version(shop: Shop, folder: Path) -> Any:
    made = served.version(shop.base, folder.with_name("v8"), 9)
    return made.model_copy(update={"version": folder.name})


def of_another_base(shop: Shop, folder: Path) -> Any:
    other = served.base(folder.with_name("base"), seed=5)
    return served.version(other, folder, 9)


def changed(shop: Shop, folder: Path, edit: Callable[[dict[str, torch.Tensor], Path], None]) -> Any:
    """A version whose weights were changed before it was sealed, by whoever wrote it: all digests are right."""
    made = served.candidate(shop.base, folder.with_name("made"), 9)
    probed = served.version(shop.base, folder.parent / "probed" / "v7", 9)
    path = made / "adapter_model.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    edit(tensors, made)
    safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=metadata)
    manifest = json.loads((Path(probed.path) / "manifest.json").read_text())
    manifest["version"] = folder.name
    manifest["files"] = {
        name: {"bytes": (made / name).stat().st_size, "sha256": files.sha256(made / name)}
        for name in files.listing(made)
    }
    files.write_json(made / "manifest.json", manifest)
    made.rename(folder)
    return WantedVersion(version=folder.name, path=str(folder), digest=f"sha256:{seal.digest(folder)}")


def layers_that_do_not_exist(shop: Shop, folder: Path) -> Any:
    def edit(tensors: dict[str, torch.Tensor], made: Path) -> None:
        for name in list(tensors):
            tensors[name.replace("layers.4", "layers.40")] = tensors.pop(name)
        config = json.loads((made / "adapter_config.json").read_text())
        config["layers_to_transform"] = [3, 40]
        files.write_json(made / "adapter_config.json", config)

    return changed(shop, folder, edit)


def half_as_wide(shop: Shop, folder: Path) -> Any:
    def edit(tensors: dict[str, torch.Tensor], made: Path) -> None:
        name = next(name for name in tensors if "lora_A" in name)
        tensors[name] = tensors[name][:, ::2]

    return changed(shop, folder, edit)


def not_a_number(shop: Shop, folder: Path) -> Any:
    def edit(tensors: dict[str, torch.Tensor], made: Path) -> None:
        next(iter(tensors.values()))[0, 0] = float("nan")

    return changed(shop, folder, edit)


def all_zero(shop: Shop, folder: Path) -> Any:
    def edit(tensors: dict[str, torch.Tensor], made: Path) -> None:
        for tensor in tensors.values():
            tensor.zero_()

    return changed(shop, folder, edit)


def another_answer(shop: Shop, folder: Path) -> Any:
    def edit(tensors: dict[str, torch.Tensor], made: Path) -> None:
        for tensor in tensors.values():
            tensor.mul_(1.1)

    return changed(shop, folder, edit)


def over_rank(shop: Shop, folder: Path) -> Any:
    return served.version(shop.base, folder, 9, rank=16)


def without_probes(shop: Shop, folder: Path) -> Any:
    return served.version(shop.base, folder, 9, probes=[])


BROKEN: dict[Callable[[Shop, Path], Any], list[str]] = {
    broken_byte: ["adapter_model.safetensors", "sha256", "the manifest says"],
    without_manifest: ["manifest.json", "no manifest"],
    another_manifest: ["manifest.json", "sha256", "recorded is"],
    not_there: ["no such folder"],
    with_a_link: ["extra", "link"],
    another_version: ["manifest.json", "the manifest is of v8"],
    of_another_base: ["manifest.json", "trained on a base model with digest"],
    layers_that_do_not_exist: ["adapter_config.json", "layer 40 does not exist"],
    half_as_wide: ["adapter_model.safetensors", "has the shape"],
    not_a_number: ["adapter_model.safetensors", "not finite"],
    all_zero: ["adapter_model.safetensors", "all zero"],
    another_answer: ["golden probes differ"],
    over_rank: ["adapter_config.json", "rank 16", "accepts 8"],
    without_probes: ["manifest.json", "no golden probes"],
}
