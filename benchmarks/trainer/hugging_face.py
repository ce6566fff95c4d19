"""Hugging Face: Trainer with PEFT, on all layers or on the same last ones, and TRL's SFTTrainer at its best."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from typing import Any

import datasets
import peft
import torch
import transformers
from transformers import TrainerCallback, TrainingArguments

from benchmarks.trainer.subject import NOT_LEARNT, Order, Pace, labels

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What ours tunes, too."""


class Paced(TrainerCallback):
    """Waits for its turn before each epoch."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._pace.wait()

    def on_epoch_end(self, *_: Any, **told: Any) -> None:
        self._pace.done(told["model"])


def trainer(order: Order, pace: Pace) -> None:
    """Trainer as its documentation sets it up: rows filled up to the longest of a batch, rows of like length
    together.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, train_sampling_strategy="group_by_length", remove_unused_columns=False, **_settings(order)
        )
        made = transformers.Trainer(
            model=_model(order),
            args=arguments,
            train_dataset=_rows(order),
            data_collator=_padded,
            callbacks=[Paced(pace)],
        )
        _run(made, pace)


def sft(order: Order, pace: Pace) -> None:
    """TRL without filling: the rows of a step one behind the other, each seeing itself only."""
    _sft(order, pace, padding_free=True)


def sft_padded(order: Order, pace: Pace) -> None:
    """TRL with rows filled up, which may be quicker where attention has no kernel for rows of many lengths."""
    _sft(order, pace, padding_free=False)


def sft_liger(order: Order, pace: Pace) -> None:
    """TRL without filling, with Liger's kernels (GPU)."""
    _sft(order, pace, padding_free=True, liger=True)


def unsloth(order: Order, pace: Pace) -> None:
    """TRL with Unsloth's model (GPU)."""
    module: Any = importlib.import_module("unsloth")  # first: it changes what is imported later
    longest = max(len(row.ids) for row in order.rows.train)
    base, _ = module.FastLanguageModel.from_pretrained(
        str(order.model), max_seq_length=longest, dtype=torch.bfloat16, load_in_4bit=False
    )
    model = module.FastLanguageModel.get_peft_model(
        base, r=order.rank, lora_alpha=2 * order.rank, lora_dropout=0.0, target_modules=TARGETS,
        layers_to_transform=_wanted(order, base.config), random_state=order.seed,
    )  # fmt: skip
    _sft(order, pace, padding_free=False, model=model)


def _sft(order: Order, pace: Pace, *, padding_free: bool, liger: bool = False, model: Any = None) -> None:
    trl: Any = importlib.import_module("trl")
    warnings.filterwarnings("ignore", message=".*[Pp]adding-free.*")
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.SFTConfig(
            folder,
            padding_free=padding_free,
            train_sampling_strategy="random" if padding_free else "group_by_length",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=False,
            use_liger_kernel=liger,
            **_settings(order),
        )
        tokenizer: Any = transformers.AutoTokenizer
        made = trl.SFTTrainer(
            model=model or _model(order),
            args=arguments,
            train_dataset=_rows(order),
            processing_class=tokenizer.from_pretrained(order.model),
            callbacks=[Paced(pace)],
        )
        _run(made, pace)


def _run(made: Any, pace: Pace) -> None:
    pace.wait()
    pace.done(None)  # nothing is done once only
    made.train()


def _settings(order: Order) -> dict[str, Any]:
    return {
        "num_train_epochs": order.epochs, "per_device_train_batch_size": order.rows_per_step,
        "learning_rate": order.learning_rate, "warmup_steps": order.warmup_ratio, "lr_scheduler_type": "linear",
        "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch_fused", "use_cpu": not order.gpu,
        "bf16": order.gpu, "seed": order.seed,
        "save_strategy": "no", "report_to": "none", "logging_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def _model(order: Order) -> Any:
    factory: Any = transformers.AutoModelForCausalLM
    model = factory.from_pretrained(order.model, dtype=torch.bfloat16 if order.gpu else torch.float32)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=order.rank, lora_alpha=2 * order.rank, lora_dropout=0.0, target_modules=TARGETS,
        layers_to_transform=_wanted(order, model.config),
    )  # fmt: skip
    return peft.get_peft_model(model, config)


def _wanted(order: Order, config: Any) -> list[int]:
    """Numbers of the layers that train."""
    total = config.num_hidden_layers
    return list(range(total - (order.last_layers or total), total))


def _rows(order: Order) -> Any:
    return datasets.Dataset.from_list([{"input_ids": list(row.ids), "labels": labels(row)} for row in order.rows.train])


def _padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])

    lengths = [len(row["input_ids"]) for row in rows]
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return {"input_ids": filled("input_ids", 0), "labels": filled("labels", NOT_LEARNT), "attention_mask": mask}
