"""What the parts of one operator process share. Made once at the start; no decisions, no calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from topcoat.cluster import act, client, memory, modelserver, queue
from topcoat.handlers import metrics, settings


@dataclass(slots=True)
class State:
    """One operator process."""

    settings: settings.Settings
    api: client.Client
    known: memory.Memory
    queue: queue.Queue
    hands: act.Hands
    servers: modelserver.Hands
    metrics: metrics.Metrics
    leading: bool = False
    expected: set[str] = field(default_factory=set)
    """Watches of Jobs and pods that there are to be."""
    synced: set[str] = field(default_factory=set)
    """Watches that have brought a first whole list."""
    heard: dict[str, float] = field(default_factory=dict)
    """When each watch last gave a sign of life, by the loop's clock."""
