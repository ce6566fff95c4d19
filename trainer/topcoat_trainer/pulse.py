"""The ear of each rank of a run: it hears on a thread of its own that the run ended or that another rank is gone.

Computes nothing; what is said at the end is ranks.py's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from topcoat.api.report import Termination
from topcoat_trainer.ranks import GRACE_SECONDS, PULSE_SECONDS, Ranks

LOST_SECONDS = 180.0


class Watch(threading.Thread):
    """Each rank's ear: hears that the run ended or a rank was lost while its own process computes or waits.

    A process that does not end by itself within the grace is ended: `bail` says the last word and never returns.
    """

    def __init__(self, ranks: Ranks, bail: Callable[[Termination], None], lost: Callable[[], Termination]) -> None:
        super().__init__(name="ranks", daemon=True)
        self._ranks, self._bail, self._lost = ranks, bail, lost
        self._store = ranks.store.clone()
        self._pulses: dict[int, tuple[int, float]] = {}

    def run(self) -> None:
        word: Termination | None = None
        while word is None:
            if self._ranks.ended.wait(PULSE_SECONDS):
                return
            word = self._word_or_none()
        if not self._ranks.ended.wait(GRACE_SECONDS):
            self._bail(word)

    def _word_or_none(self) -> Termination | None:
        ranks = self._ranks
        try:
            self._store.add(f"pulse/{ranks.rank}", 1)
            for name in ("end", "failed"):
                if self._store.check([name]) and not (ranks.first and ranks.apart):
                    return Termination.model_validate_json(self._store.get(name))
            others = range(1, ranks.size) if ranks.first and not ranks.apart else () if ranks.first else (0,)
            return self._lost() if any(self._is_lost(other) for other in others) else None
        except RuntimeError:
            return self._lost()

    def _is_lost(self, other: int) -> bool:
        pulse, now = int(self._store.add(f"pulse/{other}", 0)), time.monotonic()
        if self._pulses.get(other, (-1, 0.0))[0] != pulse:
            self._pulses[other] = (pulse, now)
        return now - self._pulses[other][1] > LOST_SECONDS
