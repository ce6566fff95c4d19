"""The hash of a run's resolved inputs. The same hash never trains twice; a change says which part changed.

Defaults are applied first, so that writing a default out changes nothing. The hash's own format has a number: a
change of format never retrains.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from topcoat.api.finetunejob import FineTuneJobSpec

HASH_FORMAT = "1"


def input_parts(spec: FineTuneJobSpec, dataset_digest: str, base_digest: str) -> dict[str, str]:
    """Hash of each part that a run depends on: baseModel, dataset, method, training, retrain."""
    dataset = spec.dataset.as_json()
    for place in ("train", "evaluation"):
        dataset.pop(place, None)
    training = spec.training.as_json()
    training.get("activationCache", {}).pop("keep", None)  # what is kept for later runs changes nothing of this one
    parts: dict[str, Any] = {
        "format": HASH_FORMAT,
        "baseModel": base_digest,
        "dataset": {"digest": dataset_digest, **dataset},
        "method": spec.method.as_json(),
        "training": training,
        "requestedAt": spec.retrain.requested_at or "",
    }
    return {name: part if isinstance(part, str) else _digest(part) for name, part in parts.items()}


def input_hash(parts: dict[str, str]) -> str:
    """One hash over all parts."""
    return f"{parts['format']}:{_digest(parts)}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
