"""The rule of the gate: total, monotone, and never in favour of what it has not seen enough of."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from topcoat.api.evaluation import Evaluation, MetricName
from topcoat.api.promotion import Against, Promotion, Requirement, Verdict
from topcoat.api.report import TaskKind
from topcoat_trainer.gate import requirement, verdict
from topcoat_trainer.gate.verdict import Evidence, Limit

NUMBER = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(-2, 2)
LIMITS = st.builds(Limit, needed=st.floats(-1, 1), min_samples=st.integers(10, 500))


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    lower, delta, upper = sorted(draw(st.tuples(FINITE, FINITE, FINITE)))
    return Evidence(delta, lower, upper, draw(st.integers(0, 1000)), draw(st.integers(0, 1000)))


@given(st.builds(Evidence, NUMBER, NUMBER, NUMBER, st.integers(), st.integers()), LIMITS)
def test_every_evidence_gets_one_of_three_answers(evidence: Evidence, limit: Limit) -> None:
    assert verdict.judged(evidence, limit) in Verdict


@given(evidences(), LIMITS)
def test_too_few_rows_or_groups_are_never_a_promotion_nor_a_rejection(evidence: Evidence, limit: Limit) -> None:
    few = replace(evidence, samples=limit.min_samples - 1)
    assert verdict.judged(few, limit) is Verdict.INCONCLUSIVE
    assert verdict.judged(replace(evidence, groups=verdict.GROUPS_AT_LEAST - 1), limit) is Verdict.INCONCLUSIVE


@given(evidences(), LIMITS, st.floats(0, 2))
def test_better_evidence_never_gets_a_worse_answer(evidence: Evidence, limit: Limit, shift: float) -> None:
    better = replace(evidence, delta=evidence.delta + shift, lower=evidence.lower + shift, upper=evidence.upper + shift)
    order = verdict.ORDER.index
    assert order(verdict.judged(better, limit)) >= order(verdict.judged(evidence, limit))


@given(evidences(), LIMITS, st.floats(0, 2))
def test_asking_for_more_never_gets_a_better_answer(evidence: Evidence, limit: Limit, more: float) -> None:
    stricter = replace(limit, needed=limit.needed + more)
    order = verdict.ORDER.index
    assert order(verdict.judged(evidence, stricter)) <= order(verdict.judged(evidence, limit))


@given(evidences(), LIMITS)
def test_a_promotion_has_its_whole_interval_above_the_need(evidence: Evidence, limit: Limit) -> None:
    if verdict.judged(evidence, limit) is Verdict.PROMOTE:
        assert evidence.lower > limit.needed
        assert evidence.samples >= limit.min_samples


@given(st.lists(st.sampled_from(list(Verdict))))
def test_one_rejection_rejects_and_only_all_promote(verdicts: list[Verdict]) -> None:
    whole = verdict.worst(verdicts)
    assert (whole is Verdict.REJECT) == (Verdict.REJECT in verdicts)
    assert (whole is Verdict.PROMOTE) == (bool(verdicts) and set(verdicts) == {Verdict.PROMOTE})


def test_no_improvement_at_all_is_inconclusive() -> None:
    assert verdict.judged(Evidence(0, 0, 0, 300, 300), Limit(0, 50)) is Verdict.INCONCLUSIVE


def test_a_number_that_is_none_is_inconclusive() -> None:
    assert verdict.judged(Evidence(1, math.nan, 2, 300, 300), Limit(0, 50)) is Verdict.INCONCLUSIVE


def test_an_allowed_regression_is_rejected_only_beyond_what_is_allowed() -> None:
    limit = Limit(-0.1, 50)
    assert verdict.judged(Evidence(-0.02, -0.05, -0.01, 300, 300), limit) is Verdict.PROMOTE
    assert verdict.judged(Evidence(-0.08, -0.15, -0.01, 300, 300), limit) is Verdict.INCONCLUSIVE
    assert verdict.judged(Evidence(-0.3, -0.4, -0.2, 300, 300), limit) is Verdict.REJECT


def test_while_no_version_serves_a_requirement_is_not_said_twice() -> None:
    base = Requirement(metric=MetricName.ACCURACY, min_improvement="0.1")
    serving = Requirement(metric=MetricName.ACCURACY, against=Against.SERVING)
    stricter = Requirement(metric=MetricName.ACCURACY, against=Against.SERVING, min_improvement="0.2")
    loss = Requirement(metric=MetricName.LOSS, against=Against.SERVING)
    asked = Promotion(requirements=(base, serving, stricter, loss))

    def kept(*, serves: bool) -> tuple[Requirement, ...]:
        return requirement.wanted(Evaluation(), asked, TaskKind.CLASSIFICATION, serves=serves).requirements

    assert kept(serves=False) == (base, stricter, loss)
    assert kept(serves=True) == (base, serving, stricter, loss)
