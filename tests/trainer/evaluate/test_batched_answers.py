"""A batch gives what its rows give alone, on every family: shared prefix, padding, sliding windows and all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.support import tiny_models
from topcoat_trainer import prefix
from topcoat_trainer.evaluate import choice, generate, prompt, reading, score
from topcoat_trainer.example import Example, TokenRow

VOCABULARY = 250
ENDS = frozenset(range(60))


@pytest.fixture(scope="module", params=sorted(tiny_models.FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_models.make(request.param, tmp_path_factory.mktemp(request.param))
    factory: Any = transformers.AutoModelForCausalLM
    loaded = factory.from_pretrained(folder, dtype=torch.float32).eval()
    for parameter in loaded.parameters():  # peaked distributions: a wrong mask must show
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return loaded


def prompts(shared: int, count: int = 12, seed: int = 1) -> list[list[int]]:
    chance = random.Random(seed)
    start = [chance.randrange(4, VOCABULARY) for _ in range(shared)]
    return [start + [chance.randrange(4, VOCABULARY) for _ in range(chance.randrange(1, 40))] for _ in range(count)]


def alone(model: Any, ids: list[int], limit: int) -> list[int]:
    """Greedy decoding without cache, batch or padding: the definition."""
    answer: list[int] = []
    while len(answer) < limit:
        with torch.inference_mode():
            token = int(model(input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax())
        if token in ENDS:
            break
        answer.append(token)
    return answer


@pytest.mark.parametrize("shared", [0, 9, 30])
def test_batched_greedy_answers_are_those_of_single_rows(model: Any, shared: int) -> None:
    rows = prompts(shared)
    plan = reading.plan_for(model, rows)
    assert plan.padded
    found = generate.generate(model, rows, generate.Stop(ENDS, 8), plan)
    assert found == [alone(model, row, 8) for row in rows]
    assert len({len(answer) for answer in found}) > 1


def test_batches_without_padding_give_the_same_answers(model: Any) -> None:
    rows = prompts(6)
    stop = generate.Stop(ENDS, 6)
    plain = prompt.Plan(padded=False, shared=False)
    assert generate.generate(model, rows, stop, plain) == generate.generate(model, rows, stop, prompt.Plan())


def log_likelihood(model: Any, ids: list[int], label: tuple[int, ...]) -> float:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids + list(label)])).logits[0].log_softmax(-1)
    return sum(float(logits[len(ids) - 1 + place, token]) for place, token in enumerate(label))


def labels(seed: int = 3) -> tuple[tuple[int, ...], ...]:
    chance = random.Random(seed)
    return tuple(tuple(chance.randrange(4, VOCABULARY) for _ in range(length)) for length in (1, 2, 2, 3, 4, 5))


def test_the_chosen_label_is_the_likeliest_of_all_read_alone(model: Any) -> None:
    rows, options = prompts(20), labels()
    plan = prompt.Plan()
    wanted = tuple(i % len(options) for i in range(len(rows)))
    pruned = choice.choose(model, rows, choice.Labels(options, wanted), plan)
    whole = choice.choose(model, rows, choice.Labels(options, every=True), plan)
    for row, lazy, full, want in zip(rows, pruned, whole, wanted, strict=True):
        expected = [log_likelihood(model, row, option) for option in options]
        assert lazy.label == full.label == max(range(len(options)), key=expected.__getitem__)
        assert lazy.scores[want] == pytest.approx(expected[want], abs=2e-3)
        assert [full.scores[i] for i in range(len(options))] == pytest.approx(expected, abs=2e-3)
        assert sum(full.probabilities().values()) == pytest.approx(1)


def token_rows(shared: int, seed: int = 5) -> list[TokenRow]:
    chance = random.Random(seed)
    rows = []
    for number, ids in enumerate(prompts(shared, seed=seed), start=1):
        answer = [chance.randrange(4, VOCABULARY) for _ in range(chance.randrange(1, 9))]
        trained = [False] * len(ids) + [True] * len(answer)
        rows.append(TokenRow((*ids, *answer), tuple(trained), len(ids), Example(number)))
    return rows


@pytest.mark.parametrize("shared", [0, 25])
def test_losses_are_those_of_single_rows(model: Any, shared: int) -> None:
    rows = token_rows(shared)
    expected = [
        -log_likelihood(model, list(row.ids[: row.prompt_length]), row.ids[row.prompt_length :]) / row.trained_tokens
        for row in rows
    ]
    assert score.losses(model, rows) == pytest.approx(expected, abs=2e-3)


def test_the_prefix_is_really_shared(model: Any) -> None:
    rows = prompts(30)
    shared = prefix.prefix_or_none(model, rows[0][: prefix.shared_length(rows)])
    window = prefix.window_or_none(prefix.empty_cache(model))
    assert shared is not None
    assert len(shared) == (30 if window is None else window - 1)


def test_every_token_of_plain_text_is_scored_but_the_first(tmp_path: Path) -> None:
    factory: Any = transformers.AutoModelForCausalLM
    llama = factory.from_pretrained(tiny_models.make("llama", tmp_path)).eval()
    ids = prompts(5)[0]
    row = TokenRow(tuple(ids), (True,) * len(ids), 0, Example(1, text="x"))
    expected = -log_likelihood(llama, ids[:1], tuple(ids[1:])) / (len(ids) - 1)
    assert score.losses(llama, [row]) == pytest.approx([expected], abs=1e-4)
    assert score.losses(llama, [row, row]) == pytest.approx([expected, expected], abs=1e-4)


OTHER_KINDS: dict[str, dict[str, Any]] = {
    "Lfm2Config": {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "MambaConfig": {"state_size": 8},
    "BloomConfig": {"n_layer": 4, "n_head": 4},
    "OPTConfig": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}


@pytest.mark.parametrize("kind", sorted(OTHER_KINDS))
def test_models_with_other_states_and_positions_give_the_same_answers(kind: str) -> None:
    """ALiBi, learnt positions with an offset, convolutions, recurrent states."""
    options = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    config: Any = getattr(transformers, kind)(**{**options, **heads, **OTHER_KINDS[kind]})
    factory: Any = transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = factory.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    rows, options_ids = prompts(7), labels()
    assert generate.generate(model, rows, generate.Stop(ENDS, 5)) == [alone(model, row, 5) for row in rows]
    for row, found in zip(rows, choice.choose(model, rows, choice.Labels(options_ids)), strict=True):
        expected = [log_likelihood(model, row, option) for option in options_ids]
        assert found.label == max(range(len(options_ids)), key=expected.__getitem__)
