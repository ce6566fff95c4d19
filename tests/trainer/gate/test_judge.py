"""The whole gate on a tiny model: winners, losers, kills, and what the evidence holds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.gate import trials
from topcoat.api.dataset import DataSource, Guard
from topcoat.api.evaluation import Baseline, Evaluation, Metric, MetricName
from topcoat.api.method import Method
from topcoat.api.promotion import Against, Promotion, Requirement, Verdict
from topcoat.api.report import EvaluationReport, Score
from topcoat.api.run import ServingVersion
from topcoat_trainer import files, layers
from topcoat_trainer import tree as trees
from topcoat_trainer.errors import Diverged, UserInputError
from topcoat_trainer.evaluate import reading, score
from topcoat_trainer.example import Example, Message
from topcoat_trainer.gate import answer_file, baseline, exam, judge
from topcoat_trainer.gate.judge import GuardRows, Trial
from topcoat_trainer.model import BaseModel

NO_BASELINES = Evaluation(baselines=())


@dataclass
class Workshop:
    base: BaseModel
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    good: Path
    bad: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("gate")
    base = trials.base_model(folder / "base")
    train, heldout = trials.claims(200, 1), trials.claims(80, 2)
    labels = [row.label or "" for row in train]
    random.Random(0).shuffle(labels)
    wrong = tuple(
        trials.example(row.row, row.messages[1].content, label) for row, label in zip(train, labels, strict=True)
    )
    good = trials.tuned(base, train, folder / "good")
    return Workshop(base, train, heldout, good, trials.tuned(base, wrong, folder / "bad", steps=30))


@pytest.fixture
def trial(made: Workshop, tmp_path: Path) -> Callable[..., Trial]:
    def new(**more: Any) -> Trial:
        found = trials.trial(made.base, made.train, made.heldout, made.good, ledger=tmp_path / "scores")
        return replace(found, **more)

    return new


def serving(path: Path) -> ServingVersion:
    return ServingVersion(version="v1", path=str(path), digest="x")


def rows(report: EvaluationReport, metric: str) -> dict[str, Score]:
    return {row.subject: row for row in report.scores if row.metric == metric}


def test_a_winner_is_promoted_with_all_its_evidence(made: Workshop, trial: Callable[..., Trial]) -> None:
    said: list[tuple[str, float]] = []
    report = judge.judge(trial(), trials.story(), lambda subject, share: said.append((subject, share)))
    assert report.verdict is Verdict.PROMOTE
    assert report.metric == "Accuracy"
    assert report.samples == 80
    assert report.candidate > 0.9 > report.base
    assert report.lower_bound > 0
    table = rows(report, "Accuracy")
    assert list(table) == [
        "candidate", "candidate free", "base constrained", "base", "prompt", "retrieval", "classifier",
    ]  # fmt: skip
    assert table["candidate"].value == report.candidate
    assert all(row.lower <= row.value <= row.upper for row in report.scores)
    assert table["classifier"].value > 0.9
    assert (table["prompt"].prompt_tokens or 0) > 4 * (table["base"].prompt_tokens or 0) > 0
    assert all(row.seconds_per_answer is not None for row in table.values())
    assert report.confusion is not None
    assert sum(map(sum, report.confusion.counts)) == 80
    assert report.wins
    assert all(pair.after == pair.expected != pair.before for pair in report.wins)
    assert said[-1][1] == pytest.approx(1)
    assert [share for _, share in said] == sorted(share for _, share in said)
    assert EvaluationReport.model_validate(json.loads(files.json_bytes(report.as_json()))) == report
    assert {cost.stage for cost in report.costs} == {"evaluate", "baselines"}
    assert report.rule.startswith("Promote when accuracy is better than with the base model")


def test_every_row_is_kept_with_everybodys_answer(made: Workshop, trial: Callable[..., Trial]) -> None:
    judge.judge(trial(), trials.story())
    lines = [json.loads(line) for line in (made.good / answer_file.NAME).read_text().splitlines()]
    assert [line["row"] for line in lines] == [row.row for row in made.heldout]
    assert all({"candidate", "base", "classifier"} <= line["answers"].keys() for line in lines)
    assert all(line["answers"]["candidate"].keys() == {"label", "text", "loss"} for line in lines)


def test_the_loss_of_a_choice_is_the_loss_of_the_row(made: Workshop, trial: Callable[..., Trial]) -> None:
    judge.judge(trial(evaluation=NO_BASELINES), trials.story())
    lines = [json.loads(line) for line in (made.good / answer_file.NAME).read_text().splitlines()]
    expected = score.losses(made.base.model, trial().heldout)
    assert [line["answers"]["base"]["loss"] for line in lines] == pytest.approx(expected, abs=1e-3)


def test_a_losing_candidate_is_rejected_and_the_report_says_why(made: Workshop, trial: Callable[..., Trial]) -> None:
    report = judge.judge(trial(candidate=made.bad, serving=serving(made.good), evaluation=NO_BASELINES), trials.story())
    assert report.verdict is Verdict.REJECT
    assert report.serving_version == "v1"
    assert report.serving is not None
    assert report.serving > report.candidate
    assert any("v1, which serves" in reason and "worse than allowed" in reason for reason in report.reasons)


def test_the_same_candidate_again_is_no_improvement(made: Workshop, trial: Callable[..., Trial]) -> None:
    report = judge.judge(trial(serving=serving(made.good), evaluation=NO_BASELINES), trials.story())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert [row.verdict for row in report.comparisons if row.against == "serving"] == [Verdict.INCONCLUSIVE]


def test_a_finished_subject_is_never_asked_again(
    made: Workshop, trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    sat: list[int] = []
    original = exam.sit

    def sit(*asked: Any) -> Any:
        sat.append(len(sat))
        if len(sat) == 2:
            raise KeyboardInterrupt
        return original(*asked)

    monkeypatch.setattr(exam, "sit", sit)
    with pytest.raises(KeyboardInterrupt):
        judge.judge(trial(), trials.story())
    first = judge.judge(trial(), trials.story())
    assert len(sat) == 2 + 3  # the candidate again, and two baselines
    again = judge.judge(trial(), trials.story())
    assert len(sat) == 5
    timeless = {"costs", "scores"}
    assert first.model_dump(exclude=timeless) == again.model_dump(exclude=timeless)
    judge.judge(trial(candidate=made.bad), trials.story())
    assert len(sat) == 6  # only the new candidate


def test_the_frozen_layers_read_the_held_out_rows_once_for_everybody(
    made: Workshop, trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = trial(serving=serving(made.bad), evaluation=NO_BASELINES)
    prompts = [row.ids[: row.prompt_length] for row in judged.heldout]
    whole: list[int] = []
    passes = {0: 0, 4: 0}

    def count(layer: int) -> Any:
        def seen(_: Any, arguments: Any, options: Any) -> None:
            hidden = arguments[0] if arguments else options["hidden_states"]
            if hidden.shape[1] == whole[0]:
                passes[layer] += 1

        return seen

    whole.append(trees.grow(prompts).tokens)
    stack = layers.stack(made.base.model)
    handles = [stack[layer].register_forward_pre_hook(count(layer), with_kwargs=True) for layer in passes]
    report = judge.judge(judged, trials.story())
    for handle in handles:
        handle.remove()
    assert passes == {0: 1, 4: 3}

    def none(*_: Any) -> None:
        return None

    monkeypatch.setattr(reading, "frozen_or_none", none)
    files.remove_tree(judged.ledger)
    apart = judge.judge(judged, trials.story())
    timeless = {"costs", "scores", "holdout_uses"}
    assert report.model_dump(exclude=timeless) == apart.model_dump(exclude=timeless)


def test_a_cut_answer_gives_every_score_that_a_whole_one_gives(
    made: Workshop, trial: Callable[..., Trial], tmp_path: Path
) -> None:
    asked = Evaluation(baselines=(), metrics=(Metric(name=MetricName.ACCURACY), Metric(name=MetricName.F1)))
    cut = judge.judge(trial(evaluation=asked), trials.story())
    lines = [json.loads(line) for line in (made.good / answer_file.NAME).read_text().splitlines()]
    more = Metric(name=MetricName.ROUGE_L)
    whole = judge.judge(
        trial(evaluation=asked.model_copy(update={"metrics": (*asked.metrics, more)}), ledger=tmp_path / "other"),
        trials.story(),
    )
    others = [json.loads(line) for line in (made.good / answer_file.NAME).read_text().splitlines()]
    spoken = [sum(len(line["answers"]["base"]["text"]) for line in told) for told in (lines, others)]
    assert spoken[0] < spoken[1] / 2
    for name in ("Accuracy", "F1"):
        assert {k: v.value for k, v in rows(cut, name).items()} == {k: v.value for k, v in rows(whole, name).items()}
    assert rows(cut, "Accuracy")["candidate free"].value > 0.9


def test_a_dear_baseline_is_asked_of_a_sample_and_says_of_how_many(
    trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "TOKENS_ON_CPU", 2000)
    table = rows(judge.judge(trial(), trials.story()), "Accuracy")
    # All prompts begin with the same examples, which are computed once; similar examples are each row's own.
    assert table["prompt"].samples == table["candidate"].samples == 80
    assert baseline.ROWS_AT_LEAST <= table["retrieval"].samples < 80


def test_held_out_rows_count_how_many_candidates_they_judged(made: Workshop, trial: Callable[..., Trial]) -> None:
    uses = [
        judge.judge(trial(candidate=path, evaluation=NO_BASELINES), trials.story()).holdout_uses
        for path in (made.good, made.bad, made.good)
    ]
    assert uses == [1, 2, 2]


def test_too_few_rows_are_never_a_promotion(trial: Callable[..., Trial]) -> None:
    few = trial(evaluation=Evaluation(baselines=(), max_samples=30))
    report = judge.judge(few, trials.story())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.samples == 30
    assert any("too few rows" in reason for reason in report.reasons)


def test_an_adapter_that_changes_nothing_is_refused(
    made: Workshop, trial: Callable[..., Trial], tmp_path: Path
) -> None:
    idle = trials.tuned(made.base, made.train, tmp_path / "idle", 0, Method())
    with pytest.raises(Diverged, match="zero"):
        judge.judge(trial(candidate=idle), trials.story())


def test_a_serving_version_of_another_base_model_holds_the_candidate(
    made: Workshop, trial: Callable[..., Trial], tmp_path: Path
) -> None:
    other = trials.base_model(tmp_path / "other", seed=7)
    old = trials.tuned(other, made.train, tmp_path / "old", steps=2)
    report = judge.judge(trial(serving=serving(old), evaluation=NO_BASELINES), trials.story())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert any("another base model" in reason for reason in report.reasons)


def test_labels_may_be_recognised_by_the_answers_alone(made: Workshop, trial: Callable[..., Trial]) -> None:
    train, heldout = trials.claims(200, 1, label=False), trials.claims(80, 2, label=False)
    bare = trials.trial(made.base, train, heldout, made.good, evaluation=NO_BASELINES, ledger=trial().ledger)
    report = judge.judge(bare, trials.story())
    assert report.verdict is Verdict.PROMOTE
    assert report.confusion is not None
    assert report.confusion.labels == ["cars", "homes", "pets"]


def test_the_manifests_own_requirements_decide(trial: Callable[..., Trial]) -> None:
    dear = Requirement(metric=MetricName.ACCURACY, min_improvement="0.95")
    report = judge.judge(trial(promotion=Promotion(requirements=(dear,)), evaluation=NO_BASELINES), trials.story())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "by more than 95.0 %" in report.rule
    assert len(report.comparisons) == 1


def test_against_serving_means_the_base_model_while_none_serves(trial: Callable[..., Trial]) -> None:
    wish = Requirement(metric=MetricName.LOSS, against=Against.SERVING)
    metrics = (Metric(name=MetricName.F1), Metric(name=MetricName.PERPLEXITY))
    report = judge.judge(
        trial(
            promotion=Promotion(requirements=(wish,)),
            evaluation=Evaluation(baselines=(Baseline.CLASSIFIER,), metrics=metrics),
        ),
        trials.story(),
    )
    assert report.verdict is Verdict.PROMOTE
    assert report.metric == "F1"
    assert report.comparisons[0].against == "base"
    assert rows(report, "Perplexity")["candidate"].value < rows(report, "Perplexity")["base"].value


def guard(made: Workshop, text: str, count: int = 30) -> GuardRows:
    examples = [trials.example(row, f"{text} {row}", f"{text}{row}", label=False) for row in range(1, count + 1)]
    renderer = trials.trial(made.base, made.train, made.heldout, made.good).renderer
    return GuardRows(
        Guard(name="general", source=DataSource(uri="file://general.jsonl")), tuple(map(renderer.row, examples))
    )


def test_a_failing_guard_rejects_a_winner(made: Workshop, trial: Callable[..., Trial]) -> None:
    report = judge.judge(trial(guards=(guard(made, "zebra"),), evaluation=NO_BASELINES), trials.story())
    assert [row.verdict for row in report.comparisons] == [Verdict.PROMOTE] * 2
    assert report.guards[0].verdict is report.verdict is Verdict.REJECT
    assert any(reason.startswith("Guard general: Loss went from") for reason in report.reasons)


def test_free_text_is_judged_by_loss_and_shown_with_text_measures(made: Workshop, tmp_path: Path) -> None:
    train = tuple(trials.example(i, f"say {i}", f"number {i} it is", label=False) for i in range(1, 61))
    report = judge.judge(
        trials.trial(made.base, train, train, trials.tuned(made.base, train, tmp_path / "c", 20)), trials.story()
    )
    assert report.metric == "Loss"
    assert report.verdict is Verdict.PROMOTE
    assert set(rows(report, "RougeL")) == {"candidate", "base", "prompt", "retrieval"}
    assert "classifier: a classifier needs labels" in " ".join(report.reasons)
    assert report.confusion is None


def test_json_shows_fields_and_validity(made: Workshop, tmp_path: Path) -> None:
    train = tuple(trials.example(i, f"row {i}", json.dumps({"n": i % 3}), label=False) for i in range(1, 61))
    report = judge.judge(
        trials.trial(
            made.base, train, train, trials.tuned(made.base, train, tmp_path / "c", 60), evaluation=NO_BASELINES
        ),
        trials.story(),
    )
    assert report.metric == "ExactMatch"
    assert rows(report, "JSONValid")["candidate"].value > 0.9
    assert set(rows(report, "FieldAccuracy")) == {"candidate", "base"}


def test_plain_text_has_likelihoods_only(made: Workshop, tmp_path: Path) -> None:
    train = tuple(Example(i, text=f"the claim {i} and the answer", digest=str(i)) for i in range(1, 61))
    candidate = trials.tuned(made.base, train, tmp_path / "c", 20)
    text = trials.trial(made.base, train, train, candidate)
    report = judge.judge(text, trials.story())
    assert report.verdict is Verdict.PROMOTE
    assert {row.metric for row in report.scores} == {"Loss", "Perplexity"}
    asked = Evaluation(metrics=(Metric(name=MetricName.ACCURACY),))
    with pytest.raises(UserInputError, match="plain text"):
        judge.judge(replace(text, evaluation=asked), trials.story())


def test_raw_prompts_are_judged_in_their_own_spelling(made: Workshop, tmp_path: Path) -> None:
    def raw(row: Example) -> Example:
        turns = (Message("user", f"{row.messages[1].content} ->"), Message("assistant", f" {row.label}", trained=True))
        return replace(row, messages=turns, raw_prompt=True)

    train, heldout = tuple(map(raw, made.train)), tuple(map(raw, made.heldout))
    candidate = trials.tuned(made.base, train, tmp_path / "c")
    case = trials.trial(made.base, train, heldout, candidate)
    report = judge.judge(case, trials.story())
    assert report.verdict is Verdict.PROMOTE
    lines = [json.loads(line) for line in (candidate / answer_file.NAME).read_text().splitlines()]
    assert [line["answers"]["base"]["loss"] for line in lines] == pytest.approx(
        score.losses(made.base.model, case.heldout), abs=1e-3
    )
