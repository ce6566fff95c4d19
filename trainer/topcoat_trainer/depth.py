"""How many of the last layers train where the manifest says `layers: Auto`: what is tried, how long, what wins.

Pure arithmetic on numbers that layer_trial.py measures; trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from topcoat.api.method import Method
from topcoat.api.report import LayerTrial
from topcoat.api.training import Training
from topcoat_trainer import boundary
from topcoat_trainer.boundary import Boundary

SHARES = (8, 4, 2)
FEWEST_ROWS = 200
# After few steps a loss says how fast a tail learns, not how far it comes, and larger tails are faster. SmolLM2-135M,
# 12 steps of 8 claims to sort: 4 and 8 layers have 76 and 89 % of the gain of 15.
FEWEST_STEPS = 48
# All trials together may train so much of what the whole run of the largest candidate would; else none are held.
MOST_OF_THE_RUN = 0.2
# What of the best candidate's gain the chosen one keeps at least.
KEPT_GAIN = 0.95


@dataclass(frozen=True, slots=True)
class Length:
    """How long the run is: rows, and optimizer steps in all and in an epoch."""

    rows: int
    steps: int
    steps_per_epoch: int


def candidates(total: int) -> tuple[Boundary, ...]:
    """An eighth, a quarter and half of the layers, rounded up, at least two; fewest first."""
    counts = {min(total, max(boundary.FEWEST_AUTO_LAYERS, -(-total // share))) for share in SHARES}
    return tuple(Boundary(total - count, total) for count in sorted(counts))


def against(length: Length, tried: tuple[Boundary, ...]) -> str:
    """Why no trials are held; empty if they are."""
    table = (
        (len(tried) < 2, "the model has too few layers to choose among"),
        (length.rows < FEWEST_ROWS, f"{length.rows} rows are too few for trials, which take {FEWEST_ROWS}"),
        (
            _affordable(length, tried) < FEWEST_STEPS,
            f"{length.steps} optimizer steps are too few to pay for trials of {FEWEST_STEPS} each",
        ),
    )
    return next((reason for holds, reason in table if holds), "")


def planned(rows: int, training: Training) -> Length:
    """As the manifest asks for it."""
    per_epoch = -(-rows // training.effective_batch_size)
    return Length(rows, min(training.epochs * per_epoch, training.max_steps or training.epochs * per_epoch), per_epoch)


def expected(total: int, rows: int, method: Method, training: Training) -> tuple[Boundary, ...]:
    """What trials will choose among, as far as it is known before a run; empty where none are held."""
    tried = candidates(total)
    return tried if method.layers == "Auto" and not against(planned(rows, training), tried) else ()


def epochs(length: Length, tried: tuple[Boundary, ...], layers: int) -> float:
    """What all trials train, in epochs of a run that trains so many layers."""
    return trial_steps(length, tried) * sum(edge.trained_layers for edge in tried) / layers / length.steps_per_epoch


def trial_steps(length: Length, tried: tuple[Boundary, ...]) -> int:
    """Steps of each trial: what may be spent on them, between the fewest that say something and an epoch."""
    return max(FEWEST_STEPS, min(length.steps_per_epoch, _affordable(length, tried)))


def _affordable(length: Length, tried: tuple[Boundary, ...]) -> int:
    """Steps of each trial that all of them together may cost."""
    largest, whole = max(edge.trained_layers for edge in tried), sum(edge.trained_layers for edge in tried)
    return int(MOST_OF_THE_RUN * length.steps * largest / whole)


def chosen(base_loss: float, losses: Mapping[Boundary, float]) -> Boundary | None:
    """The fewest layers that keep enough of the best one's gain; None where no candidate gained anything."""
    gains = {edge: base_loss - loss for edge, loss in losses.items()}
    best = max(gains.values(), default=0.0)
    enough = [edge for edge, gain in gains.items() if gain >= KEPT_GAIN * best > 0]
    return min(enough, key=lambda edge: edge.trained_layers, default=None)


def evidence(
    tried: tuple[Boundary, ...], steps: int, base_loss: float, losses: Mapping[Boundary, float]
) -> list[LayerTrial]:
    """The trials as the report tells them."""
    best = max((base_loss - loss for loss in losses.values()), default=0.0)
    winner = chosen(base_loss, losses)
    return [
        LayerTrial(
            layers=edge.trained_layers,
            steps=steps,
            loss=losses.get(edge),
            gain_share=(base_loss - losses[edge]) / best if edge in losses and best > 0 else 0.0,
            relative_cost=edge.trained_layers / tried[0].trained_layers,
            chosen=edge == winner,
        )
        for edge in tried
    ]
