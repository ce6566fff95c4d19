"""`topcoat init`: a FineTuneJob for a data file, with comments, checked before it is written. Runs nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import pydantic
import typer

from topcoat.api import field, finetunejob
from topcoat.cli import doctor, terminal, trainer_process

DEFAULT_MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
URI_LETTERS = re.compile(r"[A-Za-z0-9._~/@:+ -]+")
EXTRA_ENDINGS = {".gz", ".jsonl", ".json", ".csv", ".tsv", ".parquet"}
ModelOption = Annotated[
    str,
    typer.Option("--base-model", metavar="URI", help="Model to tune: a folder, or hf://org/name, pvc://claim/path."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the job; from the file's name without it.", show_default=False)
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="Manifest to write; - prints it.")]
EvaluationOption = Annotated[
    Path | None,
    typer.Option("--evaluation", metavar="FILE", help="Your own held-out rows, if you have them.", show_default=False),
]


def init(  # noqa: PLR0913 - each is an option that a person gives
    file: doctor.DataFile,
    *,
    name: NameOption = None,
    base_model: ModelOption = DEFAULT_MODEL,
    evaluation: EvaluationOption = None,
    out: OutOption = Path("job.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Look at a data file and write the FineTuneJob that tunes a model on it."""
    printed = str(out) == "-"
    if not printed and out.exists() and not force:
        terminal.fail("the file is there already", where=str(out), hint="name another with --out, or use --force")
    found = _examined(file)
    if evaluation is not None:
        _examined(evaluation)
    folder = Path.cwd() if printed else out.resolve().parent
    uris = {"model": _model_uri(base_model, folder), "train": _file_uri(file, folder)}
    if evaluation is not None:
        uris["evaluation"] = _file_uri(evaluation, folder)
    text = manifest(_name(name, file), uris, found)
    _check(text)
    if printed:
        terminal.say(text.rstrip())
        return
    if not folder.is_dir():
        terminal.fail("the folder is not there", where=str(folder), hint="make it, or name another file with --out")
    out.write_text(text, encoding="utf-8")
    kinds = dict.fromkeys([found["format"], found["task"]])
    terminal.say(f"{found['usable']:,} rows, {', '.join(kinds)}. Wrote {out}.")
    terminal.next_step(f"topcoat run -f {shlex.quote(str(out))} --local --dry-run", "says what it would take")


def _examined(file: Path) -> doctor.Report:
    """The doctor's report; a file with bad rows is refused, as the run would refuse it."""
    report = doctor.examine(file, [])
    if report["exitCode"] or "error" in report:
        failure = trainer_process.failure(report["exitCode"], report, "")
        failure.hint = (
            f"{failure.hint}; `topcoat doctor data {file}` lists all bad rows" if report.get("rows") else failure.hint
        )
        raise failure
    if not report["usable"]:
        terminal.fail("the file has no rows", where=str(file), hint="name a file with rows to learn from")
    return report


def _name(wished: str | None, file: Path) -> str:
    """A DNS label: the wish as it is, or the file's name turned into one."""
    if wished is not None:
        if not re.fullmatch(field.NAME_PATTERN, wished) or len(wished) > 63:
            terminal.fail(f"{wished!r} is no name", hint="use at most 63 lower case letters, digits and '-'")
        return wished
    stem = file.name
    while Path(stem).suffix.lower() in EXTRA_ENDINGS:
        stem = Path(stem).stem
    made = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-")
    return made or "my-model"


def _model_uri(wished: str, folder: Path) -> str:
    return wished if "://" in wished else _file_uri(Path(wished), folder)


def _file_uri(path: Path, folder: Path) -> str:
    """`file://` and the way from the manifest, or the whole path where that way would climb."""
    if not path.exists():
        terminal.fail("there is no such file or folder", where=str(path), hint="check the path")
    relative = os.path.relpath(path.resolve(), folder)
    shown = str(path.resolve()) if relative.startswith("..") else relative
    if not URI_LETTERS.fullmatch(shown):
        terminal.fail(
            "the path has letters that an address may not have",
            where=shown,
            hint="rename it: letters A to Z, digits, spaces and . _ ~ / @ : + - are fine",
        )
    return f"file://{shown}"


def manifest(name: str, uris: dict[str, str], found: doctor.Report) -> str:
    """The manifest's text. Fields that are as they are by default stand there as comments, ready to be changed."""
    wish = found["dataset"]
    return "\n".join(
        [
            f"# Tunes the last layers of a model on {found['usable']:,} rows ({found['task']}).",
            "# The result serves only if it proves better on rows that it has never seen.",
            "# All fields: `topcoat explain ftj.spec`. As data changes, run it again: you get the next version.",
            "apiVersion: topcoat.dev/v1alpha1",
            "kind: FineTuneJob",
            "metadata:",
            f"  name: {name}",
            "spec:",
            "  baseModel:",
            f"    uri: {_scalar(uris['model'])}",
            "",
            "  dataset:",
            "    train:",
            f"      uri: {_scalar(uris['train'])}",
            *_evaluation(uris.get("evaluation")),
            f"    format: {wish['format']}",
            *_columns(wish.get("columns", {})),
            *_holdout(wish.get("holdout", {}), own="evaluation" in uris),
            "",
            "  method:",
            "    type: LoRA",
            "    layers: Auto  # or the last n layers, such as 8, or All",
            "",
            "  training:",
            "    epochs: 3",
            '    # learningRate: "0.0002"  # decimal numbers are strings; without it the method chooses',
            "    # maxSequenceLength: 512  # tokens of the longest row; shorter is faster",
            "",
            *_evaluation_of(found["task"]),
            "",
            "  promotion:",
            "    policy: Automatic  # Manual: a winner waits for a person; Never: versions are only kept",
            "    # requirements:     # empty: better than the base model and than what serves, with 95 % confidence",
            f"    #   - metric: {_metrics(found['task'])[0]}",
            '    #     minImprovement: "0.05"',
            "",
        ]
    )


def _scalar(text: str) -> str:
    """A YAML scalar; JSON's spelling is YAML's, too."""
    return text if re.fullmatch(r"[a-z]+://[A-Za-z0-9._/-]+", text) else json.dumps(text, ensure_ascii=False)


def _evaluation(uri: str | None) -> list[str]:
    if uri is None:
        return []
    return ["    evaluation:  # these rows are never learnt from", f"      uri: {_scalar(uri)}"]


def _columns(columns: dict[str, str]) -> list[str]:
    return ["    columns:", *(f"      {key}: {json.dumps(name)}" for key, name in columns.items())] if columns else []


def _holdout(holdout: dict[str, Any], *, own: bool) -> list[str]:
    if own and "groupBy" not in holdout:
        return []
    lines = ["    holdout:  # rows that are set aside to judge the result; never learnt from"]
    if not own:
        lines.append('      fraction: "0.1"')
        lines.append(f"      minSamples: {holdout.get('minSamples', 50)}")
    if "groupBy" in holdout:
        lines.append(f"      groupBy: {json.dumps(holdout['groupBy'])}  # equal values stay on one side")
    return lines


def _metrics(task: str) -> list[str]:
    return {
        "Classification": ["Accuracy", "F1", "Loss"],
        "JSON": ["ExactMatch", "JSONValid", "Loss"],
        "Text": ["Loss", "Perplexity"],
    }.get(task, ["Loss", "RougeL"])


def _evaluation_of(task: str) -> list[str]:
    names = _metrics(task)
    first = f"      - name: {names[0]}  # the first measure is the one in `topcoat get`"
    return ["  evaluation:", "    metrics:", first, *(f"      - name: {name}" for name in names[1:])]


def _check(text: str) -> None:
    """What we write must be what `run` accepts."""
    import yaml

    try:
        finetunejob.FineTuneJob.read(yaml.safe_load(text))
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        terminal.fail(
            f"the manifest would not be valid: {first['msg']}", where=place, hint="choose another name or path"
        )
