"""A model run in two halves: up to the boundary once, behind it as often as needed. No family has code of its own here.

Skip and inject: stubs stand in for the frozen layers, and a hook puts the kept hidden state in at the boundary. The
model's own forward still builds masks, positions, final norm and logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from topcoat_trainer import layers
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import TrainerError

SCALARS = (str, int, float, bool, type(None))


class _Reached(Exception):
    """Not an error: the hidden state has arrived at the boundary, and the pass may end."""


class Stub(nn.Module):
    """Stands in for a frozen layer: gives its input back, in the shape in which that layer answers."""

    def __init__(self, layer: nn.Module, extra_outputs: int | None) -> None:
        super().__init__()
        self.extra_outputs = extra_outputs
        # Models ask their layers for such as `attention_type` to choose a mask.
        for name, value in vars(layer).items():
            if isinstance(value, SCALARS) and not name.startswith("_") and name != "training":
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if self.extra_outputs is None else (hidden, *[None] * self.extra_outputs)


class Halves:
    """The two halves of one model. `capture` must have run once before `injected`: it learns the layers' answers."""

    def __init__(self, model: PreTrainedModel, edge: Boundary) -> None:
        if edge.first_trained == 0:
            raise TrainerError("every layer trains, so there is no frozen half")
        self.model = model
        self.edge = edge
        self._stack = layers.stack(model)
        self._stubs: list[Stub] = []

    def capture(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The hidden state that enters the first trained layer. Computes the frozen layers only, without gradients."""
        return self.capture_all(inputs, ())[-1]

    def capture_all(self, inputs: Mapping[str, Any], earlier: Sequence[int]) -> list[torch.Tensor]:
        """The same pass also gives what enters `earlier` layers (rising numbers); the boundary's state comes last."""
        caught: list[torch.Tensor] = []
        answers: list[int | None] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(_, args, kwargs)
            raise _Reached

        def note(_: nn.Module, __: Any, output: Any) -> None:
            answers.append(len(output) - 1 if isinstance(output, tuple) else None)

        # First of all hooks: where ranks hold parts of a layer (FSDP2), others would wait for it to be put together.
        handles = [self._first_trained.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)]
        handles += [self._frozen[index].register_forward_pre_hook(keep, with_kwargs=True) for index in earlier]
        handles += [layer.register_forward_hook(note) for layer in self._frozen]
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.no_grad():
                self.model(**{"use_cache": False, **inputs})
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
            for module in training:
                module.training = True
        if len(caught) != len(earlier) + 1 or len(answers) != self.edge.first_trained:
            raise TrainerError("the model did not run its layers once each, in order")
        if not self._stubs:
            self._stubs = [Stub(layer, extra) for layer, extra in zip(self._frozen, answers, strict=True)]
        return caught

    @contextmanager
    def injected(self, hidden: torch.Tensor) -> Iterator[PreTrainedModel]:
        """Inside it the model's forward begins with `hidden` at the boundary, for batches of hidden's shape."""
        if not self._stubs:
            raise TrainerError("capture must come before inject")

        def put_in(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            arriving = args[0] if args else kwargs["hidden_states"]
            if arriving.shape != hidden.shape:
                raise TrainerError(
                    f"kept states of shape {tuple(hidden.shape)} meet a batch of {tuple(arriving.shape)}"
                )
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        frozen = self._frozen
        handle = self._first_trained.register_forward_pre_hook(put_in, with_kwargs=True)
        try:
            self._replace(self._stubs)
            yield self.model
        finally:
            self._replace(frozen)
            handle.remove()

    @property
    def _frozen(self) -> list[nn.Module]:
        return list(self._stack)[: self.edge.first_trained]

    @property
    def _first_trained(self) -> nn.Module:
        return self._stack[self.edge.first_trained]

    def _replace(self, modules: list[Any]) -> None:
        for index, module in enumerate(modules):
            self._stack[index] = module


def difference(whole: torch.Tensor, split: torch.Tensor) -> float:
    """Largest difference, as a share of the largest number in `whole`; infinite where either is not finite."""
    if not (torch.isfinite(whole).all() and torch.isfinite(split).all()):
        return float("inf")
    scale = whole.abs().max().float().clamp_min(1e-6)
    return float((whole.float() - split.float()).abs().max() / scale)
