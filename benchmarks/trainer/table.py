"""The figures as people read them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.trainer.figures import Course, reached_by_all

HEAD = (
    f"{'subject':<20}{'layers':>7}{'once':>9}{'epoch':>9}{'clock':>9}{'1':>9}{'3':>9}{'10 epochs':>11}"
    f"{'to loss':>9}{'loss':>8}{'memory':>10}"
)
OURS, UNCACHED = "topcoat", "topcoat-uncached"
WHOLE_RUNS = (1, 3, 10)
TARGETS = {
    ("claims", "trainer-all"): (12.0, 7.0),
    ("claims", "trl"): (6.0, 3.5),
    ("headlines", "trainer-all"): (5.5, 3.8),
    ("headlines", "trainer-tail"): (2.5, 1.8),
}
"""How many times as quick ours is to be: an epoch in the steady state, three epochs with all that comes before."""


def table(courses: Sequence[Course], *, aims: bool = True) -> str:
    """One block for each data set and depth; `aims`: with what was aimed at, which is for the demo's model."""
    blocks = []
    for rows, layers in dict.fromkeys((course.rows, course.last_layers) for course in courses if course.last_layers):
        few = [course for course in courses if course.rows == rows and course.last_layers in (layers, 0)]
        loss = reached_by_all(few)
        lines = [_row(course, loss) for course in few]
        words = f"rows: {rows}, last {layers} layers; to a held-out loss of {loss:.4f}"
        blocks.append("\n".join([words, HEAD, *lines, *ratios(few, aims=aims)]))
    return "\n\n".join(blocks)


def _row(course: Course, loss: float) -> str:
    fill, steady, until = course.fill, course.steady, course.until(loss)
    runs = [course.whole(epochs) for epochs in WHOLE_RUNS]
    return (
        f"{course.subject:<20}{course.last_layers or 'all':>7}{fill.cost_seconds:>9.1f}{steady.cost_seconds:>9.1f}"
        f"{steady.seconds:>9.1f}{runs[0]:>9.1f}{runs[1]:>9.1f}{runs[2]:>11.1f}"
        f"{'-' if until is None else format(until, '.1f'):>9}{course.epochs[-1].heldout_loss:>8.4f}"
        f"{course.peak_mib:>6.0f} MiB"
    )


def ratios(courses: Sequence[Course], *, aims: bool = True) -> Iterator[str]:
    """How many times the others' time is ours."""
    ours = next((course for course in courses if course.subject == OURS), None)
    if ours is None:
        return
    for course in courses:
        if course is ours:
            continue
        steady = course.steady.cost_seconds / ours.steady.cost_seconds
        three = course.whole(3) / ours.whole(3)
        best = max(
            (key for key in TARGETS if key[0] == course.rows and course.subject.startswith(key[1])), default=None
        )
        told = ("", "") if best is None or not aims else tuple(f" (target {aim:g})" for aim in TARGETS[best])
        yield f"{course.subject} / {OURS}: {steady:.2f} in an epoch{told[0]}, {three:.2f} in three{told[1]}"
