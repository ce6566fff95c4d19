"""The figures as people read them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.serving.figures import Figures

HEAD = f"{'subject':<22}{'versions':>9}{'tokens/s':>10}{'first token':>13}{'p95':>8}{'memory':>10}"
TARGETS = {"peft": 3.0, "transformers": 1.0}
"""Ours is to answer so many times as many tokens a second."""


def table(medians: Sequence[Figures]) -> str:
    """One block for each load, with how many times the others' tokens we answer."""
    blocks = []
    for load in dict.fromkeys(found.load for found in medians):
        rows = [found for found in medians if found.load == load]
        blocks.append("\n".join([f"load: {load}", HEAD, *map(_row, rows), *ratios(rows)]))
    return "\n\n".join(blocks)


def _row(found: Figures) -> str:
    return (
        f"{found.subject:<22}{found.versions or 'base':>9}{found.tokens_per_second:>10.1f}"
        f"{found.first_token_median_seconds:>11.2f} s{found.first_token_p95_seconds:>6.2f} s"
        f"{found.memory_mib:>6.0f} MiB"
    )


def ratios(rows: Sequence[Figures]) -> Iterator[str]:
    speeds: Mapping[tuple[str, int], float] = {(row.subject, row.versions): row.tokens_per_second for row in rows}
    for (subject, versions), speed in speeds.items():
        own = speeds.get(("topcoat", versions))
        if subject in TARGETS and own:
            words = f"{versions} versions" if versions else "the base"
            yield f"topcoat / {subject}, {words}: {own / speed:.2f} (target {TARGETS[subject]:g})"
    memory = {row.versions: row.memory_mib for row in rows if row.subject == "topcoat"}
    if 1 in memory:
        for versions, mib in memory.items():
            if versions > 1:
                yield f"memory of {versions} versions / of one: {mib / memory[1]:.3f} (target for ten: 1.15)"
