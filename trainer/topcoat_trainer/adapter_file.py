"""Whether a folder's exported weights may be put on this base model: each doubt is an error that names file and tensor.

Reads the files and the base's shapes; attaches nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import torch
from torch import nn
from transformers import PreTrainedModel

from topcoat_trainer import files, layers, weight_file
from topcoat_trainer.errors import BaseModelError, Corrupt, Diverged
from topcoat_trainer.model import BaseModel

RESTORE_HINT = "restore the version's folder from a back-up, or train it again"
LORA_NAME = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(\.weight)?$")


@dataclass(frozen=True, slots=True)
class Kind:
    """The two files of an exported form."""

    weights: str
    config: str


LORA = Kind("adapter_model.safetensors", "adapter_config.json")
TAIL = Kind("tail.safetensors", "tail_config.json")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the files hold. `rank` is 0 for a full tail."""

    kind: Kind
    layers: tuple[int, ...]
    rank: int
    tensors: int
    base_id: str


def check(directory: Path, base: BaseModel) -> AdapterFacts:
    """The facts, or an error: Corrupt for broken or unfitting files, BaseModelError for another base model's,
    Diverged for numbers that are not finite or change nothing.
    """
    kind = next((kind for kind in (LORA, TAIL) if (directory / kind.config).is_file()), None)
    if kind is None or not (directory / kind.weights).is_file():
        missing = directory / (kind.weights if kind else LORA.config)
        raise Corrupt(
            "the file is missing, so the folder holds no trained weights", where=str(missing), hint=RESTORE_HINT
        )
    config = files.read_json(directory / kind.config)
    path = directory / kind.weights
    try:
        header = weight_file.header(path)
    except weight_file.BrokenWeightsError as error:
        raise Corrupt(f"the weights cannot be read: {error}", where=str(path), hint=RESTORE_HINT) from error
    if not isinstance(config, dict):
        raise Corrupt("not a JSON object", where=str(directory / kind.config), hint=RESTORE_HINT)
    _check_base(path, header, base)
    listed = _listed_layers(directory / kind.config, config, kind, len(layers.stack(base.model)))
    expected = _lora_shapes(path, config, header, base.model) if kind is LORA else _tail_shapes(header, base.model)
    _check_tensors(path, header, expected)
    _check_layers(path, set(header.tensors), listed, base.model)
    _check_numbers(path, kind)
    rank = int(config.get("r", 0)) if kind is LORA else 0
    return AdapterFacts(kind, listed, rank, len(header.tensors), str(config.get("base_model_name_or_path", "")))


def _check_base(path: Path, header: weight_file.WeightHeader, base: BaseModel) -> None:
    made_for = header.metadata.get("base_digest", "")
    if made_for != base.digest:
        raise BaseModelError(
            f"the weights were trained on another base model (digest {made_for[:12] or 'unknown'}, "
            f"this one has {base.digest[:12]})",
            where=str(path),
            hint="use the base model that the version's manifest names",
        )


def _listed_layers(path: Path, config: dict[str, Any], kind: Kind, total: int) -> tuple[int, ...]:
    listed = config.get("layers_to_transform" if kind is LORA else "layers")
    if not isinstance(listed, list) or not listed or not all(type(index) is int for index in listed):
        raise Corrupt("the configuration does not list its layers", where=str(path), hint=RESTORE_HINT)
    absent = [index for index in listed if not 0 <= index < total]
    if absent:
        raise Corrupt(
            f"layer {absent[0]} does not exist: the base model has {total} layers", where=str(path), hint=RESTORE_HINT
        )
    return tuple(sorted(listed))


def _lora_shapes(
    path: Path, config: dict[str, Any], header: weight_file.WeightHeader, model: PreTrainedModel
) -> dict[str, tuple[int, ...]]:
    """The shape that each LoRA tensor must have, by the base's module it belongs to; both halves of each pair."""
    rank = config.get("r")
    if type(rank) is not int or rank < 1:
        raise Corrupt("the configuration names no rank", where=str(path.parent / LORA.config), hint=RESTORE_HINT)
    modules = dict(model.named_modules())
    names = [LORA_NAME.match(name) or _refuse(path, name, "is not part of a LoRA") for name in header.tensors]
    expected: dict[str, tuple[int, ...]] = {}
    for name in sorted({match["module"] for match in names}):
        if name not in modules:
            _refuse(path, name, "does not exist in the base model")
        inputs, outputs = _features(modules[name])
        expected[f"base_model.model.{name}.lora_A.weight"] = (rank, inputs)
        expected[f"base_model.model.{name}.lora_B.weight"] = (outputs, rank)
        if config.get("use_dora"):
            expected[f"base_model.model.{name}.lora_magnitude_vector"] = (outputs,)
    return expected


def _features(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear module; GPT-2's Conv1D calls them nx and nf."""
    found = [getattr(module, name, None) for name in ("in_features", "out_features", "nx", "nf")]
    numbers = [number for number in found if isinstance(number, int)]
    return (numbers[0], numbers[1]) if len(numbers) >= 2 else (-1, -1)


def _tail_shapes(header: weight_file.WeightHeader, model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    stack_name, _ = layers.named_stack(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    touched = {_layer(name, stack_name) for name in header.tensors}
    return {name: shape for name, shape in shapes.items() if _layer(name, stack_name) in touched - {-1}}


def _check_tensors(path: Path, header: weight_file.WeightHeader, expected: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(set(header.tensors) ^ set(expected)):
        _refuse(path, name, "is missing" if name in expected else "has no place in the base model")
    for name, entry in sorted(header.tensors.items()):
        if entry.shape != expected[name]:
            _refuse(
                path, name, f"has the shape {list(entry.shape)}, but {list(expected[name])} fits the base and the rank"
            )
        if entry.dtype not in weight_file.TRAINABLE:
            _refuse(path, name, f"has the dtype {entry.dtype}")


def _check_layers(path: Path, names: set[str], listed: tuple[int, ...], model: PreTrainedModel) -> None:
    stack_name, _ = layers.named_stack(model)
    by_layer = {_layer(name.removeprefix("base_model.model."), stack_name): name for name in sorted(names)}
    for index, name in sorted(by_layer.items()):
        if index not in listed:
            _refuse(path, name, "belongs to no layer that the configuration lists")
    without = [index for index in listed if index not in by_layer]
    if without:
        raise Corrupt(f"layer {without[0]} is listed, but has no tensor", where=str(path), hint=RESTORE_HINT)


def _layer(name: str, stack_name: str) -> int:
    """The index of the layer that a tensor belongs to; -1: none."""
    first = name.removeprefix(f"{stack_name}.").split(".", 1)[0] if name.startswith(f"{stack_name}.") else ""
    return int(first) if first.isdecimal() else -1


def _check_numbers(path: Path, kind: Kind) -> None:
    changes = False
    with safetensors.safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            if not bool(torch.isfinite(tensor).all()):
                raise Diverged(f"tensor {name} holds numbers that are not finite", where=str(path))
            # A LoRA's A starts random and its B as zero: only a B that moved means that something was learnt.
            changes = changes or ((kind is TAIL or ".lora_B." in name) and bool(tensor.any()))
    if not changes:
        raise Diverged("the weights are all zero: they change nothing", where=str(path))


def _refuse(path: Path, tensor: str, reason: str) -> NoReturn:
    raise Corrupt(f"tensor {tensor[:200]} {reason}", where=str(path), hint=RESTORE_HINT)
