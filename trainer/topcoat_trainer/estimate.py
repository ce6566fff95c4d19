"""What a run will need, before it starts: time by stages, memory by parts, disk, GPU hours. From shapes and a measured
product, without torch. What cannot be known here (a GPU's speed) is left unknown.

The constants below were calibrated on SmolLM2-135M (30 layers of width 576, FP32) with the demo's claims, LoRA of rank
16 on the last 8 layers, on two cores of a server's CPU; docs/explanation/estimates.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from topcoat.api.method import MethodType
from topcoat.api.prepared import MemoryEstimate, StageEstimate
from topcoat.api.report import DataCard, Estimate
from topcoat.api.run import RunFile
from topcoat.api.training import CacheMedium, Precision
from topcoat_trainer import depth, shapes, speed, workload
from topcoat_trainer.boundary import choose
from topcoat_trainer.model_file import ModelFacts
from topcoat_trainer.speed import Speed
from topcoat_trainer.workload import Load, Work

# Share of a measured product's speed that a stage reaches: the rest goes into attention's small products, norms,
# activations and copies. To calibrate one anew, divide it by "measured / estimated" of its stage in a report.
READ_EFFICIENCY = 0.48
LEARN_EFFICIENCY = 0.65
THIN_EFFICIENCY = 0.26
WRITE_EFFICIENCY = 0.2
# Interpreter, libraries, the model's construction, and one second more for so many bytes of weights and rows' tokens.
LOADING_SECONDS = 12.0
LOADED_BYTES_PER_SECOND = 400e6
RENDERED_TOKENS_PER_SECOND = 50_000.0

PROCESS_BYTES = 900 << 20
# Values kept per token, layer and unit of width for the backward pass, with what its own products hold meanwhile.
KEPT_VALUES = 40
# Values of keys and values that judging keeps per token, layer and unit of width, and its logits' copies.
JUDGED_TOKENS = 6144
JUDGED_ROWS = 64
LOGIT_COPIES = 3
QUANTISED_BYTES = 0.6
OPTIMIZER_BYTES = 16
CHECKPOINT_BYTES = 12
GPU = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the run will compute. `known`: this very machine's processors do it, so that their speed says something."""

    gpus: int
    processes: int

    @property
    def known(self) -> bool:
        return self.gpus == 0


def target(run: RunFile) -> Target:
    """As the run file says, else this machine."""
    gpus = run.gpus if run.gpus is not None else int(GPU.exists())
    return Target(gpus, max(run.processes, 1))


def load(facts: ModelFacts, card: DataCard, run: RunFile) -> Load:
    """The run in numbers."""
    edge = choose(facts.layers, run.method.layers, card.task.value)
    place, planned = target(run), depth.planned(card.train_samples, run.training)
    tried = depth.expected(facts.layers, card.train_samples, run.method, run.training)
    return Load(
        shapes=shapes.shapes(facts, edge, run.method),
        card=card,
        training=run.training,
        evaluation=run.evaluation,
        serving=run.serving is not None,
        on_cpu=place.known,
        processes=place.processes,
        trial_epochs=depth.epochs(planned, tried, edge.trained_layers) if tried else 0.0,
    )


def estimate(facts: ModelFacts, card: DataCard, run: RunFile) -> Estimate:
    """The needs of a run: of its memory and time on the device that it will have."""
    wanted, place = load(facts, card, run), target(run)
    pace = speed.measured(facts.hidden_size, run.method.lora.rank) if place.known else None
    made = stages(wanted, pace, facts.parameter_bytes)
    parts = memory(wanted, run, facts.parameters)
    held = sum(part.bytes for part in parts)
    known = [stage.seconds for stage in made if stage.seconds is not None]
    seconds = round(sum(known), 1) if len(known) == len(made) else None
    return Estimate(
        memory_bytes=held if place.known else PROCESS_BYTES + facts.parameter_bytes,
        duration_seconds=seconds,
        trained_parameters=wanted.shapes.trained,
        total_parameters=facts.parameters + wanted.shapes.adapter,
        stages=made,
        memory=parts,
        gpu_memory_bytes=None if place.known else held,
        disk_bytes=disk_bytes(wanted, run),
        gpus=place.gpus,
        gpu_hours=None if place.known or seconds is None else round(seconds * place.gpus / 3600, 4),
        device=_device(place),
    )


def _device(place: Target) -> str:
    if place.known:
        return "the CPU of the machine that prepared, by a measured matrix product"
    return "a GPU, whose speed is not known before training begins: operations only"


def stages(wanted: Load, pace: Speed | None, parameter_bytes: int) -> list[StageEstimate]:
    """All stages; without a pace, their operations only."""
    work = {
        "Caching": workload.caching(wanted),
        "Training": workload.training(wanted),
        "Evaluating": workload.judging(wanted),
        "Baselines": workload.baselines(wanted),
    }
    read = parameter_bytes / LOADED_BYTES_PER_SECOND
    read += (wanted.card.tokens + wanted.card.holdout_tokens) / RENDERED_TOKENS_PER_SECOND
    loading = StageEstimate(stage="Loading", seconds=round(LOADING_SECONDS + read, 2) if pace else None)
    return [loading, *(_stage(name, part, pace) for name, part in work.items() if part.operations)]


def _stage(name: str, work: Work, pace: Speed | None) -> StageEstimate:
    seconds = None if pace is None else round(seconds_of(work, pace), 2)
    return StageEstimate(stage=name, operations=work.operations, seconds=seconds)


def seconds_of(work: Work, pace: Speed) -> float:
    """Operations over the speed that products of their form reach."""
    return (
        work.read / (pace.many * READ_EFFICIENCY)
        + work.learn / (pace.many * LEARN_EFFICIENCY)
        + work.thin / (pace.thin * THIN_EFFICIENCY)
        + work.write / (pace.few * WRITE_EFFICIENCY)
    )


def _width(run: RunFile, *, on_cpu: bool) -> int:
    """Bytes of a number of the computation."""
    half = run.training.precision in (Precision.BF16, Precision.FP16)
    return 2 if half or (run.training.precision is Precision.AUTO and not on_cpu) else 4


def memory(wanted: Load, run: RunFile, parameters: int) -> list[MemoryEstimate]:
    """Weights, what training holds, and what judging holds beyond that: the two are not there at once."""
    shape, width = wanted.shapes, _width(run, on_cpu=wanted.on_cpu)
    each = QUANTISED_BYTES if run.method.type is MethodType.QLORA else 4 if shape.full else width
    cache = cache_bytes(wanted, width) if run.training.activation_cache.medium is not CacheMedium.VOLUME else 0
    learnt = wanted.card.trained_tokens / max(1, wanted.card.tokens) * wanted.pass_tokens
    training = {
        "trained part, gradients and moments": shape.trained * OPTIMIZER_BYTES,
        "kept activations": wanted.pass_tokens * shape.hidden * KEPT_VALUES * width * shape.trained_layers,
        "logits": round(max(1.0, learnt)) * shape.vocabulary * 4 * LOGIT_COPIES,
        "activation cache": cache,
    }
    judging = judging_bytes(wanted, width)
    base = {"process": PROCESS_BYTES, "weights": round(parameters * each), **training}
    rest = max(0, judging - sum(training.values()))
    named = base | {"judging, beyond what training held": rest}
    return [MemoryEstimate(part=name, bytes=size) for name, size in named.items() if size]


def cache_bytes(wanted: Load, width: int) -> int:
    """The states of all rows at the boundary, where they are kept."""
    if not wanted.cached:
        return 0
    tokens = wanted.card.tokens + wanted.watched_rows * wanted.mean_tokens
    return round(tokens * wanted.shapes.hidden * width)


def judging_bytes(wanted: Load, width: int) -> int:
    """Keys and values of a full batch of prompts, and its logits."""
    asked = workload.exam(wanted)
    tokens = min(JUDGED_TOKENS, JUDGED_ROWS * (asked.prompt + asked.longest_answer))
    states = 2 * tokens * wanted.shapes.layers * wanted.shapes.hidden * width
    return round(states + JUDGED_ROWS * wanted.shapes.vocabulary * 4 * LOGIT_COPIES)


def disk_bytes(wanted: Load, run: RunFile) -> int:
    """Checkpoints (weights and two moments, one more while it is written), candidate and version."""
    trained = wanted.shapes.trained
    kept = (run.lifecycle.checkpoint.keep + 1) * trained * CHECKPOINT_BYTES + 2 * trained * 4
    on_volume = run.training.activation_cache.medium is CacheMedium.VOLUME
    return kept + (cache_bytes(wanted, _width(run, on_cpu=wanted.on_cpu)) if on_volume else 0)
