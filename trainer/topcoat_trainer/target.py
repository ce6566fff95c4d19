"""Which linear modules of the tail an adapter goes on: all by default, or those that `targetModules` names.

Says what it leaves out; attaches nothing.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import peft
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from topcoat_trainer import layers
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import UserInputError

# A router's few outputs decide which expert computes: an adapter there upsets the balance, and servers have none.
ROUTERS = frozenset({"router", "gate", "shared_expert_gate"})
FOR_EXPERTS = "PEFT takes them for the experts' fused weights in this model type"
FOR_MAMBA = "PEFT puts none there in this model type, where a fused kernel reads the weights"


@dataclass(frozen=True, slots=True)
class Targets:
    """Module names as PEFT matches them. `outside`: equally named modules beyond the stack, which must stay out.

    `transposed`: the weights are stored as inputs by outputs (GPT-2's Conv1D).
    """

    names: tuple[str, ...]
    outside: tuple[str, ...]
    transposed: bool
    notes: tuple[str, ...]


def choose(model: PreTrainedModel, edge: Boundary, wanted: tuple[str, ...]) -> Targets:
    """The targets in the layers behind the boundary; UserInputError for a name that is not there."""
    stack_name, _ = layers.named_stack(model)
    found = {path: module for layer in layers.tail(model, edge) for path, module in _linears(layer).items()}
    for name in wanted:
        if not any(_fits(path, name) for path in found):
            raise _unknown(name, found)
    linear = {_short(path) for path in found if not _routes(path)}
    barred = _barred(model, linear | set(wanted))
    usual = tuple(sorted(linear - set(barred)))
    if refused := sorted(set(wanted) & set(barred)):
        raise _refusal(refused[0], barred[refused[0]], usual)
    names = tuple(sorted(set(wanted))) or usual
    chosen = {path: module for path, module in found.items() if any(_fits(path, name) for name in names)}
    outside = tuple(
        path
        for path in _linears(model)
        if not path.startswith(f"{stack_name}.") and any(_fits(path, name) for name in names)
    )
    routers = () if wanted else tuple(sorted({path for path in chosen if _routes(path)}))
    kinds = {isinstance(module, Conv1D) for module in chosen.values()}
    return Targets(names, outside + routers, kinds == {True}, tuple(_notes(model, edge, found, barred)))


def _linears(root: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in root.named_modules() if isinstance(module, (nn.Linear, Conv1D)) and path}


def _routes(path: str) -> bool:
    """Whether the module is a router or a part of one: `mlp.gate`, `ffn.router.layer`."""
    return not ROUTERS.isdisjoint(path.split("."))


def _barred(model: PreTrainedModel, names: set[str]) -> dict[str, str]:
    """Names that PEFT does not take for linear modules of this model, each with the reason."""
    reasons = {name: _bar(model, name) for name in names}
    return {name: reason for name, reason in sorted(reasons.items()) if reason}


def _bar(model: PreTrainedModel, name: str) -> str:
    """Before transformers 5 each expert had modules of its own. In some families PEFT still reads their names so, and
    puts adapters on the experts' fused weights in every layer, also where a linear module has that name.
    """
    config = peft.LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # only a part of what is fused was named
        return FOR_EXPERTS
    if name not in set(config.target_modules or ()):
        return FOR_EXPERTS
    try:
        _check_lora_target_modules_mamba(config, model, name.rsplit(".", 1)[-1])
    except ValueError:
        return FOR_MAMBA
    return ""


def _fits(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _short(path: str) -> str:
    """The last word of a path, with the one before it where the last is only a number."""
    parts = path.split(".")
    count = 2 if parts[-1].isdecimal() else 1
    return ".".join(parts[-count:])


def _unknown(name: str, found: dict[str, nn.Module]) -> UserInputError:
    known = sorted({_short(path) for path in found})
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return UserInputError(
        f"the chosen layers have no linear module named {name!r}",
        where="method.lora.targetModules",
        hint=f"{guess}they have {', '.join(known)}",
    )


def _refusal(name: str, reason: str, usual: tuple[str, ...]) -> UserInputError:
    return UserInputError(
        f"the modules named {name!r} can have no adapter: {reason}",
        where="method.lora.targetModules",
        hint=f"use {', '.join(usual)}",
    )


def _fused(layer: nn.Module) -> set[str]:
    """Weights that hold several matrices, such as one for each expert. Kernels of convolutions are none."""
    return {
        f"{path}.{name}"
        for path, module in layer.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not isinstance(module, _ConvNd) and sum(size > 1 for size in parameter.shape) > 2
    }


def _notes(model: PreTrainedModel, edge: Boundary, found: dict[str, nn.Module], barred: dict[str, str]) -> list[str]:
    notes = []
    fused = {name for layer in layers.tail(model, edge) for name in _fused(layer)}
    if fused:
        notes.append(
            f"fused weights ({', '.join(sorted(fused))}) are not linear modules and get no adapter; the attention's do"
        )
    for reason in sorted(set(barred.values())):
        names = ", ".join(name for name, why in barred.items() if why == reason)
        notes.append(f"modules named {names} get no adapter: {reason}")
    routers = sorted({_short(path) for path in found if _routes(path)})
    if routers:
        notes.append(f"routers ({', '.join(routers)}) get no adapter")
    return notes
