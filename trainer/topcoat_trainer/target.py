"""Which linear modules of the tail an adapter goes on: all by default, or those that `targetModules` names.

Says what it leaves out; attaches nothing.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from topcoat_trainer import layers
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import UserInputError

# A router's few outputs decide which expert computes: an adapter there upsets the balance, and servers have none.
ROUTERS = frozenset({"router", "gate", "shared_expert_gate"})


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
    usual = tuple(sorted({_short(path) for path in found if path.rsplit(".", 1)[-1] not in ROUTERS}))
    names = tuple(sorted(set(wanted))) or usual
    chosen = {path: module for path, module in found.items() if any(_fits(path, name) for name in names)}
    outside = tuple(
        path
        for path in _linears(model)
        if not path.startswith(f"{stack_name}.") and any(_fits(path, name) for name in names)
    )
    kinds = {isinstance(module, Conv1D) for module in chosen.values()}
    return Targets(names, outside, kinds == {True}, tuple(_notes(model, edge, found)))


def _linears(root: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in root.named_modules() if isinstance(module, (nn.Linear, Conv1D)) and path}


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


def _notes(model: PreTrainedModel, edge: Boundary, found: dict[str, nn.Module]) -> list[str]:
    notes = []
    fused = {
        name for layer in layers.tail(model, edge) for name, parameter in layer.named_parameters() if parameter.ndim > 2
    }
    if fused:
        notes.append(
            f"the experts' fused weights ({', '.join(sorted(fused))}) are not linear modules and get no adapter; "
            "the attention's do"
        )
    routers = sorted({_short(path) for path in found if path.rsplit(".", 1)[-1] in ROUTERS})
    if routers:
        notes.append(f"routers ({', '.join(routers)}) get no adapter")
    return notes
