"""`method`: the form of the change, and the layers in which it may happen."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from topcoat.api.field import BelowOne
from topcoat.api.section import Rule, Section


class MethodType(StrEnum):
    """Form of the change."""

    LORA = "LoRA"
    QLORA = "QLoRA"
    FULL = "Full"


LayerCount = Annotated[int, Field(ge=1, le=1000)]
Layers = Literal["Auto", "All"] | LayerCount
Rank = Literal[8, 16, 32, 64, 128]
DEFAULT_RANK: Rank = 16
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=128)]


class LoRA(Section):
    """The low-rank adapter (LoRA, Hu et al. 2021) that is trained beside frozen weights."""

    rank: Rank = DEFAULT_RANK
    """Rank of the adapter; one of those that inference servers accept."""
    alpha: Annotated[int, Field(ge=1, le=1024)] = 32
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: BelowOne = "0"
    """Dropout on the adapter's input, below 1."""
    target_modules: Annotated[tuple[ModuleName, ...], Field(max_length=32)] = ()
    """Names of the linear modules to adapt (`q_proj`). Empty: all linear modules of the chosen layers."""
    use_rs_lora: Annotated[bool, Field(alias="useRSLoRA")] = False
    """Scale by alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023)."""
    use_dora: Annotated[bool, Field(alias="useDoRA")] = False
    """Weight-decomposed adapter (DoRA, Liu et al. 2024). vLLM does not serve it."""


class Method(Section):
    """How the model is changed."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.type == 'QLoRA' && self.lora.useDoRA)",
            lambda m: not (m.type == MethodType.QLORA and m.lora.use_dora),
            "method.lora.useDoRA cannot be combined with QLoRA; use type LoRA",
        ),
    )

    type: MethodType = MethodType.LORA
    """`LoRA` trains a small adapter; `QLoRA` does so over 4-bit weights (GPU only); `Full` trains the layers' own
    weights."""
    layers: Annotated[Layers, Field(json_schema_extra={"x-kubernetes-int-or-string": True})] = "Auto"
    """The last n layers, `All`, or `Auto`: short trials compare an eighth, a quarter and half of the layers, and the
    fewest that learn about as well as the best are trained. With few rows or steps `Auto` takes an eighth for
    classification and half for other data."""
    lora: LoRA = LoRA()
    """Settings of LoRA and QLoRA."""
