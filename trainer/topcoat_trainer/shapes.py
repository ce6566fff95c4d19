"""Parameters of a model by place, from the headers of its weight files alone: below the boundary, behind it, head."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from topcoat.api.method import Method, MethodType
from topcoat_trainer import weight_file
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.model_file import ModelFacts

LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.")
ROUTER = re.compile(r"\.(router|gate|shared_expert_gate)\.weight$")


@dataclass(frozen=True, slots=True)
class Shapes:
    """Parameters by place. `trained`: those that change; `head`: of the product that makes logits."""

    layers: int
    trained_layers: int
    hidden: int
    vocabulary: int
    prefix: int
    tail: int
    adapter: int
    full: bool

    @property
    def body(self) -> int:
        """All layers, without embedding and head."""
        return self.prefix + self.tail

    @property
    def head(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def trained(self) -> int:
        return self.tail if self.full else self.adapter


def shapes(facts: ModelFacts, edge: Boundary, method: Method) -> Shapes:
    """The model's shapes for this method and boundary."""
    tail = prefix = adapter = 0
    wanted = method.lora.target_modules
    for index, name, entry in _layer_tensors(facts):
        if index < edge.first_trained:
            prefix += entry.elements
            continue
        tail += entry.elements
        fits = not wanted or any(name.removesuffix(".weight").endswith(target) for target in wanted)
        if len(entry.shape) == 2 and fits and not ROUTER.search(name):
            adapter += method.lora.rank * sum(entry.shape)
    full = method.type is MethodType.FULL
    sizes = {"layers": facts.layers, "trained_layers": edge.trained_layers, "hidden": facts.hidden_size}
    return Shapes(
        **sizes,
        vocabulary=facts.vocabulary_size,
        prefix=prefix,
        tail=tail,
        adapter=0 if full else adapter,
        full=full,
    )


def _layer_tensors(facts: ModelFacts) -> Iterator[tuple[int, str, weight_file.TensorEntry]]:
    """Layer, name and entry of each tensor that belongs to a layer."""
    for file in facts.files:
        if not file.name.endswith(".safetensors"):
            continue
        for name, entry in weight_file.header(facts.path / file.name).tensors.items():
            layer = LAYER.search(f".{name}")
            if layer is not None:
                yield int(layer.group(1)), name, entry
