"""The trained part: attached to a base model, exported as files, and put on again for evaluation and answers.

LoRA and QLoRA become a stock PEFT folder; Full becomes the tail layers' weights. The base is never changed for good:
`Tail.detach` and leaving `using` give back the very same bits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import peft
import safetensors.torch
import torch
import transformers
from transformers import PreTrainedModel

from topcoat.api.method import Method, MethodType
from topcoat_trainer import adapter_file, devices, files, freeze, layers, lora, target, weight_file
from topcoat_trainer.adapter_file import check
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import Corrupt, TrainerError
from topcoat_trainer.freeze import FreezeProof
from topcoat_trainer.model import BaseModel

__all__ = ["Tail", "attach", "check", "export", "using"]


@dataclass(slots=True)
class Tail:
    """A base model with something to train in its last layers. `notes`: what people should know about the choice."""

    base: BaseModel
    method: Method
    boundary: Boundary
    proof: FreezeProof
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    peft_model: peft.PeftModel | None = None
    originals: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def model(self) -> PreTrainedModel:
        """The base's own model; while the tail is attached it computes with the tail."""
        return self.base.model

    def parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """What the optimizer may change, in a fixed order."""
        wanted = set(self.proof.trainable)
        return [
            (name, p) for name, p in sorted(self.model.named_parameters(), key=lambda row: row[0]) if name in wanted
        ]

    def state(self) -> dict[str, torch.Tensor]:
        """The trained tensors by the names they have in the exported file."""
        if self.peft_model is None:
            return {name: parameter.detach() for name, parameter in self.parameters()}
        found = peft.get_peft_model_state_dict(self.peft_model, save_embedding_layers=False)
        return dict(sorted(found.items()))

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Puts back what `state` gave, in place."""
        current = self.state()
        if set(current) != set(tensors):
            wrong = min(set(current) ^ set(tensors))
            raise Corrupt(f"the saved tensors are not this tail's: {wrong}", hint="start the run afresh")
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(tensors[name])

    def detach(self) -> None:
        """Takes the tail off; the base computes as before, bit for bit. Safe to call twice."""
        if self.peft_model is not None:
            _take_off(self.base.model, self.peft_model)
            self.peft_model = None
        _restore(self.base.model, self.originals)
        self.originals = {}


def attach(base: BaseModel, method: Method, edge: Boundary, seed: int) -> Tail:
    """Puts a fresh, seeded tail on the base, frozen and proven so, with the tail layers in training mode."""
    _refuse_occupied(base.model)
    if method.type == MethodType.FULL:
        freeze.freeze(base.model, edge, method)
        tail = Tail(base, method, edge, freeze.prove(base.model, edge, method))
        # Not on a GPU, whose memory training needs; they are wanted only when the tail is taken off.
        tail.originals = {name: parameter.detach().to("cpu", copy=True) for name, parameter in tail.parameters()}
    else:
        chosen = target.choose(base.model, edge, method.lora.target_modules)
        config = _lora_config(base.model, method, edge, chosen)
        with devices.own_randomness(seed), _quiet():
            wrapped = cast("peft.PeftModel", peft.get_peft_model(base.model, config))
        freeze.freeze(base.model, edge, method)
        lora.fuse(base.model)
        proof = freeze.prove(base.model, edge, method)
        tail = Tail(base, method, edge, proof, chosen.names, chosen.notes, wrapped)
    layers.training_mode(base.model, edge)
    return tail


def _lora_config(model: PreTrainedModel, method: Method, edge: Boundary, chosen: target.Targets) -> peft.LoraConfig:
    lora = method.lora
    stack_name, _ = layers.named_stack(model)
    return peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=float(lora.dropout),
        target_modules=list(chosen.names),
        exclude_modules=list(chosen.outside) or None,
        layers_to_transform=edge.indices,
        layers_pattern=stack_name.rsplit(".", 1)[-1],
        use_rslora=lora.use_rs_lora,
        use_dora=lora.use_dora,
        fan_in_fan_out=chosen.transposed,
        bias="none",
    )


def export(tail: Tail, directory: Path, base_id: str) -> list[Path]:
    """Writes the trained tensors and their configuration; equal tensors give equal bytes. Returns the two files.

    `base_id` is the name under which the server knows the base model, never a path of this machine.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kind = adapter_file.TAIL if tail.peft_model is None else adapter_file.LORA
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tail.state().items()}
    # The base's digest travels in the file itself: PEFT warns of keys that it does not know in its configuration.
    metadata = {"format": "pt", "base_digest": tail.base.digest, "base_config_digest": tail.base.config_digest}
    weights, config = directory / kind.weights, directory / kind.config
    with files.storing(weights):
        safetensors.torch.save_file(tensors, weights, metadata=metadata)
        weight_file.sort_metadata(weights)
    files.write_json(config, _tail_config(tail, base_id) if tail.peft_model is None else _peft_config(tail, base_id))
    return [weights, config]


def _peft_config(tail: Tail, base_id: str) -> dict[str, Any]:
    config = cast("peft.PeftModel", tail.peft_model).peft_config["default"]
    content = {name: sorted(v) if isinstance(v, set) else v for name, v in config.to_dict().items()}
    content.update(base_model_name_or_path=base_id, inference_mode=True, revision=None)
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def _tail_config(tail: Tail, base_id: str) -> dict[str, Any]:
    return {
        "format": "topcoat-tail",
        "format_version": 1,
        "base_model_name_or_path": base_id,
        "layers": tail.boundary.indices,
        "total_layers": tail.boundary.total,
        "stack": layers.named_stack(tail.model)[0],
        "dtype": str(tail.base.dtype).removeprefix("torch."),
        "transformers_version": transformers.__version__,
    }


@contextmanager
def using(base: BaseModel, directory: Path | None) -> Iterator[PreTrainedModel]:
    """Inside it the base's model computes with the exported files of `directory`, after `check`; None: as it is.

    Afterwards the model is what it was, bit for bit. One version at a time: take a training tail off first.
    """
    _refuse_occupied(base.model)
    base.model.eval()
    if directory is None:
        yield base.model
        return
    facts = check(directory, base)
    if facts.kind is adapter_file.LORA:
        wrapped = _put_on(base.model, directory)
        try:
            wrapped.eval()
            yield base.model
        finally:
            _take_off(base.model, wrapped)
        return
    parameters = dict(base.model.named_parameters())
    tensors = safetensors.torch.load_file(directory / facts.kind.weights)
    originals = {name: parameters[name].detach().clone() for name in tensors}
    try:
        _restore(base.model, tensors)
        yield base.model
    finally:
        _restore(base.model, originals)


def _put_on(model: PreTrainedModel, directory: Path) -> peft.PeftModel:
    """The files on the model, or Corrupt and the model as it was."""
    try:
        with _quiet():
            # Else PEFT would go on with random numbers in place of tensors that the configuration promises.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            return peft.PeftModel.from_pretrained(cast("Any", model), str(directory), is_trainable=False)
    except (ValueError, TypeError, KeyError, RuntimeError, UserWarning) as error:
        for name, module in list(model.named_modules()):
            if isinstance(getattr(module, "base_layer", None), torch.nn.Module):
                model.set_submodule(name, cast("torch.nn.Module", module.base_layer))
        _forget_peft(model)
        where = str(directory / adapter_file.LORA.config)
        reason = f"the configuration does not fit its weights ({type(error).__name__})"
        raise Corrupt(reason, where=where, hint=adapter_file.RESTORE_HINT) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT asks transformers by an old name whether layers are checkpointed; nobody here can mend that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def _restore(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
            parameters[name].grad = None
            parameters[name].requires_grad_(False)


def _take_off(model: PreTrainedModel, wrapped: peft.PeftModel) -> None:
    cast("Any", wrapped).unload()
    _forget_peft(model)
    model.requires_grad_(False)
    model.eval()


def _forget_peft(model: PreTrainedModel) -> None:
    for mark in ("peft_config", "active_adapter"):  # what PEFT leaves on the model it has been in
        if mark in vars(model):
            delattr(model, mark)


def _refuse_occupied(model: PreTrainedModel) -> None:
    occupied = [
        name for name, parameter in model.named_parameters() if freeze.LORA_MARK in name or parameter.requires_grad
    ]
    if occupied:
        raise TrainerError(f"another tail is still attached to the base model ({occupied[0]})", hint="detach it first")
