"""How the ranks of a run hold what is trained: each all of it, or (FSDP2) each a part of every tensor.

Either way AdamW sees plain tensors, and a checkpoint holds whole ones by name: any number of ranks reads it. Steps,
rows and losses are loop.py's business.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from topcoat_trainer import layers
from topcoat_trainer.errors import PeerLost
from topcoat_trainer.loop import optimizer as optimizers
from topcoat_trainer.loop.checkpoint import Checkpoint
from topcoat_trainer.loop.course import Course
from topcoat_trainer.loop.optimizer import Parameters
from topcoat_trainer.ranks import Ranks

# Of each trained number in FP32: itself, its gradient and AdamW's two moments.
PARAMETER_BYTES = 16
MEMORY_SHARE = 0.5

Tensors = dict[str, torch.Tensor]
Pass = tuple[Sequence[int], float]
"""Rows that go through the model together, and how much their loss counts: 1, or 0 where a rank only keeps step."""


def why_split(parameters: int, available_bytes: int, ranks: int) -> str:
    """Why a fully trained tail is split over the ranks; empty where each of them has room for all of it."""
    need = parameters * PARAMETER_BYTES
    if ranks == 1 or need <= available_bytes * MEMORY_SHARE:
        return ""
    return (
        f"the trained layers are split over {ranks} processes: whole they take {need / 2**30:.1f} GiB with gradients "
        f"and AdamW's state, more than half of the {available_bytes / 2**30:.1f} GiB of memory that are free"
    )


def fingerprint(parameters: Parameters) -> str:
    """Digest of the trained weights: equal before and after means that nothing was learnt."""
    digest = hashlib.sha256()
    for parameter in parameters.values():
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What the loop may change, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def part(whole: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """One rank's lines of a tensor, as FSDP2 deals them out; with fewer lines than ranks the last have none."""
    found = whole.chunk(size)
    return found[rank] if rank < len(found) else whole[:0]


class Holding(Protocol):
    """What the loop asks of either way. All ranks call each method, in the same order."""

    parameters: dict[str, nn.Parameter]
    """What this rank's optimizer changes."""
    optimizer: torch.optim.AdamW
    split: bool

    def passes(self, parts: Sequence[Sequence[int]], idle: Sequence[int]) -> list[Pass]:
        """The forward passes of this rank; `idle` are rows for one that only keeps step with the others."""

    def hearing(self) -> contextlib.AbstractContextManager[None]:
        """Inside it a computation that fails since another rank is gone says so."""

    def add_up(self, loss: float) -> float:
        """Gradients and loss, summed over all ranks."""

    def clipped(self, limit: float) -> float:
        """Norm of all gradients, which are no longer than `limit` afterwards."""

    def norm(self) -> float:
        """Of all trained weights."""

    def forget_gradients(self) -> None: ...

    def stand(self, found: Checkpoint | None) -> None:
        """Puts the first rank's checkpoint, if it has one, into all ranks."""

    def whole(self) -> tuple[Tensors, Tensors]:
        """Weights and optimizer state for a checkpoint, for the first rank."""

    def conclude(self) -> dict[str, nn.Parameter]:
        """The trained weights, whole and in the model, for the first rank."""


def held(course: Course) -> Holding:
    """As the course says."""
    return Parts(course) if course.split else Whole(course)


class Whole:
    """Every rank has all weights and all state, and all compute the same step from the summed gradients."""

    split = False

    def __init__(self, course: Course) -> None:
        self.ranks = course.ranks
        self.parameters = trained(course.model)
        self.optimizer = optimizers.adamw(self.parameters, course.settings.weight_decay)

    def passes(self, parts: Sequence[Sequence[int]], idle: Sequence[int]) -> list[Pass]:
        del idle  # ranks meet when their gradients are added up, not before
        return [(part, 1.0) for part in parts]

    def hearing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def add_up(self, loss: float) -> float:
        return self.ranks.add_up(self._gradients(), loss)

    def _gradients(self) -> Iterator[torch.Tensor]:
        """Every rank adds to every gradient, if only zeros."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            yield parameter.grad

    def clipped(self, limit: float) -> float:
        return float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))

    def norm(self) -> float:
        return float(nn.utils.get_total_norm(parameter.detach() for parameter in self.parameters.values()))

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def stand(self, found: Checkpoint | None) -> None:
        if found is not None:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(found.weights[name])
            optimizers.restore(self.optimizer, self.parameters, found.optimizer)
        self.ranks.copy_from_first(self.parameters.values())
        self.ranks.copy_from_first(optimizers.tensors(self.optimizer, self.parameters))

    def whole(self) -> tuple[Tensors, Tensors]:
        if not self.ranks.first:
            return {}, {}
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in self.parameters.items()}
        return weights, optimizers.state(self.optimizer, self.parameters)

    def conclude(self) -> dict[str, nn.Parameter]:
        if not self.ranks.alone:
            self.ranks.demand_same(fingerprint(self.parameters))
        return self.parameters


@dataclass(slots=True)
class _Before:
    """A layer's class and hooks before FSDP2 changed them."""

    layer: nn.Module
    kind: type[nn.Module]
    own: dict[str, Any]

    @classmethod
    def of(cls, layer: nn.Module) -> _Before:
        kept = {n: copy.copy(v) for n, v in vars(layer).items() if n not in {"_parameters", "_modules", "training"}}
        return cls(layer, type(layer), kept)

    def restore(self) -> None:
        own = vars(self.layer)
        for name in own.keys() - {"_parameters", "_modules", "training"}:
            del own[name]
        own.update(self.own)
        self.layer.__class__ = self.kind


class Parts:
    """Every rank has some lines of each weight, of its gradient and of its moments. FSDP2 puts a layer together when it
    computes, and adds its gradients up right behind it; so all ranks run equally many passes.
    """

    split = True

    def __init__(self, course: Course) -> None:
        self.ranks, self._model = course.ranks, course.model
        found = trained(course.model)
        # Once they are split, no rank has all of them to copy from.
        self.ranks.copy_from_first(found.values())
        self._shapes = {name: parameter.shape for name, parameter in found.items()}
        self._before = [_Before.of(layer) for layer in layers.tail(course.model, course.boundary)]
        del found
        for before in self._before:
            _split(before.layer, course.device.type, self.ranks)
        self._dealt: dict[str, Any] = dict(trained(course.model))
        self.parameters = {name: nn.Parameter(p.to_local().detach()) for name, p in self._dealt.items()}
        self.optimizer = optimizers.adamw(self.parameters, course.settings.weight_decay)

    def passes(self, parts: Sequence[Sequence[int]], idle: Sequence[int]) -> list[Pass]:
        most = int(max(self.ranks.each(len(parts))))
        return [*((part, 1.0) for part in parts), *[(idle, 0.0)] * (most - len(parts))]

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not _is_lost(error):
                raise
            raise self.ranks.why(PeerLost("another process of this run was lost")) from error

    def add_up(self, loss: float) -> float:
        """FSDP2 has summed the gradients. What is not finite on one rank is made so on all: they skip a step together
        or not at all.
        """
        for name, parameter in self.parameters.items():
            grad = self._dealt[name].grad
            parameter.grad = torch.zeros_like(parameter) if grad is None else grad.to_local().detach()
        own = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        broken = torch.tensor([float(not all(bool(grad.isfinite().all()) for grad in own))])
        loss = self.ranks.add_up([broken], loss)
        if broken[0]:
            for grad in own:
                grad.fill_(math.inf)
        return loss

    def clipped(self, limit: float) -> float:
        norm = self._norm([p.grad for p in self.parameters.values() if p.grad is not None])
        nn.utils.clip_grads_with_norm_(self.parameters.values(), limit, torch.tensor(norm))
        return norm

    def norm(self) -> float:
        return self._norm([parameter.detach() for parameter in self.parameters.values()])

    def _norm(self, own: Sequence[torch.Tensor]) -> float:
        length = float(nn.utils.get_total_norm(tensor for tensor in own if tensor.numel()))
        return math.sqrt(self.ranks.add_up((), length * length))

    def forget_gradients(self) -> None:
        for parameter in (*self.parameters.values(), *self._dealt.values()):
            parameter.grad = None

    def stand(self, found: Checkpoint | None) -> None:
        if not self.ranks.from_first({"found": found is not None})["found"]:
            return
        told: Tensors = {} if found is None else {**found.weights, **found.optimizer}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                state = self.optimizer.state[parameter]
                parameter.copy_(self._of_first(name, told.get(name)))
                for moment in optimizers.MOMENTS:
                    state[moment].copy_(self._of_first(name, told.get(f"{moment}/{name}")))
                step = told.get(f"step/{name}")
                state["step"].copy_(_there(self.ranks.copy_from(0, None if step is None else step.view(1, 1))).view(()))

    def _of_first(self, name: str, whole: torch.Tensor | None) -> torch.Tensor:
        """The lines of this rank, of a tensor that the first rank has whole."""
        flat = _there(self.ranks.copy_from(0, None if whole is None else whole.reshape(1, -1)))
        return part(flat.view(self._shapes[name]), self.ranks.rank, self.ranks.size)

    def whole(self) -> tuple[Tensors, Tensors]:
        weights: Tensors = {}
        state: Tensors = {}
        for name, parameter in self.parameters.items():
            own = self.optimizer.state[parameter]
            self._gather(weights, name, name, parameter)
            state[f"step/{name}"] = own["step"].detach().cpu()
            for moment in optimizers.MOMENTS:
                self._gather(state, f"{moment}/{name}", name, own[moment])
        return (weights, state) if self.ranks.first else ({}, {})

    def _gather(self, into: Tensors, key: str, name: str, own: torch.Tensor) -> None:
        """All ranks' lines of one tensor; only the first keeps them, so that no other needs the room."""
        found = []
        for rank in range(self.ranks.size):
            mine = own.detach().reshape(1, -1) if rank == self.ranks.rank else None
            told = _there(self.ranks.copy_from(rank, mine))
            if self.ranks.first:
                found.append(told)
        if self.ranks.first:
            into[key] = torch.cat(found, 1).view(self._shapes[name]).contiguous()

    def conclude(self) -> dict[str, nn.Parameter]:
        """Takes FSDP2 off again: what follows computes on the first rank alone."""
        weights: Tensors = {}
        for name, parameter in self.parameters.items():
            self._gather(weights, name, name, parameter)
        for before in self._before:
            before.restore()
        device = self._model.device
        for name, tensor in weights.items():
            home, _, leaf = name.rpartition(".")
            setattr(self._model.get_submodule(home), leaf, nn.Parameter(tensor.to(device)))
        return trained(self._model) if self.ranks.first else {}


def _split(layer: nn.Module, device: str, ranks: Ranks) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    frozen = {parameter for parameter in layer.parameters() if not parameter.requires_grad}
    mesh = init_device_mesh(device, (ranks.size,))
    unit: Any = fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=frozen)
    # The loss is divided by the step's tokens already: a sum, not a mean. gloo knows no scaled sums.
    unit.set_gradient_divide_factor(1.0)
    unit.set_force_sum_reduction_for_comms(True)


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def _there(told: torch.Tensor | None) -> torch.Tensor:
    if told is None:
        raise PeerLost("another rank had nothing to say")
    return told
