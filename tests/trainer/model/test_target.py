"""Which modules get an adapter: linear ones of the last layers, no router, and none that PEFT takes for another."""

from __future__ import annotations

from typing import Any, cast

import pytest
import transformers
from peft.tuners.lora.layer import Linear, ParamWrapper

from tests.support import architectures, exactness, tiny_models
from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, target
from topcoat_trainer.errors import UserInputError
from topcoat_trainer.model import BaseModel

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def attached(name: str, method: Method) -> tuple[adapter.Tail, dict[str, Any]]:
    """The tail, and the modules that have an adapter by their path."""
    model = architectures.make(name)
    base = BaseModel(model, tiny_models.tokenizer(), cast("Any", None), "cpu", model.dtype)
    tail = adapter.attach(base, method, exactness.edge(model), 1)
    adapted = {path: one for path, one in model.named_modules() if isinstance(one, Linear | ParamWrapper)}
    return tail, adapted


def choose(model: transformers.PreTrainedModel, *wanted: str) -> target.Targets:
    return target.choose(model, exactness.edge(model), wanted)


@pytest.mark.parametrize("name", ["deepseek_v3", "qwen3_next", "ernie4_5_moe", "mixtral", "qwen2_moe", "mamba", "dbrx"])
def test_adapters_are_on_linear_modules_of_the_last_layers_and_nowhere_else(name: str) -> None:
    """Dropout too: PEFT has none for fused weights, and would refuse."""
    _, adapted = attached(name, Method(lora=LoRA(rank=8, dropout="0.1")))
    assert adapted
    assert not [path for path, one in adapted.items() if isinstance(one, ParamWrapper)]
    assert {int(next(part for part in path.split(".") if part.isdecimal())) for path in adapted} <= {2, 3}


@pytest.mark.parametrize(
    ("name", "router"),
    [("dbrx", "ffn.router.layer"), ("jetmoe", "mlp.router.layer"), ("hunyuan_v1_moe", "gate.wg"), ("afmoe", "gate")],
)
def test_a_router_gets_no_adapter_however_deep_its_linear_module_lies(name: str, router: str) -> None:
    tail, adapted = attached(name, Method())
    paths = [path for path, _ in tail.model.named_modules() if path.endswith(f".{router}")]
    assert paths
    assert not [path for path in adapted if path.endswith(f".{router}")]
    assert any("routers (" in note for note in tail.notes)


@pytest.mark.parametrize(
    ("name", "word", "reason"),
    [("deepseek_v3", "down_proj", target.FOR_EXPERTS), ("mamba", "mixer.out_proj", target.FOR_MAMBA)],
)
def test_a_name_that_peft_takes_for_another_is_left_out_with_a_note_and_refused_where_it_is_asked_for(
    name: str, word: str, reason: str
) -> None:
    model = architectures.make(name)
    usual = choose(model)
    short = word.rsplit(".", 1)[-1]
    assert short not in usual.names
    assert any(short in note and reason in note for note in usual.notes)
    with pytest.raises(UserInputError, match="can have no adapter") as refused:
        choose(model, word)
    assert reason in refused.value.message
    assert usual.names[0] in refused.value.hint


def test_kernels_of_convolutions_are_no_fused_weights() -> None:
    assert not any("conv1d" in note for note in choose(architectures.make("mamba")).notes)
    assert any("experts.down_proj" in note for note in choose(architectures.make("mixtral")).notes)
