"""The prepare stage: `python -m topcoat_trainer.prepare --run-file F`. Resolves, checks, counts, estimates; torch-free.

Writes prepared.json and termination.json into the run's folder. Says no before anything expensive is asked for; with
unchanged inputs it is done in a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from topcoat.api.dataset import Dataset
from topcoat.api.report import BaseModelCard, DataCard, Estimate, PrepareReport, Termination
from topcoat.api.run import RunFile
from topcoat_trainer import depth, entry, estimate, files, hub, last_word, model_file, render, source
from topcoat_trainer.data import dataset
from topcoat_trainer.digest import DigestBook, combined
from topcoat_trainer.errors import OutOfMemory
from topcoat_trainer.loop.stop import Stop

PREPARED = "prepared.json"
# Part of the key of remembered data cards: raised whenever this code would find something else in the same files.
FINDINGS_FORMAT = "2"
Found = TypeVar("Found", DataCard, Estimate)


def main(arguments: list[str] | None = None) -> int:
    """Prepares one run; the exit code is one of topcoat.api.exits."""
    return entry.carry_out(entry.parser("prepare", "Check and count a run's inputs.").parse_args(arguments), attempt)


def attempt(run: RunFile, stop: Stop) -> Termination:
    """Prepares, and leaves what was found, or why not, in the run's folder, without any row's text."""
    folder = Path(run.paths.run)

    def work() -> Termination:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            report = prepare(run)
        except MemoryError as error:
            raise OutOfMemory("memory ran out while the data was checked", hint="split the data file") from error
        files.write_json(folder / PREPARED, report.as_json())
        return last_word.prepared(report)

    word = entry.said(work, stop).model_copy(update={"attempt": run.attempt})
    entry.keep(folder, word)
    return word


def prepare(run: RunFile) -> PrepareReport:
    """All that can be known of a run before a weight is loaded."""
    started = time.monotonic()
    where = source.places(run)
    book = DigestBook(where.cache / "digests.json")
    folder = source.model(run.base_model, where)
    facts = model_file.inspect(folder.path, book.sha256)
    found = data_files(run.dataset, where)
    check_size(found, run.max_dataset_bytes)
    card = _data_card(run, facts, found, book)
    book.keep()
    return PrepareReport(
        base_model=model_card(folder, facts),
        dataset=card,
        train_path=str(found.train.path),
        evaluation_path=str(found.evaluation.path) if found.evaluation else None,
        estimate=_estimate(run, facts, card),
        seconds=round(time.monotonic() - started, 3),
    )


def data_files(spec: Dataset, where: source.Places) -> dataset.DataFiles:
    """The files of a job's data set, found and checked to be plain files."""
    return dataset.DataFiles(
        train=source.data(spec.train, where),
        evaluation=source.data(spec.evaluation, where) if spec.evaluation else None,
        guards={guard.name: source.data(guard.source, where) for guard in spec.guards},
    )


def check_size(found: dataset.DataFiles, limit: int | None) -> None:
    """Refuses a data set above the profile's limit before a byte of it is read."""
    if limit is None:
        return
    given = [file for file in (found.train, found.evaluation, *found.guards.values()) if file is not None]
    size = sum(file.path.stat().st_size for file in given if file.path.is_file())
    if size > limit:
        several = f" in {len(given)} files" if len(given) > 1 else ""
        raise hub.too_large(found.train.name, f"the data set has {size:,} bytes{several}", limit)


def model_card(folder: source.ModelFolder, facts: model_file.ModelFacts) -> BaseModelCard:
    """What is known of the base model."""
    return BaseModelCard(
        id=folder.id,
        uri=folder.uri,
        path=str(facts.path),
        revision=folder.revision or facts.digest,
        digest=facts.digest,
        config_digest=facts.config_digest,
        architecture=facts.architecture,
        layers=facts.layers,
        hidden_size=facts.hidden_size,
        parameters=facts.parameters,
        bytes=facts.parameter_bytes,
    )


def _data_card(run: RunFile, facts: model_file.ModelFacts, found: dataset.DataFiles, book: DigestBook) -> DataCard:
    """The data card: remembered if neither the files nor what is asked of them changed."""
    digest = _data_digest(found, book)

    def look() -> DataCard:
        made = dataset.assemble(found, run.dataset, renderer(run, facts))
        return made.card.model_copy(update={"digest": digest})

    return _remembered(run, DataCard, _findings(run, facts, digest), look)


def _estimate(run: RunFile, facts: model_file.ModelFacts, card: DataCard) -> Estimate:
    """The estimate: remembered too, since measuring this machine takes longer than all the rest."""
    asked = {
        **_findings(run, facts, card.digest),
        "method": run.method.as_json(),
        "training": run.training.as_json(),
        "evaluation": run.evaluation.as_json(),
        "serving": run.serving is not None,
        "checkpoints": run.lifecycle.checkpoint.keep,
        "place": [run.processes, run.gpus, estimate.GPU.exists(), os.cpu_count()],
    }

    def look() -> Estimate:
        found = depth.expected(facts.layers, card.train_samples, run.method, run.training)
        made = estimate.estimate(facts, card, run)
        return made.model_copy(update={"layer_candidates": [edge.trained_layers for edge in found]})

    return _remembered(run, Estimate, asked, look)


def _remembered(run: RunFile, kind: type[Found], asked: dict[str, Any], look: Callable[[], Found]) -> Found:
    """What was found when the same was asked before; otherwise looks, and notes it in the cache."""
    key = hashlib.sha256(json.dumps([kind.__name__, asked], sort_keys=True).encode()).hexdigest()[:32]
    note = Path(run.paths.cache) / "prepared" / f"{key}.json"
    if note.is_file():
        with contextlib.suppress(pydantic.ValidationError, OSError):
            return kind.model_validate_json(note.read_bytes())
    made = look()
    note.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(note, made.as_json())
    return made


def renderer(run: RunFile, facts: model_file.ModelFacts) -> render.Renderer:
    """The renderer of a run: the model's positions bound the rows' length too."""
    limit = render.limit(run.training.max_sequence_length, facts.max_positions)
    tokenizer = render.load_tokenizer(facts.path)
    return render.Renderer(tokenizer, limit, run.training.loss_on, run.dataset.validation.on_too_long)


def _data_digest(found: dataset.DataFiles, book: DigestBook) -> str:
    """One digest over all data files, by their roles."""
    for file in (found.train, found.evaluation, *found.guards.values()):
        if file is not None:
            file.open().close()  # a missing file, a folder or a link is said in words before it is read
    roles = [("train", book.sha256(found.train.path))]
    if found.evaluation is not None:
        roles.append(("evaluation", book.sha256(found.evaluation.path)))
    roles += [(f"guard {name}", book.sha256(file.path)) for name, file in sorted(found.guards.items())]
    return combined(roles)


def _findings(run: RunFile, facts: model_file.ModelFacts, digest: str) -> dict[str, Any]:
    """All that the data card depends on. The addresses count: a file's ending says how it is read."""
    return {
        "format": FINDINGS_FORMAT,
        "data": digest,
        "model": facts.digest,
        "dataset": run.dataset.as_json(),
        "length": run.training.max_sequence_length,
        "lossOn": run.training.loss_on.value,
    }


if __name__ == "__main__":
    sys.exit(main())
