"""How much work a run is, stage by stage, in floating-point operations: arithmetic on shapes and counts, nothing else.

Two operations per parameter and token forwards; backwards as much again for what only passes gradients on, and twice
for what changes. A beginning that rows share is counted as often as it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from topcoat.api.evaluation import Baseline, Evaluation
from topcoat.api.prepared import DataCard, TaskKind
from topcoat.api.training import CacheMedium, CacheMode, Training
from topcoat_trainer import halving
from topcoat_trainer.shapes import Shapes

# These say what the trainer does; tests hold those that have a counterpart there to it.
SHARED_TOKENS = 8
WATCHED_ROWS = 128
STOPPING_ROWS, STOPPING_SHARE = 200, 0.1
WATCHES = 10
MOST_TOKENS = {"cpu": 4096, "cuda": 32_768}
CHECKED_TOKENS = 192 * 3
PROMPT_EXAMPLES, RETRIEVED_EXAMPLES = 24, 8
BASELINE_TOKENS_ON_CPU, BASELINE_ROWS_AT_LEAST, BASELINE_FREE_ROWS = 16_000, 50, 64
FREE_TOKENS_ON_CPU = 40_000
MARGIN_TOKENS = 8
# Labels that are read to their end per row: the likeliest, the right one, now and then a rival.
READ_LABELS = 1.5
# Media on which the activation cache can lie.
CACHE_MEDIA = frozenset(CacheMedium)
# Whether training computes a beginning that rows share once per forward pass, not once per row.
TAIL_SHARES_BEGINNING = True


@dataclass(frozen=True, slots=True)
class Work:
    """Operations by the form of their products, since each has a speed of its own.

    `read`: many tokens forwards. `learn`: many tokens through the tail, forwards and backwards. `thin`: products with
    an adapter's few columns. `write`: one token per row at a time.
    """

    read: float = 0.0
    learn: float = 0.0
    thin: float = 0.0
    write: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.read + other.read, self.learn + other.learn, self.thin + other.thin, self.write + other.write)

    def times(self, factor: float) -> Work:
        return Work(self.read * factor, self.learn * factor, self.thin * factor, self.write * factor)

    @property
    def operations(self) -> float:
        return self.read + self.learn + self.thin + self.write


@dataclass(frozen=True, slots=True)
class Load:
    """A run in numbers. `processes`: that train together; `serving`: a version that is judged, too; `trial_epochs`: of
    trials of layers before it, in epochs of the run.
    """

    shapes: Shapes
    card: DataCard
    training: Training
    evaluation: Evaluation
    serving: bool = False
    on_cpu: bool = True
    processes: int = 1
    trial_epochs: float = 0.0

    @property
    def rows(self) -> int:
        return max(1, self.card.train_samples)

    @property
    def mean_tokens(self) -> float:
        return self.card.tokens / self.rows

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.training.effective_batch_size)

    @property
    def epochs(self) -> float:
        """Passes over the rows, as max_steps allows."""
        limit = self.training.max_steps
        whole = float(self.training.epochs)
        return whole if limit is None else min(whole, limit / self.steps_per_epoch)

    @property
    def trained_epochs(self) -> float:
        """Passes over the rows with those of all trials."""
        steps = max(1, round(self.epochs * self.steps_per_epoch))
        return self.epochs * halving.passes(self.training.sweep, steps) + self.trial_epochs

    @property
    def pass_tokens(self) -> int:
        """Tokens of one forward pass of training, at most."""
        training = self.training
        longest = min(self.card.longest_tokens, training.max_sequence_length)
        if training.micro_batch_size:
            return max(1, training.micro_batch_size * longest)
        rows = -(-training.effective_batch_size // self.processes)
        most = MOST_TOKENS["cpu" if self.on_cpu else "cuda"]
        return max(1, min(round(rows * self.mean_tokens), max(most, longest)))

    @property
    def cached(self) -> bool:
        """Whether the frozen layers' states are kept. That they fit into memory is taken for granted."""
        wishes = self.training.activation_cache
        wanted = wishes.mode is CacheMode.ENABLED or (wishes.mode is CacheMode.AUTO and self.trained_epochs > 1)
        return wanted and self.shapes.prefix > 0 and wishes.medium in CACHE_MEDIA

    @property
    def watched_rows(self) -> float:
        """Rows of the held-out curve."""
        if self.training.early_stopping is not None or self.training.sweep is not None:
            return min(STOPPING_ROWS, STOPPING_SHARE * self.rows)
        return min(WATCHED_ROWS, self.card.holdout_samples)

    @property
    def judged_rows(self) -> int:
        limit = self.evaluation.max_samples
        return self.card.holdout_samples if limit is None else min(self.card.holdout_samples, limit)


def forward(load: Load, parameters: float, tokens: float, layers: int, context: float = 0.0) -> float:
    """Operations of `tokens` through `layers` layers with these parameters; each token looks at `context` others."""
    seen = context or load.mean_tokens
    return 2.0 * parameters * tokens + 4.0 * load.shapes.hidden * seen * layers * tokens


def _apart(tokens: float, rows: float, shared: float, least: float = 0.0) -> float:
    """Tokens to compute where the shared beginning is computed once, if that saves at least so many tokens."""
    saved = shared * max(0.0, rows - 1)
    return tokens - saved if saved >= least else tokens


def caching(load: Load) -> Work:
    """Filling the cache with the rows and the watched rows, and the checks that come before it."""
    shape, card = load.shapes, load.card
    checks = forward(load, shape.body, CHECKED_TOKENS + 6 * load.mean_tokens, shape.layers) + 2.0 * shape.head * (
        load.mean_tokens
    )
    if not load.cached:
        return Work(read=checks)
    watched = load.watched_rows
    unique = _apart(card.tokens, load.rows, card.shared_tokens, SHARED_TOKENS)
    unique += _apart(watched * load.mean_tokens, watched, card.shared_tokens, SHARED_TOKENS)
    return Work(read=checks + forward(load, shape.prefix, unique, shape.layers - shape.trained_layers))


def epoch(load: Load) -> Work:
    """One pass over the training rows: tail forwards and backwards, the head where tokens are learnt."""
    shape, card = load.shapes, load.card
    tokens = float(card.tokens)
    if TAIL_SHARES_BEGINNING:
        passes = max(1.0, card.tokens / load.pass_tokens)
        tokens -= card.shared_tokens * max(0.0, load.rows - passes)
    back = 3.0 if shape.full else 2.0
    attention = 3.0 * (forward(load, 0, tokens, shape.trained_layers))
    tail = back * 2.0 * shape.tail * tokens + attention + 4.0 * shape.head * card.trained_tokens
    prefix = 0.0 if load.cached else forward(load, shape.prefix, tokens, shape.layers - shape.trained_layers)
    return Work(read=prefix, learn=tail, thin=6.0 * shape.adapter * tokens)


def watching(load: Load) -> Work:
    """The held-out loss, once."""
    shape, rows = load.shapes, load.watched_rows
    tokens = rows * load.mean_tokens
    read = forward(load, shape.tail, tokens, shape.trained_layers)
    read += 2.0 * shape.head * rows * load.card.trained_tokens / load.rows
    if not load.cached:
        read += forward(load, shape.prefix, tokens, shape.layers - shape.trained_layers)
    return Work(read=read, thin=2.0 * shape.adapter * tokens)


def training(load: Load) -> Work:
    """All epochs, those of trials too, shared by the processes; and the held-out curve."""
    watches = load.trained_epochs if load.epochs > 1 else min(WATCHES, load.steps_per_epoch)
    return (epoch(load).times(load.trained_epochs) + watching(load).times(watches)).times(1.0 / load.processes)


@dataclass(frozen=True, slots=True)
class Exam:
    """The held-out rows as one subject is asked: means per row."""

    rows: float
    prompt: float
    answer: float
    longest_answer: float

    @property
    def free_rows(self) -> float:
        return self.rows


def exam(load: Load) -> Exam:
    """What each subject is asked."""
    card = load.card
    count = max(1, card.holdout_samples)
    prompt = card.holdout_prompt_tokens / count
    longest = card.longest_answer_tokens
    most = min(load.evaluation.generation.max_tokens, longest + max(MARGIN_TOKENS, longest // 4))
    return Exam(load.judged_rows, prompt, (card.holdout_tokens / count) - prompt, max(1, most))


def _written(load: Load, rows: float, tokens: float, context: float) -> float:
    """Free answers of so many tokens each. On a CPU fewer rows are asked where answers are long."""
    shape = load.shapes
    most = exam(load).longest_answer
    asked = min(rows, FREE_TOKENS_ON_CPU / most) if load.on_cpu else rows
    return forward(load, shape.body + shape.head, asked * tokens, shape.layers, context)


def sitting(load: Load, *, candidate: bool) -> Work:
    """One subject's exam. What the frozen layers make of the prompts, the base model's exam leaves to the others."""
    shape, asked = load.shapes, exam(load)
    adapter = shape.adapter if candidate else 0
    prompts = _apart(asked.rows * asked.prompt, asked.rows, min(float(load.card.shared_tokens), asked.prompt))
    more, heads = asked.rows * asked.answer, asked.rows * asked.answer
    # A tuned model stops after its answer. The base model goes on talking; in a classification, until it is wrong.
    talk = min(asked.answer, asked.longest_answer) if candidate else asked.longest_answer
    if load.card.task is TaskKind.CLASSIFICATION:
        more = READ_LABELS * asked.rows * max(0.0, asked.answer - 1)
        heads, talk = asked.rows + more, talk if candidate else 1.0
    if load.card.task is TaskKind.TEXT:
        prompts = 0.0
    written = 0.0 if load.card.task is TaskKind.TEXT else _written(load, asked.rows, talk, asked.prompt)
    context = asked.prompt + asked.answer
    begun = (shape.tail, shape.trained_layers) if candidate else (shape.body, shape.layers)
    reading = forward(load, begun[0], prompts, begun[1], context) + 2.0 * shape.head * heads
    reading += forward(load, shape.body, more, shape.layers, context)
    guards = 2.0 * shape.body * load.card.guard_tokens
    return Work(read=reading + guards, thin=2.0 * adapter * (prompts + more), write=written)


def judging(load: Load) -> Work:
    """Base, serving version if there is one, and candidate."""
    tuned = sitting(load, candidate=True)
    return sitting(load, candidate=False) + tuned.times(2.0 if load.serving else 1.0)


def baselines(load: Load) -> Work:
    """The cheaper ways that ask the model: 24 examples shared by all prompts, or 8 of each row's own."""
    if load.card.task is TaskKind.TEXT:
        return Work()
    asked, shared = exam(load), float(load.card.shared_tokens)
    example = max(1.0, load.mean_tokens - shared)
    question = max(1.0, asked.prompt - shared)
    work = Work()
    if Baseline.PROMPT in load.evaluation.baselines:
        ahead = shared + PROMPT_EXAMPLES * example
        rows = _affordable(load, asked, question + ahead / max(1.0, asked.rows))
        work += _asked(load, rows, ahead + rows * question, ahead + question)
    if Baseline.RETRIEVAL in load.evaluation.baselines:
        own = question + RETRIEVED_EXAMPLES * example
        rows = _affordable(load, asked, own + shared / max(1.0, asked.rows))
        work += _asked(load, rows, shared + rows * own, shared + own)
    return work


def _affordable(load: Load, asked: Exam, own: float) -> float:
    rows = asked.rows
    if load.on_cpu:
        rows = min(rows, max(BASELINE_ROWS_AT_LEAST, BASELINE_TOKENS_ON_CPU / max(1.0, own)))
    return rows if load.card.task is TaskKind.CLASSIFICATION else min(rows, BASELINE_FREE_ROWS)


def _asked(load: Load, rows: float, tokens: float, context: float) -> Work:
    """Prompts of so many tokens together, and what is answered."""
    shape, asked = load.shapes, exam(load)
    read, written = forward(load, shape.body, tokens, shape.layers, context) + 2.0 * shape.head * rows, 0.0
    if load.card.task is TaskKind.CLASSIFICATION:
        pairs = READ_LABELS * rows * max(0.0, asked.answer - 1)
        read += forward(load, shape.body + shape.head, pairs, shape.layers, context)
    else:
        written = _written(load, rows, asked.longest_answer, context)
    return Work(read=read, write=written)
