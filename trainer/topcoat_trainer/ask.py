"""One question to a sealed version or to a base model: `python -m topcoat_trainer.ask [--request FILE]`.

JSON in (standard input by default), JSON out; with `--lines`, one line each until the input ends, the model loaded
once. Every byte of a version is compared with its seal before anything is loaded. Never prints a question in an error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from topcoat.api.report import TaskKind, VersionManifest
from topcoat.api.section import Section
from topcoat_trainer import model_file, seal
from topcoat_trainer.data.problem import RowError
from topcoat_trainer.errors import BaseModelError, TrainerError, UserInputError
from topcoat_trainer.example import Message
from topcoat_trainer.model_file import ModelFacts

if TYPE_CHECKING:
    from topcoat_trainer.model import BaseModel
    from topcoat_trainer.render import Renderer

DEFAULT_TOKENS = 256
UNBOUNDED_CONTEXT_TOKENS = 1 << 20


class Turn(Section):
    """One message of a conversation."""

    role: str
    content: str


class Request(Section):
    """What is asked of whom. Either `text` or `messages`; with a version, what it records fills in the rest."""

    text: str | None = None
    messages: tuple[Turn, ...] = ()
    version: str | None = None
    """Folder of a sealed version."""
    digest: str | None = None
    """SHA-256 of its manifest.json, as recorded when it was sealed."""
    base: bool = False
    """Ask the base model, with free text, even if a version is named."""
    base_model: str | None = None
    """Folder of the base model; by default the one that the version's manifest names."""
    base_model_digest: str | None = None
    max_tokens: int = pydantic.Field(default=DEFAULT_TOKENS, ge=1, le=8192)
    task: TaskKind | None = None
    labels: tuple[str, ...] = ()
    system_prompt: str | None = None
    """Instead of the data set's own; empty: none."""
    raw: bool = False
    """The text is the prompt itself, without a chat template."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request with all that its version records filled in."""

    messages: tuple[Message, ...]
    task: TaskKind
    labels: tuple[str, ...]
    raw: bool
    max_tokens: int


@dataclass(slots=True)
class Loaded:
    """The base model in this process, and whose weights it computes with."""

    base: BaseModel
    folder: Path | None
    weights: contextlib.ExitStack


class Oracle:
    """Answers requests; what was loaded for one serves the next."""

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    def answer(self, request: Request) -> dict[str, Any]:
        """The answer, and for a classification how likely each label is."""
        started = time.perf_counter()
        folder = Path(request.version) if request.version else None
        manifest = seal.verify(folder, expected_digest=request.digest) if folder else None
        question = _question(request, folder, manifest)
        facts = model_file.inspect(_base_path(request, manifest))
        _check_base(facts, request, manifest)
        base = self._computing(facts, None if request.base else folder)
        loaded = time.perf_counter()
        said = _answered(base, question, free=request.base)
        return {
            **said,
            "version": manifest.version if manifest and not request.base else None,
            "digest": seal.digest(folder) if folder and not request.base else facts.digest,
            "seconds": {"load": round(loaded - started, 3), "answer": round(time.perf_counter() - loaded, 3)},
        }

    def _computing(self, facts: ModelFacts, folder: Path | None) -> BaseModel:
        """The base model with the version's weights on it, or bare."""
        from topcoat_trainer import devices, model

        if self._loaded is None or self._loaded.base.digest != facts.digest:
            self.close()
            devices.use_threads()
            device = devices.choose()
            base = model.load(facts.path, device.name, device.dtype, facts=facts)
            self._loaded = Loaded(base, None, contextlib.ExitStack())
        if self._loaded.folder != folder:
            from topcoat_trainer import adapter

            self._loaded.weights.close()
            self._loaded.folder = None
            self._loaded.weights.enter_context(adapter.using(self._loaded.base, folder))
            self._loaded.folder = folder
        return self._loaded.base

    def close(self) -> None:
        """Takes a version's weights off the base model."""
        if self._loaded is not None:
            self._loaded.weights.close()
            self._loaded = None


def _base_path(request: Request, manifest: VersionManifest | None) -> Path:
    path = request.base_model or (manifest.base_model.path if manifest else None)
    if not path:
        raise UserInputError("neither a version nor a base model is named", hint="give version or baseModel")
    return Path(path)


def _check_base(facts: ModelFacts, request: Request, manifest: VersionManifest | None) -> None:
    """The base model is the one that the version was trained on, byte for byte."""
    expected = request.base_model_digest or (manifest.base_model.digest if manifest else None)
    if expected and expected != facts.digest:
        raise BaseModelError(
            f"the base model changed: its digest is {facts.digest}, expected was {expected}",
            where=str(facts.path),
            hint="restore the base model's folder, or train on the new one",
        )


def _question(request: Request, folder: Path | None, manifest: VersionManifest | None) -> Question:
    if (request.text is None) == (not request.messages):
        raise UserInputError("a request needs either text or messages", hint="give exactly one of them")
    messages = tuple(Message(turn.role, turn.content) for turn in request.messages)
    if request.text is not None:
        messages = (Message("user", request.text),)
    system = request.system_prompt
    if system is None and manifest is not None:
        system = manifest.system_prompt
    if system and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    task = request.task or (manifest.task if manifest else TaskKind.GENERATION)
    labels = request.labels or tuple(manifest.labels if manifest else ())
    raw = request.raw or task is TaskKind.TEXT or (folder is not None and seal.learnt_raw_prompts(folder))
    return Question(messages, task, labels, raw, request.max_tokens)


def _answered(base: BaseModel, question: Question, *, free: bool) -> dict[str, Any]:
    """A choice among the labels with every label's probability, or text."""
    from topcoat_trainer.evaluate import choice, generate, prompt
    from topcoat_trainer.render import Renderer

    context = base.facts.max_positions or UNBOUNDED_CONTEXT_TOKENS
    renderer = Renderer(base.tokenizer, context)
    ids = _prompt(renderer, question)
    if len(ids) >= context:
        raise UserInputError(f"the question has {len(ids)} tokens, the model takes {context}", hint="ask less at once")
    plan = prompt.plan_for_one(base.model)
    said: dict[str, Any] = {"probabilities": None, "promptTokens": len(ids)}
    if question.task is TaskKind.CLASSIFICATION and question.labels and not free and not question.raw:
        labels = choice.Labels(tuple(tuple(renderer.completion(label)) for label in question.labels), every=True)
        found = choice.choose(base.model, [ids], labels, plan)[0]
        shares = {question.labels[place]: round(share, 6) for place, share in found.probabilities().items()}
        ordered = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
        return {**said, "answer": question.labels[found.label], "probabilities": ordered}
    ends = generate.end_tokens(base.model, base.tokenizer, *renderer.end_ids)
    stop = generate.Stop(ends, min(question.max_tokens, context - len(ids)))
    answer = generate.generate(base.model, [ids], stop, plan)[0]
    return {**said, "answer": base.tokenizer.decode(answer, skip_special_tokens=True), "tokens": len(answer)}


def _prompt(renderer: Renderer, question: Question) -> list[int]:
    """Tokens of the question; one that could pass for the template's own marks is refused, as in training."""
    whole = (*question.messages, Message("assistant", "", trained=True))
    try:
        renderer.refuse_control_tokens(whole)
        return renderer.prompt(question.messages, raw_prompt=question.raw)
    except RowError as error:
        raise UserInputError(
            error.message, where="request", hint="ask without control tokens, with roles in turn"
        ) from None


def parsed(text: str) -> Request:
    """A request from its JSON; errors name the field and never quote the value."""
    try:
        return Request.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "request"
        raise UserInputError(
            f"{field}: {first['msg']}", where="request", hint="see topcoat_trainer.ask.Request"
        ) from None


def _responses(oracle: Oracle, texts: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for text in texts:
        try:
            yield 0, oracle.answer(parsed(text))
        except TrainerError as error:
            own = {"message": error.message, "where": error.where, "hint": error.hint}
            yield error.exit_code.value, {"error": own}


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers each request with one line of JSON; the exit code is the last error's, or 0."""
    parser = argparse.ArgumentParser(prog="topcoat_trainer.ask", description="Ask a sealed version or a base model.")
    parser.add_argument("--request", default="-", help="file with the request as JSON, or - for standard input")
    parser.add_argument(
        "--lines", action="store_true", help="one request and one answer per line, until the input ends"
    )
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    code = 0
    with contextlib.ExitStack() as stack:
        source = (
            sys.stdin if options.request == "-" else stack.enter_context(Path(options.request).open(encoding="utf-8"))
        )
        texts = (line for line in source if line.strip()) if options.lines else iter([source.read()])
        oracle = Oracle()
        stack.callback(oracle.close)
        for found, response in _responses(oracle, texts):
            code = found or code
            sys.stdout.write(json.dumps(response, ensure_ascii=False) + "\n")
            sys.stdout.flush()
            if found:
                sys.stderr.write(_line(response["error"]))
    return code


def _line(error: dict[str, str]) -> str:
    place = f"{error['where']}: " if error["where"] else ""
    return f"{place}{error['message']}. To fix it: {error['hint']}\n"


if __name__ == "__main__":
    sys.exit(main())
