"""Whatever is observed: the planner never raises, never serves wrongly, never deletes what matters, and converges."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import hypothesis
from hypothesis import strategies as st

from tests.support import worlds
from topcoat.api import conditions, finetunejob, names, profile, promotion, report
from topcoat.plan import intent, observed, plan, status

SECONDS = st.integers(0, 3000).map(lambda count: worlds.START + timedelta(seconds=count))
NUMBERS = st.integers(1, 5)
CODES = st.sampled_from([None, -9, 0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 137, 255])
VERDICTS = st.sampled_from([*promotion.Verdict, None])
HASHES = st.sampled_from(["", "1:1", "1:2", "0:old", "1:elsewhere"])
DATA = st.sampled_from(["d1", "d2"])
FLOATS = st.floats(allow_nan=True, allow_infinity=True)

SPECS = st.fixed_dictionaries(
    {},
    optional={
        "suspend": st.booleans(),
        "training": st.sampled_from([{}, {"epochs": 5}]),
        "lifecycle": st.sampled_from(
            [{"backoffLimit": 0}, {"activeDeadlineSeconds": 60, "onOutOfMemory": "Fail"}, {"queueDeadlineSeconds": 5}]
        ),
        "output": st.just({"historyLimit": 1}),
        "promotion": st.sampled_from(
            [{"policy": "Never"}, {"policy": "Manual"}, {"policy": "Manual", "approvedVersion": "v2"}]
        ),
        "serving": st.sampled_from([{"mode": "None"}, {"pinnedVersion": "v1"}, {"pinnedVersion": "v4"}]),
        "retrain": st.sampled_from(
            [{"suspend": True}, {"requestedAt": "2026-01-01T00:00:00Z"}, {"concurrencyPolicy": "Replace"},
             {"onDataChange": {"minNewSamples": 10}}]
        ),
        "trainer": st.just({"nodes": 2}),
    },
)  # fmt: skip


@st.composite
def summaries(draw: st.DrawFn) -> report.EvaluationSummary | None:
    verdict = draw(VERDICTS)
    if verdict is None:
        return None
    base, candidate, bound = draw(FLOATS), draw(FLOATS), draw(FLOATS)
    return report.EvaluationSummary.model_construct(
        metric="Loss", base=base, serving=draw(st.none() | FLOATS), candidate=candidate, delta=candidate - base,
        lower_bound=bound, samples=draw(st.integers(-1, 10**6)), verdict=verdict, reasons=["x" * 2000] * 20,
    )  # fmt: skip


@st.composite
def versions(draw: st.DrawFn) -> tuple[observed.SealedVersion, ...]:
    found = draw(st.sets(NUMBERS, max_size=4))
    return tuple(
        replace(
            worlds.sealed(number, input_hash=draw(HASHES)), verdict=draw(VERDICTS), evaluation=draw(summaries()),
            valid=draw(st.sampled_from([True, True, False])),
            digest=worlds.digest(draw(st.sampled_from([f"v{number}", "another"]))),
        )
        for number in sorted(found)
    )  # fmt: skip


@st.composite
def attempts(draw: st.DrawFn) -> observed.Attempt | None:
    if draw(st.booleans()):
        return None
    state = draw(st.sampled_from(list(observed.AttemptState)))
    ended = draw(SECONDS) if state is observed.AttemptState.ENDED else None
    code = draw(CODES)
    last = report.Termination(outcome=report.Outcome.FAILED, exit_code=code or 1, message="m", resumed_from_step=3)
    progress = report.Progress(
        stage=draw(st.sampled_from(["", "Training", "Evaluating"])), progress_percentage=250,
        estimated_remaining_seconds=-4, tokens_per_second=1.0, last_updated_time="yesterday",
    )  # fmt: skip
    return observed.Attempt(
        draw(NUMBERS), draw(NUMBERS), state, draw(SECONDS), ended, draw(HASHES), "Created",
        draw(st.sampled_from([None, progress])), code if ended else None, draw(st.sampled_from([None, last])),
        tuple(draw(st.lists(CODES, max_size=4))), draw(st.floats(0, 5000)),
    )  # fmt: skip


@st.composite
def sightings(draw: st.DrawFn) -> observed.Seen:
    known = draw(st.none() | st.builds(worlds.prepare_report, DATA))
    prepared = observed.Prepared("", draw(SECONDS), known, draw(CODES) or 0, None, draw(st.integers(0, 6)))
    alias = st.builds(observed.Alias, st.sampled_from(["claims", "claims", "other"]), NUMBERS.map(names.version_name),
                      NUMBERS.map(lambda number: worlds.digest(f"v{number}")))  # fmt: skip
    return observed.Seen(
        mode=draw(st.sampled_from(list(observed.Mode))),
        profile=draw(st.sampled_from([profile.LOCAL_PROFILE, profile.LOCAL_PROFILE, None])),
        prepared=draw(st.sampled_from([None, prepared])),
        preparing=draw(st.booleans()),
        recheck=draw(st.booleans()),
        attempt=draw(attempts()),
        versions=draw(versions()),
        highest_run=draw(st.integers(0, 6)),
        alias=draw(st.none() | alias),
        asked=draw(st.booleans()),
        stopping=draw(st.booleans()),
    )


def with_key(job: finetunejob.FineTuneJob, seen: observed.Seen) -> observed.Seen:
    """The record of prepare made to answer this manifest's question."""
    if seen.prepared is None:
        return seen
    world = worlds.World(job=job.model_copy(update={"status": None}), seen=replace(seen, prepared=None))
    started = [action for action in world.step().actions if isinstance(action, intent.StartPrepare)]
    key = started[0].key if started else "another question"
    return replace(seen, prepared=replace(seen.prepared, key=key))


@st.composite
def histories(draw: st.DrawFn) -> tuple[finetunejob.FineTuneJob, observed.Seen]:
    """A job with a status that some history of sightings left behind, and what is seen now."""
    job = worlds.job()
    for generation in range(1, draw(st.integers(2, 4))):
        job = worlds.job(draw(SPECS), generation).model_copy(update={"status": job.status})
        seen = with_key(job, draw(sightings()))
        job = job.model_copy(update={"status": plan.plan(job, seen, worlds.START).status})
    return job, with_key(job, draw(sightings()))


def refuse_wrong_conditions(planned: intent.Plan) -> None:
    told = [condition.type for condition in planned.status.conditions]
    assert Counter(told) == Counter(conditions.Condition)
    for condition in planned.status.conditions:
        assert condition.type in conditions.REASONS[condition.reason].conditions, (condition.type, condition.reason)
    held = {condition.type.value: condition.status for condition in planned.status.conditions}
    assert not (held["Reconciling"] == "True" and held["Stalled"] == "True")
    assert not (held["Ready"] == "True" and held["Stalled"] == "True")


def refuse_wrong_actions(job: finetunejob.FineTuneJob, seen: observed.Seen, planned: intent.Plan) -> None:
    on_volume = {version.version: version for version in seen.versions}
    said = planned.status
    starts = [action for action in planned.actions if isinstance(action, intent.StartTraining)]
    active = seen.attempt is not None and seen.attempt.state is not observed.AttemptState.ENDED
    assert len(starts) <= 1
    assert not (starts and active)
    assert not (starts and (job.spec.suspend or seen.stopping))
    for action in planned.actions:
        if isinstance(action, intent.PointAlias):
            version = on_volume[action.version]
            assert version.valid
            assert version.digest == action.digest
            assert action.version in {job.spec.serving.pinned_version, said.promoted_version}
        if isinstance(action, intent.DeleteVersion):
            assert action.version not in {said.promoted_version, said.previous_version, job.spec.serving.pinned_version}
            assert seen.alias is None or action.version != seen.alias.version
            states = {version.version: version.state for version in said.versions}
            assert states[action.version] in ("Rejected", "Retired")


EXAMPLES = hypothesis.settings(
    max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)


@EXAMPLES
@hypothesis.given(histories())
def test_no_sighting_raises_and_no_plan_does_harm(history: tuple[finetunejob.FineTuneJob, observed.Seen]) -> None:
    job, seen = history
    planned = plan.plan(job, seen, worlds.START)
    refuse_wrong_conditions(planned)
    refuse_wrong_actions(job, seen, planned)
    assert status.exit_code(planned.status) in (0, 1, 2, 3, 4)
    again = type(planned.status).model_validate(planned.status.as_json())
    assert again.as_json() == planned.status.as_json()


@EXAMPLES
@hypothesis.given(histories(), CODES, VERDICTS)
def test_a_plan_carried_out_leaves_nothing_to_do(
    history: tuple[finetunejob.FineTuneJob, observed.Seen], code: int | None, verdict: promotion.Verdict | None
) -> None:
    job, seen = history
    # Nobody sits at the terminal for ever, and a trainer that is always stopped never ends.
    seen = replace(seen, stopping=False, preparing=False, mode=observed.Mode.LOCAL)
    if seen.attempt and seen.attempt.state is not observed.AttemptState.ENDED:
        ended = replace(seen.attempt, state=observed.AttemptState.ENDED, ended_at=worlds.START, exit_code=1)
        seen = replace(seen, attempt=ended)
    trainer = worlds.ends_with(1 if code == 19 else code, verdict)
    world = worlds.World(job=job, seen=seen, trainer=trainer)
    world.settle()
    said, runs = world.status, [(order.run, order.attempt) for order in world.orders]
    for _ in range(2):
        world.now += timedelta(hours=1)
        planned = world.step()
        assert planned.actions == ()
        assert planned.events == ()
    assert world.status == said
    assert len(runs) == len(set(runs))
    assert all(run not in {names.run_of(found.version) for found in seen.versions} for run, _ in runs)
    refuse_wrong_conditions(planned)


@EXAMPLES
@hypothesis.given(st.lists(st.tuples(SPECS, DATA, VERDICTS, CODES), min_size=1, max_size=6))
def test_run_numbers_only_rise_and_equal_inputs_train_once(steps: list[tuple[dict[str, Any], str, Any, Any]]) -> None:
    world = worlds.World()
    for spec, data, verdict, code in steps:
        world.trainer = worlds.ends_with(1 if code == 19 else code, verdict)
        world.prepared = worlds.prepare_report(data=data)
        kept = worlds.job(spec, world.job.metadata.generation + 1)
        world.job = kept.model_copy(update={"status": world.job.status})
        world.run_again()
    numbers = [order.run for order in world.orders]
    assert numbers == sorted(numbers)
    won = [version.input_hash for version in world.seen.versions]
    assert len(won) == len(set(won))
