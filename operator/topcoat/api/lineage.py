"""Where a version comes from: a part of its manifest and of its evaluation. JSON numbers, as in report.py."""

from __future__ import annotations

from topcoat.api.section import Lenient


class Lineage(Lenient):
    """Where a version comes from."""

    job: str
    """FineTuneJob's name."""
    namespace: str
    """Its namespace."""
    run: int
    """Number of the run."""
    version: str
    """Name of the version."""
    trigger: str
    """Why the run started."""
    method: str
    """LoRA, QLoRA or Full."""
    first_trained_layer: int
    """The boundary: layers from this index on are trained."""
    total_layers: int
    """Layers of the model."""
    rank: int | None = None
    """Rank of the adapter."""
    learning_rate: float | None = None
    """Peak learning rate."""
    trained_parameters: int
    """Parameters that changed."""
    total_parameters: int
    """Parameters of the model."""
    steps: int
    """Optimizer steps done."""
    target_steps: int
    """Optimizer steps that the run was to do."""
    epochs: float
    """Epochs done."""
    seed: int
    """training.seed."""
    precision: str
    """Number format of the computation."""
    device: str
    """Device it ran on."""
    code_version: str
    """Version of Topcoat."""
    libraries: dict[str, str] = {}
    """Versions of the libraries that matter."""
    started_at: str
    """RFC 3339, UTC."""
    finished_at: str
    """RFC 3339, UTC."""
    resumed: int = 0
    """How often the run was resumed."""
    notes: list[str] = []
    """What a person should know (micro-batch halved, cache off, modules left out …)."""
