"""The gate: the same exam for base, serving version and candidate, cheaper ways beside them, and a verdict by rule."""
