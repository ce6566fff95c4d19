"""Evaluation reports for the tests of the page and the card: made up, of the shape that the gate writes."""

from __future__ import annotations

import math
from typing import Any

from topcoat.api.promotion import Verdict
from topcoat.api.report import (
    AnswerPair,
    BaseModelCard,
    Comparison,
    Confusion,
    CurvePoint,
    DataCard,
    EstimateCheck,
    EvaluationReport,
    LayerTrial,
    Lineage,
    Score,
    StageCost,
    SweepTrial,
    TaskKind,
    Unit,
)

LABELS = [
    "blood",
    "circulatory",
    "digestive",
    "ear",
    "eye",
    "genitourinary",
    "infection",
    "injury",
    "mental health",
    "musculoskeletal",
    "neoplasm",
    "respiratory",
]
DIGEST = "sha256:" + "4f" * 32


def data_card(**changes: Any) -> DataCard:
    facts: dict[str, Any] = {
        "digest": DIGEST,
        "format": "Classification",
        "task": TaskKind.CLASSIFICATION,
        "rows": 1032,
        "duplicates": 12,
        "train_samples": 720,
        "holdout_samples": 300,
        "holdout_digest": "sha256:" + "c1" * 32,
        "groups": 187,
        "split_rule": "by SHA-256 of the group column code_family, so that no family stands on both sides",
        "tokens": 47_120,
        "trained_tokens": 3_614,
        "longest_tokens": 96,
        "labels": dict.fromkeys(LABELS, 60),
        "system_prompt": "Sort the claim into one of the queues: " + ", ".join(LABELS) + ".",
        "notes": ["12 duplicate rows were left out."],
    }
    return DataCard(**(facts | changes))


def base_model() -> BaseModelCard:
    return BaseModelCard(
        id="HuggingFaceTB/SmolLM2-135M-Instruct",
        uri="file://.topcoat/demo/model",
        path="model",
        revision=DIGEST,
        digest=DIGEST,
        config_digest=DIGEST,
        architecture="LlamaForCausalLM",
        layers=30,
        hidden_size=576,
        parameters=134_515_008,
        bytes=269_060_552,
    )


def lineage(version: int = 2) -> Lineage:
    return Lineage(
        job="claims-triage",
        namespace="default",
        run=version,
        version=f"v{version}",
        trigger="DataChanged",
        method="LoRA",
        first_trained_layer=22,
        total_layers=30,
        rank=16,
        trained_parameters=1_302_528,
        total_parameters=134_515_008,
        steps=135,
        target_steps=135,
        epochs=3,
        seed=0,
        precision="fp32",
        device="cpu",
        code_version="0.1.0",
        libraries={"torch": "2.15.0", "transformers": "5.23.0", "peft": "0.21.2"},
        started_at="2026-11-23T13:40:00Z",
        finished_at="2026-11-23T13:44:12Z",
        resumed=1,
    )


def score(subject: str, value: float, metric: str = "Accuracy", **more: Any) -> Score:
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.0) / 300) if metric == "Accuracy" else 0.04
    return Score(
        subject=subject, metric=metric, value=value, lower=max(value - half, 0), upper=value + half, samples=300, **more
    )


def scores(candidate: float, serving: float | None) -> list[Score]:
    rows = [
        score("candidate", candidate, prompt_tokens=60.2, seconds_per_answer=0.061, note="constrained to the labels"),
        score("candidate free", candidate - 0.004, prompt_tokens=60.2, seconds_per_answer=0.19, note="free answer"),
        score("base", 0.0, prompt_tokens=60.2, seconds_per_answer=0.41, note="free answer, compared after trimming"),
        score("base constrained", 0.39, prompt_tokens=60.2, seconds_per_answer=0.058),
        score("prompt", 0.48, prompt_tokens=517.4, seconds_per_answer=0.49, note="24 training examples"),
        score(
            "retrieval", 0.65, prompt_tokens=233.0, seconds_per_answer=0.22, note="8 nearest training rows by TF-IDF"
        ),
        score("classifier", 0.65, seconds_per_answer=0.0004, note="TF-IDF and logistic regression"),
        score("base", 4.91, "Loss"),
        score("candidate", 0.61 if candidate > 0.5 else 2.4, "Loss"),
        score("candidate", candidate - 0.01, "F1"),
        score("base constrained", 0.33, "F1"),
    ]
    if serving is not None:
        rows += [
            score("serving", serving, prompt_tokens=60.2, seconds_per_answer=0.060),
            score("serving", 0.66, "Loss"),
        ]
    return rows


def comparison(against: str, delta: float, verdict: Verdict, **changes: Any) -> Comparison:
    facts: dict[str, Any] = {
        "metric": "Accuracy",
        "against": against,
        "delta": delta,
        "lower": delta - 0.045,
        "upper": delta + 0.045,
        "needed": 0.0,
        "confidence": 0.95,
        "samples": 300,
        "verdict": verdict,
        "sentence": f"Accuracy went from 39.0 % ({against}) to 81.7 % on 300 held-out rows.",
    }
    return Comparison(**(facts | changes))


def pair(row: int, gain: float = 1.0, **changes: Any) -> AnswerPair:
    facts: dict[str, Any] = {
        "row": row,
        "prompt": f"Claim {row}: nondisplaced fracture of the neck of the left radius",
        "expected": "injury",
        "before": "musculoskeletal" if gain > 0 else "injury",
        "after": "injury" if gain > 0 else "musculoskeletal",
        "gain": gain,
    }
    return AnswerPair(**(facts | changes))


def confusion(labels: list[str] | None = None) -> Confusion:
    names = labels or LABELS
    counts = [
        [20 - i % 4 if i == j else (i * 7 + j * 3) % 11 // 8 for j in range(len(names))] for i in range(len(names))
    ]
    return Confusion(labels=names, counts=counts)


def curve() -> list[CurvePoint]:
    points = [
        CurvePoint(
            step=step,
            epoch=step / 45,
            loss=3.9 * math.exp(-step / 25) + 0.5 + 0.2 * math.sin(step * 2.3),
            holdout_loss=4.3 * math.exp(-step / 25) + 0.6 if step % 45 == 0 else None,
        )
        for step in range(1, 136)
    ]
    return [CurvePoint(step=0, epoch=0, holdout_loss=4.9), *points]


def checks() -> list[EstimateCheck]:
    return [
        EstimateCheck(part="Training", unit=Unit.SECONDS, estimated=60.0, measured=75.0, ratio=1.25),
        EstimateCheck(part="Peak memory", unit=Unit.BYTES, estimated=2 << 30, measured=3 << 30, ratio=1.5),
        EstimateCheck(part="GPU hours", unit=Unit.HOURS, measured=0.25),
    ]


def costs() -> list[StageCost]:
    seconds = {"load": 1.9, "cache": 31.4, "train": 74.2, "evaluate": 96.8, "baselines": 41.0, "seal": 0.4}
    return [StageCost(stage=stage, seconds=wall, cpu_seconds=wall * 1.9) for stage, wall in seconds.items()]


def layer_trials() -> list[LayerTrial]:
    """Three candidates of which one diverged."""
    shared: dict[str, Any] = {"steps": 15}
    return [
        LayerTrial(layers=4, loss=1.91, gain_share=0.786, relative_cost=1.0, **shared),
        LayerTrial(layers=8, loss=1.234, gain_share=0.971, relative_cost=2.0, chosen=True, **shared),
        LayerTrial(layers=15, relative_cost=3.75, note="memory ran out with 1 rows in a forward pass", **shared),
    ]


def sweep_trials() -> list[SweepTrial]:
    return [
        SweepTrial(learning_rate=2e-4, rank=8, steps=34, loss=1.5),
        SweepTrial(learning_rate=1e-3, rank=16, steps=68, loss=0.875, chosen=True),
        SweepTrial(learning_rate=0.5, rank=16, steps=0, note="a gradient of step 3 is not finite"),
    ]


def promoted(**changes: Any) -> EvaluationReport:
    """A second version that wins against the base model and against v1."""
    facts: dict[str, Any] = {
        "verdict": Verdict.PROMOTE,
        "rule": "Promote when, for each requirement, the one-sided lower bound of the paired bootstrap over groups "
        "lies above what is needed; reject when an upper bound lies below it.",
        "reasons": [
            "Accuracy is 42.7 points above base (lower bound 38.2, needed above 0).",
            "Accuracy is 5.0 points above v1 (lower bound 0.5, needed above 0).",
        ],
        "metric": "Accuracy",
        "base": 0.39,
        "serving": 0.767,
        "serving_version": "v1",
        "candidate": 0.817,
        "delta": 0.427,
        "lower_bound": 0.382,
        "samples": 300,
        "scores": scores(0.817, 0.767),
        "comparisons": [comparison("base", 0.427, Verdict.PROMOTE), comparison("serving", 0.05, Verdict.PROMOTE)],
        "guards": [
            comparison(
                "base",
                -0.002,
                Verdict.PROMOTE,
                metric="Loss",
                needed=-0.02,
                sentence="Guard small-talk: loss went from 2.1 to 2.2.",
            )
        ],
        "wins": [pair(row) for row in range(3, 143, 7)],
        "losses": [pair(row, -1.0) for row in range(5, 40, 7)],
        "confusion": confusion(),
        "curve": curve(),
        "costs": costs(),
        "estimate_checks": checks(),
        "cache_note": "The frozen prefix (22 of 30 layers) ran once per row instead of three times: 2.4 times less "
        "work for training.",
        "dataset": data_card(),
        "base_model": base_model(),
        "lineage": lineage(),
        "holdout_uses": 2,
    }
    return EvaluationReport(**(facts | changes))


def rejected(**changes: Any) -> EvaluationReport:
    """A second version, trained on shuffled labels, that loses against v1."""
    facts: dict[str, Any] = {
        "verdict": Verdict.REJECT,
        "candidate": 0.41,
        "delta": 0.02,
        "lower_bound": -0.03,
        "scores": scores(0.41, 0.817),
        "serving": 0.817,
        "reasons": ["Accuracy is 40.7 points below v1 (upper bound -36.2, needed above 0)."],
        "comparisons": [comparison("base", 0.02, Verdict.INCONCLUSIVE), comparison("serving", -0.407, Verdict.REJECT)],
        "losses": [pair(row, -1.0) for row in range(3, 143, 7)],
        "wins": [pair(row) for row in range(5, 20, 7)],
        "guards": [],
    }
    return promoted(**(facts | changes))


def inconclusive(**changes: Any) -> EvaluationReport:
    """A first version of a free-text task, with too few held-out rows and no curve, confusion or cheaper ways."""
    texts = [
        score("base", 0.31, "RougeL"),
        score("candidate", 0.33, "RougeL"),
        score("base", 2.1, "Loss"),
        score("candidate", 2.0, "Loss"),
    ]
    facts: dict[str, Any] = {
        "verdict": Verdict.INCONCLUSIVE,
        "metric": "RougeL",
        "base": 0.31,
        "candidate": 0.33,
        "delta": 0.02,
        "lower_bound": -0.01,
        "samples": 34,
        "serving": None,
        "serving_version": None,
        "scores": texts,
        "reasons": ["34 held-out rows are fewer than the 50 that the requirement asks for."],
        "comparisons": [comparison("base", 0.02, Verdict.INCONCLUSIVE, metric="RougeL", samples=34)],
        "guards": [],
        "confusion": None,
        "curve": [],
        "costs": [],
        "estimate_checks": [],
        "cache_note": "",
        "wins": [],
        "losses": [],
        "holdout_uses": 1,
        "dataset": data_card(
            task=TaskKind.GENERATION,
            format="Chat",
            labels={},
            groups=0,
            system_prompt=None,
            notes=[],
            near_duplicates=3,
            truncated=9,
            dropped=2,
            invalid=4,
        ),
        "lineage": lineage(1),
    }
    return promoted(**(facts | changes))


HOSTILE = {
    "script": "</div></details><script>document.title='broken'; fetch('https://example.invalid/')</script>"
    "<img src=x onerror=alert(1)><style>*{display:none}</style>",
    "long word": "Donaudampfschifffahrts" * 400,
    "right to left": "\u202eevil\u202c مرحبا بالعالم \u2067 שלום עולם",
    "control": "bell\x07 nul\x00 escape\x1b[31m delete\x7f next\x85 line\u2028 byte\ufeff",
    "surrogate": "half \ud83d a character",
    "template": "{{ report.base_model.path }} {% raw %} ${7*7} <!-- --> ]]> &amp;lt;",
    "long answer": "The claim is about water damage in the kitchen. " * 250,
    "empty": "",
    "blank": " \n\t ",
}


def hostile() -> EvaluationReport:
    """Whatever a model or a row may hold, in every place where untrusted text may stand."""
    texts = list(HOSTILE.values())
    pairs = [pair(i + 1, prompt=t, expected=texts[i - 1], before=t, after=texts[i - 2]) for i, t in enumerate(texts)]
    labels = [text[:120] or "none" for text in texts]
    return promoted(
        wins=pairs,
        losses=pairs,
        confusion=confusion(labels),
        reasons=texts[:6],
        dataset=data_card(labels=dict.fromkeys(labels, 7), system_prompt=texts[0], notes=texts[:3]),
        cache_note=texts[0],
        curve=[point.model_copy(update={"step": point.step * 98_765}) for point in curve()],
    )
